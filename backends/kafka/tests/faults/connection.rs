//! What happens to connections: cut, silent, killed with the broker or without it.

use std::time::Duration;

use event_conformance::{CaseResult, Ledger, ensure, faults, length, orders::order, publish};
use event_core::ConnectionState;

use crate::stage::{Admin, on_kafka, on_own_kafka};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_01_the_broker_is_killed_while_all_publish_and_consume() -> CaseResult {
    kills("fault_01", 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; scripts/soak runs it"]
async fn fault_01_the_broker_is_killed_again_and_again() -> CaseResult {
    kills("fault_01_long", length(5)).await
}

async fn kills(name: &str, kills: u32) -> CaseResult {
    /// What is delivered between two commits, with the pause between two batches, and what is in its hands.
    const UNCOMMITTED: usize = 40 * 20 + 100;
    on_own_kafka(name, async |at, broker| {
        let kill = async |_: &_, _: &_| {
            broker.kill().await?;
            Ok(broker.restart().await?)
        };
        let beat = Duration::from_millis(10);
        let deadline = Duration::from_secs(5);
        let killed = faults::the_broker_is_killed(at, kills, beat, deadline, kill);
        let (ledger, desk, _running) = killed.await?;
        let all = || async { Ok(ledger.balance(&desk.seen()).lost == 0) };
        at.direct.until("all that was confirmed", all).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("{name}: {balance}");
        let most = usize::try_from(kills)? * UNCOMMITTED;
        ensure!(balance.duplicated <= most, "{balance}, of at most {most}");
        balance.expect_no_loss()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_connection_cut_between_publish_and_confirm() -> CaseResult {
    on_kafka("fault_03", async |at| {
        let (topic, admin) = (at.name("order"), Admin::of(at)?);
        let stored = || async { Ok(u64::try_from(admin.stored(&topic).await?)?) };
        let ledger = faults::a_publish_is_cut(at, stored).await?;
        ensure!(ledger.balance(&[]).confirmed > 0, "nothing was confirmed");
        // What the client sent again, the broker knew: each is there once.
        let stored = admin.stored(&topic).await?;
        ensure!(stored <= 3, "{stored} records of three orders");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_connection_cut_after_any_number_of_bytes() -> CaseResult {
    const EACH: u64 = 10;
    on_kafka("fault_03_bytes", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        publish(at.cx.bus(), 1..=1).await?;
        let mut state = at.cx.bus().state();
        let losing = tokio::spawn(async move {
            let mut lost = 0_u32;
            while state.changed().await.is_ok() {
                lost += u32::from(*state.borrow() == ConnectionState::Reconnecting);
                if *state.borrow() == ConnectionState::Closed {
                    break;
                }
            }
            lost
        });
        let ledger = Ledger::new();
        let rounds = length(15_u32);
        for round in 0..rounds {
            let orders: Vec<_> = (0..EACH)
                .map(|n| order(u64::from(round) * EACH + n))
                .collect();
            at.proxy.cut_after(usize::try_from(round)? * 29 % 400);
            for result in ledger.publish_all(at.cx.bus(), &orders).await {
                faults::may_fail(result.map(drop))?;
            }
        }
        at.proxy.cut();
        at.is_up(at.cx.bus()).await?;
        let balance = ledger.balance(&[]);
        ensure!(balance.confirmed > 0, "nothing was confirmed: {balance}");

        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        let stored = Admin::of(at)?.stored(&at.name("order")).await?;
        let most = 1 + i64::from(rounds) * i64::try_from(EACH)?;
        ensure!(stored <= most, "{stored} records of {most} orders");
        at.cx.bus().close().await?;
        let lost = at.cx.within("the state to end", losing).await??;
        eprintln!(
            "fault_03: {}, {lost} times lost",
            ledger.balance(&desk.seen())
        );
        ensure!(lost >= rounds / 8, "the line was lost {lost} times");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_04_a_line_that_is_silent_is_noticed() -> CaseResult {
    on_kafka("fault_04", async |at| {
        // What a request may take, in the options of these tests.
        faults::a_silent_line_is_noticed(at, Duration::from_secs(2)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_20_a_process_ends_right_after_it_published() -> CaseResult {
    on_kafka("fault_20", async |at| {
        faults::a_process_ends_while_it_publishes(at, u64::from(length(10_u32))).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_27_twenty_kills_of_connections_leave_nothing_behind() -> CaseResult {
    on_kafka("fault_27", async |at| {
        let cut = async |_| {
            at.proxy.cut();
            Ok(())
        };
        faults::connections_are_lost(at, cut, || async { Ok(0) }).await
    })
    .await
}
