//! Three brokers, one of which is killed: everything goes on without it, and nothing that was confirmed is lost.

use std::time::Duration;

use event_conformance::{CaseResult, Desk, Ledger, ensure, faults};

use crate::stage::{CLUSTER, OPTIONS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_brokers_is_killed_and_nothing_confirmed_is_lost() -> CaseResult {
    let unchanged = async |_: &event_conformance::Broker| Ok(());
    CLUSTER
        .own("cluster", OPTIONS, unchanged, async |at, broker| {
            let kill = async |ledger: &Ledger, desk: &Desk| {
                broker.kill_node(1).await?;
                faults::confirms_more(at, ledger).await?;
                let handled = desk.seen().len();
                desk.sees(handled + 200).await?;
                Ok(broker.restart().await?)
            };
            let beat = Duration::from_millis(20);
            // Others take over what the one led.
            let deadline = Duration::from_secs(10);
            let killed = faults::the_broker_is_killed(at, 1, beat, deadline, kill);
            let (ledger, desk, _running) = killed.await?;
            let all = || async { Ok(ledger.balance(&desk.seen()).lost == 0) };
            at.direct.until("all that was confirmed", all).await?;
            let balance = ledger.balance(&desk.seen());
            eprintln!("cluster: {balance}");
            // What is delivered between two commits, and what is in its hands.
            ensure!(balance.duplicated <= 20 * 20 + 100, "{balance}");
            balance.expect_no_loss()
        })
        .await
}
