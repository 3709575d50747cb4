//! Members of a group that come and go under load, and partitions that are added.

use std::{
    cell::Cell,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use event_conformance::{
    Act, CaseResult, Desk, Failure, Ledger, Seen, ensure, ensure_eq, length, orders::order,
};
use tokio::time::interval;

use crate::stage::{Admin, LEASE, on_kafka, on_kafka_with};

/// How many orders are published at once while something happens.
const BATCH: u64 = 20;

/// Publishes all the time.
async fn publish_until(bus: &event_core::Bus, ledger: &Ledger, over: &Cell<bool>) -> CaseResult {
    let mut tick = interval(Duration::from_millis(20));
    let mut id = 0;
    while !over.get() {
        tick.tick().await;
        let orders: Vec<_> = (0..BATCH).map(|n| order(id + n)).collect();
        id += BATCH;
        for result in ledger.publish_all(bus, &orders).await {
            result?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_17_members_join_and_leave_under_load() -> CaseResult {
    on_kafka("fault_17", async |at| {
        let cx = &at.direct;
        let ledger = Ledger::new();
        let over = Cell::new(false);
        let desks = [(); 3].map(|()| cx.desk().doing(|_| Act::Take(Duration::from_millis(1))));
        let buses = [
            cx.process().await?,
            cx.process().await?,
            cx.process().await?,
        ];
        let queue = |of: usize| cx.queue("billing_order", &desks[of]).prefetch(50);
        let more = async |of: usize| -> CaseResult {
            let before = desks[of].seen().len();
            desks[of].sees(before + 100).await.map(drop)
        };
        let first = cx.start(&buses[0], queue(0)).await?;
        let changing = async {
            more(0).await?;
            for _ in 0..length(3_u32) {
                let second = cx.start(&buses[1], queue(1)).await?;
                more(1).await?;
                let third = cx.start(&buses[2], queue(2)).await?;
                more(2).await?;
                second.shutdown().await?;
                more(2).await?;
                third.shutdown().await?;
                more(0).await?;
            }
            over.set(true);
            Ok::<_, Failure>(())
        };
        let publishing = publish_until(cx.bus(), &ledger, &over);
        tokio::try_join!(publishing, changing)?;
        let seen = || in_order(&desks);
        let all = || async { Ok(ledger.balance(&seen()).lost == 0) };
        cx.until("all that was confirmed", all).await?;
        first.shutdown().await?;
        let balance = ledger.balance(&seen());
        eprintln!("fault_17: {balance}");
        // What was in flight was finished before its partition went elsewhere.
        ensure_eq!((balance.lost, balance.duplicated), (0, 0), "{balance}");
        cx.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_17_members_that_are_killed_under_load() -> CaseResult {
    const PREFETCH: usize = 50;
    /// What is delivered above the committed offset between two commits.
    const UNCOMMITTED: usize = 20 * 20;
    on_kafka("fault_17_killed", async |at| {
        let cx = &at.direct;
        let ledger = Ledger::new();
        let over = Cell::new(false);
        let slow = || cx.desk().doing(|_| Act::Take(Duration::from_millis(1)));
        let queue = |desk: &Desk| cx.queue("billing_order", desk).prefetch(PREFETCH);
        let desk = slow();
        let desks = Mutex::new(vec![desk.clone()]);
        let all_desks = || {
            let desks = desks.lock().unwrap_or_else(PoisonError::into_inner);
            desks.clone()
        };
        let first = cx.start(&cx.process().await?, queue(&desk)).await?;
        let rounds = length(2_u32);
        let changing = async {
            for _ in 0..rounds {
                let own = slow();
                desks
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(own.clone());
                let process = at.cx.process().await?;
                let running = at.cx.start(&process, queue(&own)).await?;
                own.sees(100).await?;
                // It does not come back, and nobody hears of it until its session ends.
                at.proxy.refuse(true);
                at.proxy.cut();
                drop((running, process));
                let all = |seen: usize| desk.sees(seen + 100);
                all(desk.seen().len()).await?;
                at.proxy.refuse(false);
            }
            over.set(true);
            Ok::<_, Failure>(())
        };
        let publishing = publish_until(cx.bus(), &ledger, &over);
        tokio::try_join!(publishing, changing)?;
        let seen = || in_order(&all_desks());
        let all = || async { Ok(ledger.balance(&seen()).lost == 0) };
        cx.until("all that was confirmed", all).await?;
        first.shutdown().await?;
        let balance = ledger.balance(&seen());
        eprintln!("fault_17_killed: {balance}");
        let most = usize::try_from(rounds)? * (PREFETCH + UNCOMMITTED);
        ensure!(balance.duplicated <= most, "{balance}, of at most {most}");
        cx.nothing_is_left("billing_order").await
    })
    .await
}

/// What was seen at several desks, in the order in which handlers began.
fn in_order(desks: &[Desk]) -> Vec<Seen> {
    let mut all: Vec<_> = desks.iter().flat_map(Desk::seen).collect();
    all.sort_by_key(|seen| seen.at);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_32_partitions_are_added_to_a_topic_under_load() -> CaseResult {
    let options = "partitions=2&drain=3000&topic.metadata.refresh.interval.ms=1000";
    on_kafka_with("fault_32", options, async |at| {
        let cx = &at.direct;
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        let ledger = Ledger::new();
        let over = Cell::new(false);
        let desk = cx.desk();
        let queue = || cx.queue("billing_order", &desk);
        let (one, other) = (cx.process().await?, cx.process().await?);
        let _one = cx.start(&one, queue()).await?;
        let growing = async {
            desk.sees(100).await?;
            admin.grow(&topic, 5).await?;
            let used = || async {
                let bounds = admin.bounds(&topic).await?;
                Ok(bounds.len() == 5 && bounds.iter().all(|(_, end)| *end > 20))
            };
            cx.until("records in the new partitions", used).await?;
            let _other = cx.start(&other, queue()).await?;
            let before = desk.seen().len();
            desk.sees(before + 100).await?;
            over.set(true);
            Ok::<_, Failure>(_other)
        };
        let publishing = publish_until(cx.bus(), &ledger, &over);
        let ((), _other) = tokio::try_join!(publishing, growing)?;
        let all = || async { Ok(ledger.balance(&desk.seen()).lost == 0) };
        cx.until("all that was confirmed", all).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_32: {balance}");
        ensure_eq!((balance.lost, balance.duplicated), (0, 0), "{balance}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_32_a_queue_that_is_down_misses_nothing_of_new_partitions() -> CaseResult {
    let options = "partitions=1&drain=3000&topic.metadata.refresh.interval.ms=1000";
    on_kafka_with("fault_32_down", options, async |at| {
        let cx = &at.direct;
        let spec = cx.spec("billing_order", &["order.*.submit"])?;
        cx.declare(&[&spec]).await?;
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        event_conformance::publish(cx.bus(), 1..=1).await?;
        admin.grow(&topic, 3).await?;
        let ledger = Ledger::new();
        let over = Cell::new(false);
        let watching = async {
            let used = || async {
                let bounds = admin.bounds(&topic).await?;
                Ok(bounds.len() == 3 && bounds.iter().all(|(_, end)| *end > 20))
            };
            cx.until("records in the new partitions", used).await?;
            over.set(true);
            Ok::<_, Failure>(())
        };
        let publishing = publish_until(cx.bus(), &ledger, &over);
        tokio::try_join!(publishing, watching)?;
        let desk = cx.desk();
        let _running = cx
            .start(&cx.process().await?, cx.queue("billing_order", &desk))
            .await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        let seen = desk.sees_no_more_than_for(desk.seen().len(), LEASE).await?;
        ledger.balance(&seen).expect_no_loss()
    })
    .await
}
