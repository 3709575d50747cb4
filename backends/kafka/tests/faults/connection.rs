//! What happens to connections: cut, silent, killed with the broker or without it.

use std::time::{Duration, Instant};

use event_conformance::{
    CaseResult, Ledger, done, ensure, ensure_eq, faults, length, orders::order, publish,
};
use event_core::ConnectionState;
use tokio::runtime::Handle;

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
        let desk = at.cx.desk();
        let consuming = at.cx.process().await?;
        let _running = at
            .cx
            .start(&consuming, at.cx.queue("billing_order", &desk))
            .await?;
        let ledger = Ledger::new();
        let metrics = Handle::current().metrics();
        let count = || [metrics.num_alive_tasks(), at.proxy.connections()];
        let mut first = [0; 2];
        for round in 0..length(20_u32) {
            let id = u64::from(round);
            let round_trip = || async {
                let published = ledger.publish(at.cx.bus(), order(id)).await.is_ok();
                Ok(published)
            };
            let begin = Instant::now();
            at.cx.until("a publish", round_trip).await?;
            let took = begin.elapsed();
            ensure!(
                took < Duration::from_secs(5),
                "a publish after a cut took {took:?}"
            );
            desk.until("its order", move |seen| done(seen).contains(&id))
                .await?;
            if round == 0 {
                // Everything that is made at first use is there.
                at.is_up(at.cx.bus()).await?;
                at.is_up(&consuming).await?;
                first = count();
            }
            at.proxy.cut();
        }
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        at.is_up(at.cx.bus()).await?;
        at.is_up(&consuming).await?;
        ensure!(first[1] > 0, "nobody was connected");
        let settled = || {
            let now = count();
            let settled = now.iter().zip(first).all(|(now, first)| *now <= first);
            async move { Ok(settled) }
        };
        let what = format!("tasks and connections to be {first:?} again");
        at.cx.until(&what, settled).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_27: {balance}, {first:?} became {:?}", count());
        ensure_eq!(balance.lost, 0, "{balance}");
        Ok(())
    })
    .await
}
