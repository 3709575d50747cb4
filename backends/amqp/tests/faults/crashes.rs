//! Processes that end, and messages that end them.

use std::time::Duration;

use event_conformance::{
    Act, CaseResult, Desk, Failure, Ledger, Seen, ensure, ensure_eq, orders::order,
};
use event_core::{Queue, Reason, RetryPolicy};
use tokio::runtime;

use crate::stage::{Stage, done, on_rabbitmq, publish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_20_a_process_ends_right_after_it_published() -> CaseResult {
    on_rabbitmq("fault_20", "", async |at| {
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let ledger = Ledger::new();
        for round in 0..5 {
            // A runtime of its own, which ends with all its tasks while it publishes.
            let process = runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?;
            let (cx, book) = (at.direct.clone(), ledger.clone());
            process.spawn(async move {
                let bus = cx.process().await?;
                for id in 0.. {
                    book.publish(&bus, order(round * 1_000_000 + id)).await?;
                }
                Ok::<_, Failure>(())
            });
            let before = ledger.balance(&[]).confirmed;
            let book = ledger.clone();
            let some = move || {
                let more = book.balance(&[]).confirmed >= before + 50;
                async move { Ok(more) }
            };
            at.direct.until("some publishes", some).await?;
            process.shutdown_background();
        }
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_fails_has_exactly_its_attempts() -> CaseResult {
    on_rabbitmq("fault_21", "", async |at| {
        let desk = at.cx.desk().doing(|seen| match seen.number() {
            3 => Act::fail("the bank is closed"),
            _ => Act::DONE,
        });
        let policy = RetryPolicy::fixed(Duration::from_millis(100)).attempts(3);
        let queue = at.cx.queue("billing_order", &desk).retry(policy);
        let _running = at.cx.start(at.cx.bus(), queue).await?;
        publish(at.direct.bus(), 1..=10).await?;
        let letters = at.direct.dead_letters("billing_order", 1).await?;
        ensure_eq!(letters.len(), 1, "dead letters");
        ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
        ensure_eq!(letters[0].attempts(), 3, "attempts");
        // Nine others, and three attempts.
        desk.finishes(12).await?;
        let seen = desk.sees_no_more_than(12).await?;
        ensure_eq!(done(&seen), (1..=10).collect::<Vec<_>>(), "orders");
        Ok(())
    })
    .await
}

/// Lets processes end, each as soon as it runs the killer, until it is a dead letter. Answers how many ended.
async fn until_dead(
    at: &Stage,
    desk: &Desk,
    killer: u64,
    queue: impl Fn() -> Queue,
) -> CaseResult<usize> {
    for crashes in 0..20 {
        let runs = |seen: &[Seen]| seen.iter().filter(|seen| seen.number() == killer).count();
        let before = runs(&desk.seen());
        let process = at.direct.process().await?;
        let running = at.direct.start(&process, queue()).await?;
        let kills = desk.until("the killer", move |seen| runs(seen) > before);
        let dead = at.direct.dead_letters("billing_order", 1);
        tokio::select! {
            kills = kills => drop(kills?),
            dead = dead => {
                dead?;
                running.shutdown().await?;
                return Ok(crashes);
            }
        }
        drop((running, process));
    }
    Err(Failure::new(
        "20 processes ended and there is no dead letter",
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_kills_has_its_attempts_alone() -> CaseResult {
    on_rabbitmq("fault_21_kills", "", async |at| {
        let desk = at.direct.desk().holding();
        let queue = || {
            let policy = RetryPolicy::default().attempts(3);
            at.direct.queue("billing_order", &desk).retry(policy)
        };
        at.direct
            .declare(&[&at.direct.spec("billing_order", &["order.*.submit"])?])
            .await?;
        publish(at.direct.bus(), 7..=7).await?;
        let crashes = until_dead(at, &desk, 7, queue).await?;
        // Those that made it a suspect, and three alone.
        ensure!((4..=6).contains(&crashes), "it ended {crashes} processes");
        let letters = at.direct.dead_letters("billing_order", 1).await?;
        ensure_eq!(letters.len(), 1, "dead letters");
        ensure_eq!(letters[0].reason(), Some(Reason::Crashed), "reason");
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_29_ten_in_flight_and_one_that_kills_each_time() -> CaseResult {
    on_rabbitmq("fault_29", "", async |at| {
        // Two processes end with all ten in flight, those after them with the killer and whatever is beside it.
        let desk = at.direct.desk().doing(|seen| match seen.number() {
            4 => Act::Hold,
            _ if seen.nth < 20 => Act::Hold,
            _ => Act::DONE,
        });
        let queue = || {
            let policy = RetryPolicy::default().attempts(5);
            at.direct
                .queue("billing_order", &desk)
                .retry(policy)
                .prefetch(10)
        };
        at.direct
            .declare(&[&at.direct.spec("billing_order", &["order.*.submit"])?])
            .await?;
        publish(at.direct.bus(), 1..=3).await?;
        let killer = order(4).publish(at.direct.bus()).await?.id;
        publish(at.direct.bus(), 5..=10).await?;
        for crashes in 1..=2 {
            let process = at.direct.process().await?;
            let running = at.direct.start(&process, queue()).await?;
            desk.sees(crashes * 10).await?;
            drop((running, process));
        }
        until_dead(at, &desk, 4, queue).await?;
        let _running = at.direct.start(at.direct.bus(), queue()).await?;
        let neighbours: Vec<_> = (1..=10).filter(|id| *id != 4).collect();
        let expected = neighbours.clone();
        desk.until("the neighbours", move |seen| done(seen) == expected)
            .await?;
        let letters = at.direct.dead_letters("billing_order", 1).await?;
        ensure_eq!(letters.len(), 1, "dead letters");
        ensure_eq!(letters[0].message().id(), &killer, "the dead letter");
        Ok(())
    })
    .await
}
