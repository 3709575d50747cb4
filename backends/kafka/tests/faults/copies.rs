//! Copies that cannot be made: the original stays.

use std::time::Duration;

use event_conformance::{
    Act, CaseResult, Failure, Stage, done, ensure, ensure_eq, faults::Copy, publish,
};
use event_core::{ErrorKind, Reason, RetryPolicy, Settled, Settlement};

use crate::stage::{Admin, holds, on_kafka};

/// Long enough to see a copy where it waits.
const WAIT: Duration = Duration::from_millis(1_600);
/// Less than anything that a topic takes.
const NOTHING: &str = "10";

/// The topic that a copy goes to.
fn topic(copy: Copy, at: &Stage) -> String {
    let queue = at.name("billing_order");
    match copy {
        Copy::Retry => format!("{queue}.retry.1600"),
        Copy::DeadLetter => format!("{queue}.dead"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_a_retrys_copy_is_refused() -> CaseResult {
    target_is_unusable("fault_22_retry", Copy::Retry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_a_dead_letters_copy_is_refused() -> CaseResult {
    target_is_unusable("fault_22_dead", Copy::DeadLetter).await
}

async fn target_is_unusable(name: &str, copy: Copy) -> CaseResult {
    on_kafka(name, async |at| {
        let (mut consumer, held) = holds(at, 4).await?;
        let (admin, topic) = (Admin::of(at)?, topic(copy, at));
        // So that the topic is there.
        let settled = consumer.settle(copy.of(&held[3], WAIT)).await?;
        ensure_eq!(settled, Settled::Done, "a copy");
        admin.set(&topic, "max.message.bytes", NOTHING).await?;
        let before = admin.stored(&topic).await?;
        let settlements = [
            Settlement::Ack(held[0].tag()),
            copy.of(&held[1], WAIT),
            Settlement::Release(held[2].tag()),
        ];
        let settled = consumer.settle_all(settlements.into()).await;
        let Err(error) = &settled[1] else {
            return Err(Failure::new(format!("settled as {:?}", settled[1])));
        };
        ensure_eq!(error.kind(), ErrorKind::TooLarge, "kind of: {error}");
        // Its neighbours are settled all the same.
        let others = [&settled[0], &settled[2]].map(|settled| settled.as_ref().ok());
        ensure_eq!(others, [Some(&Settled::Done); 2], "the others");
        ensure_eq!(admin.stored(&topic).await?, before, "copies");
        admin.set(&topic, "max.message.bytes", "1000000").await?;

        // The original is where it was.
        let again = || async {
            match consumer
                .settle_all(vec![copy.of(&held[1], WAIT)])
                .await
                .pop()
            {
                Some(Ok(settled)) => {
                    ensure_eq!(settled, Settled::Done, "the copy when the topic takes it");
                    Ok(true)
                }
                // A setting takes a moment.
                Some(Err(error)) if error.kind() == ErrorKind::TooLarge => Ok(false),
                other => Err(Failure::new(format!("settled as {other:?}"))),
            }
        };
        at.cx.until("the copy to be stored", again).await?;
        ensure_eq!(admin.stored(&topic).await?, before + 1, "copies");
        let mut expected = vec![held[2].message().id().clone()];
        if let Copy::Retry = copy {
            expected.extend([1, 3].map(|nth: usize| held[nth].message().id().clone()));
        }
        let mut again = Vec::new();
        for delivery in consumer.take(expected.len()).await? {
            ensure_eq!(consumer.ack(&delivery).await?, Settled::Done, "settled");
            again.push(delivery.message().id().clone());
        }
        again.sort_unstable_by_key(ToString::to_string);
        expected.sort_unstable_by_key(ToString::to_string);
        ensure_eq!(again, expected, "what came again");
        consumer.gets_nothing_for(2 * WAIT).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_a_service_tries_a_copy_again_until_it_is_stored() -> CaseResult {
    on_kafka("fault_22_again", async |at| {
        let desk = at.direct.desk().doing(|seen| match seen.number() {
            0 | 3 => Act::fail("the bank is closed"),
            _ => Act::DONE,
        });
        let queue = at.direct.queue("billing_order", &desk);
        let queue = queue.retry(RetryPolicy::never());
        let (admin, dead) = (Admin::of(at)?, topic(Copy::DeadLetter, at));
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        // So that the topic is there.
        publish(at.direct.bus(), 0..=0).await?;
        at.direct.dead_letters("billing_order", 1).await?;
        admin.set(&dead, "max.message.bytes", NOTHING).await?;
        let ledger = publish(at.direct.bus(), 1..=10).await?;
        // The others have their turn, and this one comes back once its copy was tried for long enough.
        let twice = |seen: &[event_conformance::Seen]| {
            let failed = seen.iter().filter(|seen| seen.number() == 3);
            done(seen).len() == 11 && failed.count() >= 2
        };
        let seen = desk.until("the others, and it once more", twice).await?;
        let unused = seen.iter().all(|seen| seen.meta.attempt == 1);
        ensure!(unused, "an attempt was used up");
        admin.set(&dead, "max.message.bytes", "1000000").await?;
        let letters = at.direct.dead_letters("billing_order", 2).await?;
        ensure_eq!(letters.len(), 2, "dead letters");
        for letter in &letters {
            ensure_eq!(letter.reason(), Some(Reason::Exhausted), "reason");
        }
        ledger.balance(&desk.seen()).expect_no_loss()?;
        drop(_running);
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_the_topic_for_retries_is_gone() -> CaseResult {
    // More were in it than are when it is looked at again, which shows that it is another.
    target_is_gone("fault_30_retry", Copy::Retry, 5).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_the_topic_for_retries_is_gone_and_soon_as_long_as_before() -> CaseResult {
    target_is_gone("fault_30_long", Copy::Retry, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_the_topic_for_dead_letters_is_gone() -> CaseResult {
    target_is_gone("fault_30_dead", Copy::DeadLetter, 1).await
}

/// The topic is deleted when so many copies were made.
async fn target_is_gone(name: &str, copy: Copy, before: u64) -> CaseResult {
    on_kafka(name, async |at| {
        let (mut consumer, mut held) = holds(at, before + 1).await?;
        let (admin, topic) = (Admin::of(at)?, topic(copy, at));
        let Some(last) = held.pop() else {
            return Err(Failure::new("it holds nothing"));
        };
        let copies = held.iter().map(|held| copy.of(held, WAIT)).collect();
        for settled in consumer.settle_all(copies).await {
            ensure_eq!(settled?, Settled::Done, "a copy");
        }
        if let Copy::Retry = copy {
            for again in consumer.take(held.len()).await? {
                consumer.ack(&again).await?;
            }
        }
        let kept = at.direct.bus().dead_letters("billing_order").await?;
        let listed = kept.list(10).await?;
        admin.delete_topic_for_good(at, &topic).await?;
        // It is made anew, and until then the settlement says what is missing and changes nothing.
        let again = || async {
            match consumer.settle_all(vec![copy.of(&last, WAIT)]).await.pop() {
                Some(Ok(settled)) => {
                    ensure_eq!(settled, Settled::Done, "the copy");
                    Ok(true)
                }
                Some(Err(error)) if error.is_retryable() => Ok(false),
                other => Err(Failure::new(format!("settled as {other:?}"))),
            }
        };
        at.cx.until("the copy to be stored", again).await?;
        match copy {
            Copy::Retry => {
                let again = consumer.next().await?;
                let (id, first) = (again.message().id(), last.message().id());
                ensure_eq!(id, first, "what came again");
                ensure_eq!(consumer.ack(&again).await?, Settled::Done, "settled");
            }
            Copy::DeadLetter => {
                // However often it was tried.
                let letters = at.direct.dead_letters("billing_order", 1).await?;
                ensure_eq!(letters.len(), 1, "dead letters");
                let (id, first) = (letters[0].message().id(), last.message().id());
                ensure_eq!(id, first, "the dead letter");
                // Nor is another one seen by who had looked before.
                ensure_eq!(listed.len(), held.len(), "dead letters before");
                let letters = kept.list(10).await?;
                ensure_eq!(letters.len(), 1, "dead letters, seen by the same");
                let (id, first) = (letters[0].message().id(), last.message().id());
                ensure_eq!(id, first, "the dead letter, seen by the same");
            }
        }
        ensure!(
            admin.stored(&topic).await? > 0,
            "nothing is stored in {topic}"
        );
        for again in consumer.rest().await? {
            ensure_eq!(again.message().id(), last.message().id(), "what came twice");
            consumer.ack(&again).await?;
        }
        consumer.gets_nothing_for(2 * WAIT).await
    })
    .await
}
