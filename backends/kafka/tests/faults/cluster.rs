//! Three brokers, one of which is killed: everything goes on without it, and nothing that was confirmed is lost.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use event_conformance::{CaseResult, Failure, Ledger, ensure, orders::order};
use tokio::time::interval;

use crate::stage::{CLUSTER, OPTIONS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_brokers_is_killed_and_nothing_confirmed_is_lost() -> CaseResult {
    const DEADLINE: Duration = Duration::from_secs(10);
    const BATCH: u64 = 20;
    let unchanged = async |_: &event_conformance::Broker| Ok(());
    CLUSTER
        .own("cluster", OPTIONS, unchanged, async |at, broker| {
            let cx = &at.direct;
            let desk = cx.desk();
            let queue = cx.queue("billing_order", &desk).prefetch(100);
            let _running = cx.start(&cx.process().await?, queue).await?;
            let bus = cx.process().await?.with_publish_deadline(DEADLINE);
            let ledger = Ledger::new();
            let confirmed = || ledger.balance(&[]).confirmed;
            let over = Cell::new(false);
            let slowest = Cell::new(Duration::ZERO);
            let publishing = async {
                let mut tick = interval(Duration::from_millis(20));
                let mut id = 0;
                while !over.get() {
                    tick.tick().await;
                    let orders: Vec<_> = (0..BATCH).map(|n| order(id + n)).collect();
                    id += BATCH;
                    let begin = Instant::now();
                    ledger.publish_all(&bus, &orders).await;
                    slowest.set(slowest.get().max(begin.elapsed()));
                }
                Ok(())
            };
            let killing = async {
                let some = |before| {
                    cx.until("some publishes", move || {
                        let more = confirmed() >= before + 200;
                        async move { Ok(more) }
                    })
                };
                some(confirmed()).await?;
                broker.kill_node(1).await?;
                some(confirmed()).await?;
                let handled = desk.seen().len();
                desk.sees(handled + 200).await?;
                broker.restart().await?;
                some(confirmed()).await?;
                over.set(true);
                Ok::<_, Failure>(())
            };
            tokio::try_join!(publishing, killing)?;
            let all = || async { Ok(ledger.balance(&desk.seen()).lost == 0) };
            cx.until("all that was confirmed", all).await?;
            let balance = ledger.balance(&desk.seen());
            let slowest = slowest.get();
            eprintln!("cluster: {balance}, the slowest publish took {slowest:?}");
            ensure!(
                slowest < DEADLINE + Duration::from_secs(2),
                "a publish took {slowest:?}"
            );
            // What is delivered between two commits, and what is in its hands.
            ensure!(balance.duplicated <= 20 * 20 + 100, "{balance}");
            balance.expect_no_loss()
        })
        .await
}
