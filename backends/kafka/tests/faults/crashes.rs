//! Messages that fail, and messages that end processes.

use std::time::Duration;

use event_conformance::{
    Act, CaseResult, done, ensure, ensure_eq, faults, faults::until_dead, orders::order, publish,
};
use event_core::{Reason, RetryPolicy};

use crate::stage::on_kafka;

/// A lease for tests in which many are waited for.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_fails_has_exactly_its_attempts() -> CaseResult {
    on_kafka("fault_21", async |at| {
        faults::a_failing_message_has_its_attempts(at).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_kills_has_its_attempts_alone() -> CaseResult {
    on_kafka("fault_21_kills", async |at| {
        let desk = at.direct.desk().holding();
        let queue = || {
            let policy = RetryPolicy::default().attempts(3);
            at.direct
                .queue("billing_order", &desk)
                .retry(policy)
                .lease(SHORT)
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
    on_kafka("fault_29", async |at| {
        // The first process ends with all ten in flight, which makes suspects of them, and those after it with one.
        let desk = at.direct.desk().doing(|seen| match seen.number() {
            4 => Act::Hold,
            _ if seen.nth < 10 => Act::Hold,
            _ => Act::DONE,
        });
        let queue = || {
            let policy = RetryPolicy::default().attempts(5);
            at.direct
                .queue("billing_order", &desk)
                .retry(policy)
                .lease(SHORT)
                .prefetch(10)
        };
        at.direct
            .declare(&[&at.direct.spec("billing_order", &["order.*.submit"])?])
            .await?;
        publish(at.direct.bus(), 1..=3).await?;
        let killer = order(4).publish(at.direct.bus()).await?.id;
        publish(at.direct.bus(), 5..=10).await?;
        let process = at.direct.process().await?;
        let running = at.direct.start(&process, queue()).await?;
        desk.sees(10).await?;
        drop((running, process));
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
