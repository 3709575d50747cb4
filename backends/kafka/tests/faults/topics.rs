//! Topics that are deleted under those who use them: made anew or a clear error, never silence.

use std::time::{Duration, Instant};

use event_conformance::{
    Act, CaseResult, Desk, Failure, Stage, done, ensure, ensure_eq, orders::order, publish,
};
use event_core::{Bus, ErrorKind, Removal, RetryPolicy, Running};

use crate::stage::{Admin, on_kafka, on_own_kafka};

/// Publishes until an order is handled. The service may end with an error that says what is missing, and is then started
/// again.
async fn goes_on(
    at: &Stage,
    bus: &Bus,
    running: &mut Running,
    desk: &Desk,
    first: u64,
) -> CaseResult<bool> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let begin = Instant::now();
    let mut restarted = false;
    let mut ids = first..;
    loop {
        ensure!(begin.elapsed() < PATIENCE, "it is silent");
        let Some(id) = ids.next() else {
            return Ok(restarted);
        };
        match order(id).publish(bus).await {
            Ok(_) => {}
            Err(error) => {
                ensure!(error.is_retryable(), "not to be tried again: {error}");
                continue;
            }
        }
        let handled = desk.until("an order of later", move |seen| done(seen).contains(&id));
        let soon = tokio::time::timeout(Duration::from_secs(5), handled);
        tokio::select! {
            ended = running.join() => {
                let Err(error) = ended else {
                    return Err(Failure::new("the service ended without a word"));
                };
                ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
                let named = error.to_string().contains(&at.name("billing_order"));
                ensure!(named, "no queue is named: {error}");
                restarted = true;
                *running = at.direct.start(bus, at.direct.queue("billing_order", desk)).await?;
            }
            // Otherwise once more: what was published while there was no topic may have no queue.
            handled = soon => if let Ok(handled) = handled {
                handled?;
                return Ok(restarted);
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_the_topic_of_an_exchange_is_deleted() -> CaseResult {
    on_kafka("fault_08", async |at| {
        let desk = at.direct.desk();
        let service = at.direct.process().await?;
        let queue = at.direct.queue("billing_order", &desk);
        let mut running = at.direct.start(&service, queue).await?;
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        for round in 1..=3 {
            publish(at.direct.bus(), round..=round).await?;
            desk.until("the order of a round", move |seen| {
                done(seen).contains(&round)
            })
            .await?;
            admin.delete_topic(&topic).await?;
            let bus = at.direct.bus();
            let begin = Instant::now();
            let restarted = goes_on(at, bus, &mut running, &desk, round * 100).await?;
            eprintln!("fault_08: {:?}, restarted: {restarted}", begin.elapsed());
        }
        // It is one that is read from its beginning, and nothing of it is missed.
        let ledger = publish(at.direct.bus(), 1_000..=1_050).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all of later", all).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_the_topic_of_an_exchange_is_deleted_under_deliveries() -> CaseResult {
    on_kafka("fault_08_held", async |at| {
        let desk = at.direct.desk().doing(|seen| match seen.number() {
            ..=10 => Act::Hold,
            _ => Act::DONE,
        });
        let service = at.direct.process().await?;
        let queue = at.direct.queue("billing_order", &desk);
        let mut running = at.direct.start(&service, queue).await?;
        publish(at.direct.bus(), 1..=10).await?;
        desk.sees(10).await?;
        Admin::of(at)?.delete_topic(&at.name("order")).await?;
        goes_on(at, at.direct.bus(), &mut running, &desk, 100).await?;
        desk.open();
        desk.until("what it held", |seen| {
            (1..=10).all(|id| done(seen).contains(&id))
        })
        .await?;
        let ledger = publish(at.direct.bus(), 1_000..=1_050).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all of later", all).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_the_topic_of_retries_is_deleted() -> CaseResult {
    on_kafka("fault_08_retry", async |at| {
        let desk = at.direct.desk().failing(1);
        let policy = || RetryPolicy::fixed(Duration::from_millis(200)).attempts(3);
        let queue = at.direct.queue("billing_order", &desk).retry(policy());
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let admin = Admin::of(at)?;
        let retries = at.name("billing_order.retry.200");
        // In the end more than at first: those who read it notice all the same that it is another.
        for (round, count) in [(0, 6), (1, 3), (2, 9)] {
            let ledger = publish(at.direct.bus(), round * 10 + 1..=round * 10 + count).await?;
            let twice = move |seen: &[event_conformance::Seen]| {
                let again = seen.iter().filter(|seen| {
                    seen.meta.attempt == 2 && seen.ended.is_some() && seen.number() / 10 == round
                });
                again.count() as u64 >= count
            };
            desk.until("the second attempts of a round", twice).await?;
            ledger.balance(&desk.seen()).expect_no_loss()?;
            // A topic that is made anew is known after a moment.
            let known = || async { Ok(admin.stored(&retries).await? > 0) };
            at.direct.until("retries in their topic", known).await?;
            admin.delete_topic_for_good(at, &retries).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_the_topic_of_the_topology_is_deleted() -> CaseResult {
    on_own_kafka("fault_08_topology", async |at, _| {
        let desk = at.direct.desk();
        let service = at.direct.process().await?;
        let queue = at.direct.queue("billing_order", &desk);
        let mut running = at.direct.start(&service, queue).await?;
        publish(at.direct.bus(), 1..=5).await?;
        desk.finishes(5).await?;
        let admin = Admin::of(at)?;
        admin.delete_topic("switchboard.topology").await?;
        // The queue is gone with it, which its service is told.
        let ended = at.direct.within("the service to end", running.join());
        let Err(error) = ended.await? else {
            return Err(Failure::new("the service ended without a word"));
        };
        ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
        let named = error.to_string().contains(&at.name("billing_order"));
        ensure!(named, "no queue is named: {error}");

        // Who declares it again, with a connection that was there before or a new one, goes on.
        for bus in [service.clone(), at.direct.process().await?] {
            let again = || async {
                let queue = at.direct.queue("billing_order", &desk);
                Ok(at.direct.start(&bus, queue).await.is_ok())
            };
            at.direct.until("the service to start again", again).await?;
            let queue = at.direct.queue("billing_order", &desk);
            let running = at.direct.start(&bus, queue).await?;
            let before = desk.seen().len();
            let ledger = publish(at.direct.bus(), 100..=120).await?;
            let all = |seen: &[_]| ledger.balance(seen).lost == 0;
            desk.until("all of later", all).await?;
            ensure!(desk.seen().len() > before, "nothing was handled");
            let receipt = order(121).publish(at.direct.bus()).mandatory().await?;
            ensure_eq!(receipt.queues, Some(1), "queues");
            running.shutdown().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_a_queue_is_removed_under_its_consumer() -> CaseResult {
    on_kafka("fault_08_removed", async |at| {
        for round in 0..3 {
            let name = format!("billing_{round}");
            let desk = at.direct.desk();
            let service = at.direct.process().await?;
            let queue = at.direct.queue(&name, &desk);
            let mut running = at.direct.start(&service, queue).await?;
            publish(at.direct.bus(), round..=round).await?;
            desk.finishes(1).await?;
            let removal = Removal::Queue(name.parse()?);
            at.cx.bus().transport().remove(&removal).await?;
            let ended = at.direct.within("the service to end", running.join());
            let Err(error) = ended.await? else {
                return Err(Failure::new("the service ended without a word"));
            };
            ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
            let named = error.to_string().contains(&at.name(&name));
            ensure!(named, "no queue is named: {error}");
            let order = order(1).publish(at.direct.bus()).mandatory().await;
            let kind = order.map(drop).map_err(|error| error.kind());
            ensure_eq!(kind, Err(ErrorKind::Unroutable), "a publish afterwards");
        }
        Ok(())
    })
    .await
}
