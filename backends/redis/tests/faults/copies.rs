//! Copies that cannot be made: the original stays.

use std::time::Duration;

use event_conformance::{
    Act, CaseResult, Failure, Stage, done, ensure, ensure_eq, faults::Copy, publish,
};
use event_core::{ErrorKind, Reason, RetryPolicy, Settled, Settlement};

use crate::stage::{Admin, holds, key, on_redis};

/// Long enough to see a copy where it waits.
const WAIT: Duration = Duration::from_millis(1_000);

/// The kinds of the keys that a copy goes to.
fn kinds(copy: Copy) -> &'static [&'static str] {
    match copy {
        Copy::Retry => &["waiting", "delayed"],
        Copy::DeadLetter => &["dead"],
    }
}

/// How many there are.
fn count(copy: Copy, at: &Stage) -> String {
    match copy {
        Copy::Retry => format!("ZCARD {}", key(at, "delayed", "billing_order")),
        Copy::DeadLetter => format!("XLEN {}", key(at, "dead", "billing_order")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_the_answer_to_a_retrys_copy_is_lost() -> CaseResult {
    answer_is_lost("fault_22_retry", Copy::Retry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_the_answer_to_a_dead_letters_copy_is_lost() -> CaseResult {
    answer_is_lost("fault_22_dead", Copy::DeadLetter).await
}

async fn answer_is_lost(name: &str, copy: Copy) -> CaseResult {
    on_redis(name, async |at| {
        let (mut consumer, held) = holds(at, 1).await?;
        let admin = Admin::of(at).await?;
        at.proxy.silence_replies(true);
        let settling = consumer.settle_all(vec![copy.of(&held[0], WAIT)]);
        let cutting = async {
            let count = count(copy, at);
            let stored = || async { Ok(admin.ask::<u64>(&count).await? == 1) };
            let stored = at.cx.until("the copy to be stored", stored).await;
            at.proxy.cut();
            at.proxy.silence_replies(false);
            stored
        };
        let (settled, cut) = tokio::join!(settling, cutting);
        cut?;
        // Whatever it heard, there is one copy, and the original is gone with it.
        ensure!(settled.len() == 1, "settled as {settled:?}");
        match copy {
            Copy::Retry => {
                let again = consumer.next().await?;
                let (id, first) = (again.message().id(), held[0].message().id());
                ensure_eq!(id, first, "what came again");
                ensure_eq!(consumer.ack(&again).await?, Settled::Done, "settled");
            }
            Copy::DeadLetter => {
                let count: u64 = admin.ask(&count(copy, at)).await?;
                ensure_eq!(count, 1, "dead letters");
            }
        }
        consumer.gets_nothing_for(at.cx.beyond_the_lease()).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_a_key_for_retries_is_something_else() -> CaseResult {
    target_is_unusable("fault_30_retry", Copy::Retry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_the_key_for_dead_letters_is_something_else() -> CaseResult {
    target_is_unusable("fault_30_dead", Copy::DeadLetter).await
}

async fn target_is_unusable(name: &str, copy: Copy) -> CaseResult {
    on_redis(name, async |at| {
        let (mut consumer, held) = holds(at, 3).await?;
        let admin = Admin::of(at).await?;
        for kind in kinds(copy) {
            let key = key(at, kind, "billing_order");
            admin.tell(&format!("SET {key} another's")).await?;
            let settlements = [
                Settlement::Ack(held[0].tag()),
                copy.of(&held[1], WAIT),
                Settlement::Release(held[2].tag()),
            ];
            let settled = consumer.settle_all(settlements.into()).await;
            let Err(error) = &settled[1] else {
                return Err(Failure::new(format!("settled as {:?}", settled[1])));
            };
            ensure_eq!(error.kind(), ErrorKind::Mismatch, "kind of: {error}");
            ensure!(error.is_retryable(), "it may be settled again: {error}");
            // Its neighbours are settled all the same, the first time.
            let others = [&settled[0], &settled[2]].map(|settled| settled.as_ref().ok());
            match kind == &kinds(copy)[0] {
                true => ensure_eq!(others, [Some(&Settled::Done); 2], "the others"),
                false => ensure_eq!(others, [Some(&Settled::Lost); 2], "the others"),
            }
            // What can be read is read, however the key is.
            if kind == &kinds(copy)[0] {
                let released = consumer.next().await?;
                let id = released.message().id();
                ensure_eq!(id, held[2].message().id(), "what was released");
                ensure_eq!(consumer.ack(&released).await?, Settled::Done, "settled");
            }
            admin.tell(&format!("DEL {key}")).await?;
        }
        // The original is where it was.
        let settled = consumer.settle(copy.of(&held[1], WAIT)).await?;
        ensure_eq!(settled, Settled::Done, "the copy when the key is free");
        let count: u64 = admin.ask(&count(copy, at)).await?;
        ensure_eq!(count, 1, "copies");
        if let Copy::Retry = copy {
            let again = consumer.next().await?;
            let id = again.message().id();
            ensure_eq!(id, held[1].message().id(), "the retry");
            consumer.ack(&again).await?;
        }
        consumer.gets_nothing().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_a_service_tries_a_copy_again_until_it_is_stored() -> CaseResult {
    on_redis("fault_22_again", async |at| {
        let desk = at.direct.desk().doing(|seen| match seen.number() {
            3 => Act::fail("the bank is closed"),
            _ => Act::DONE,
        });
        let queue = at.direct.queue("billing_order", &desk);
        let queue = queue.retry(RetryPolicy::never());
        let dead = key(at, "dead", "billing_order");
        let admin = Admin::of(at).await?;
        admin.tell(&format!("SET {dead} another's")).await?;
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        publish(at.direct.bus(), 1..=10).await?;
        // The others have their turn, and this one comes back once its copy was tried for long enough.
        let twice = |seen: &[event_conformance::Seen]| {
            let failed = seen.iter().filter(|seen| seen.number() == 3);
            done(seen).len() == 10 && failed.count() >= 2
        };
        let seen = desk.until("the others, and it once more", twice).await?;
        let unused = seen.iter().all(|seen| seen.meta.attempt == 1);
        ensure!(unused, "an attempt was used up");
        admin.tell(&format!("DEL {dead}")).await?;
        let letters = at.direct.dead_letters("billing_order", 1).await?;
        ensure_eq!(letters.len(), 1, "dead letters");
        ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
        let stream = format!("XLEN {}", key(at, "stream", "billing_order"));
        let empty = || async { Ok(admin.ask::<u64>(&stream).await? == 0) };
        at.direct.until("nothing to be left", empty).await
    })
    .await
}
