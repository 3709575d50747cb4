//! What happens to connections: cut, silent, killed with the server or without it.

use std::time::{Duration, Instant};

use event_conformance::{
    Act, Broker, CaseResult, Ledger, done, ensure, ensure_eq, faults, length, orders::order,
    publish,
};
use tokio::runtime::Handle;

use crate::stage::{Admin, key, nothing, on_own_redis, on_redis};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_01_the_server_is_killed_while_all_publish_and_consume() -> CaseResult {
    kills("fault_01", 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; scripts/soak runs it"]
async fn fault_01_the_server_is_killed_again_and_again() -> CaseResult {
    kills("fault_01_long", length(5)).await
}

/// Has everything on the disk before it is confirmed. It is a setting of the process.
async fn to_disk(admin: Admin) -> CaseResult {
    admin.tell("CONFIG SET appendfsync always").await?;
    let set: Vec<String> = admin.ask("CONFIG GET appendfsync").await?;
    ensure_eq!(set, ["appendfsync", "always"], "the setting");
    Ok(())
}

async fn kills(name: &str, kills: u32) -> CaseResult {
    on_own_redis(name, nothing, async |at, broker: &Broker| {
        let kill = async |_: &_, _: &_| {
            broker.kill().await?;
            broker.restart().await?;
            to_disk(Admin::of(at).await?).await
        };
        let beat = Duration::from_millis(10);
        let deadline = Duration::from_secs(5);
        let killed = faults::the_broker_is_killed(at, kills, beat, deadline, kill);
        let (ledger, desk, _running) = killed.await?;
        // Not by the balance, which is long by now, after each of them.
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "billing_order"));
        let empty = || async { Ok(admin.ask::<u64>(&format!("XLEN {stream}")).await? == 0) };
        at.direct.until("everything to be handled", empty).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("{name}: {balance}");
        let in_flight = usize::try_from(kills)? * 120;
        ensure!(
            balance.duplicated <= in_flight,
            "{balance}, {in_flight} were in flight"
        );
        balance.expect_no_loss()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_connection_cut_between_publish_and_confirm() -> CaseResult {
    on_redis("fault_03", async |at| {
        let (stream, admin) = (key(at, "stream", "billing_order"), Admin::of(at).await?);
        let length = format!("XLEN {stream}");
        let stored = || admin.ask::<u64>(&length);
        let ledger = faults::a_publish_is_cut(at, stored).await?;
        ensure!(ledger.balance(&[]).confirmed > 0, "nothing was confirmed");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_connection_cut_after_any_number_of_bytes() -> CaseResult {
    on_redis("fault_03_bytes", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        let ledger = Ledger::new();
        let connected = Admin::of(at).await?;
        let before = connected
            .info("stats", "total_connections_received")
            .await?;
        let rounds = length(60_u32);
        for round in 0..rounds {
            let orders: Vec<_> = (0..10).map(|n| order(u64::from(round) * 10 + n)).collect();
            // The answer to ten orders has 45 bytes.
            let bytes = usize::try_from(round)? * 3 % 180;
            at.proxy.cut_after(bytes);
            for result in ledger.publish_all(at.cx.bus(), &orders).await {
                faults::may_fail(result.map(drop))?;
            }
        }
        at.proxy.cut();
        let after = connected
            .info("stats", "total_connections_received")
            .await?;
        // In one round of four the cut is within the answer, and the publisher connects again.
        let cuts = u64::from(rounds) / 4;
        ensure!(
            after >= before + cuts,
            "{before} connections became {after}"
        );
        let balance = ledger.balance(&[]);
        ensure!(balance.confirmed > 0, "nothing was confirmed: {balance}");

        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        eprintln!("fault_03: {}", ledger.balance(&desk.seen()));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_04_a_line_that_is_silent_is_noticed() -> CaseResult {
    on_redis("fault_04", async |at| {
        faults::a_silent_line_is_noticed(at, Duration::from_secs(1)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_04_what_a_dead_line_reads_late_is_not_stuck() -> CaseResult {
    on_redis("fault_04_stray", async |at| {
        let desk = at.direct.desk().holding();
        let queue = at.direct.queue("billing_order", &desk);
        let queue = queue.prefetch(1).concurrency(1);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        publish(at.direct.bus(), 1..=1).await?;
        desk.sees(1).await?;
        publish(at.direct.bus(), 2..=3).await?;
        // A read that was on its way when the process gave up its line, and that the server does later.
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "billing_order"));
        let held: Vec<(String, String, u64, u64)> = admin
            .ask(&format!("XPENDING {stream} consumers - + 10"))
            .await?;
        ensure_eq!(held.len(), 1, "orders that are held");
        let read = format!("XREADGROUP GROUP consumers {} COUNT 1", held[0].1);
        admin.tell(&format!("{read} STREAMS {stream} >")).await?;
        desk.open();
        let seen = desk.finishes(3).await?;
        ensure_eq!(done(&seen), [1, 2, 3], "orders");
        let seen = desk.sees_no_more_than(3).await?;
        ensure_eq!(desk.most_running(), 1, "orders at a time of {}", seen.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_12_a_reader_is_cut_in_the_middle_of_a_read() -> CaseResult {
    const EACH: u64 = 25;
    on_redis("fault_12", async |at| {
        let holds = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = holds.clone();
        let desk =
            at.cx.desk().doing(
                move |_| match told.load(std::sync::atomic::Ordering::Relaxed) {
                    true => Act::Hold,
                    false => Act::DONE,
                },
            );
        let consuming = at.cx.process().await?;
        let queue = at.cx.queue("billing_order", &desk);
        let queue = queue.prefetch(10).concurrency(10);
        let _running = at.cx.start(&consuming, queue).await?;
        let ledger = Ledger::new();
        let mut slowest = Duration::ZERO;
        let rounds = length(40_u32);
        for round in 0..u64::from(rounds) {
            let begin = Instant::now();
            at.proxy.cut_after(usize::try_from(round * 137 % 5_000)?);
            let orders: Vec<_> = (0..EACH).map(|n| order(round * EACH + n)).collect();
            for result in ledger.publish_all(at.direct.bus(), &orders).await {
                result?;
            }
            let all = |seen: &[_]| ledger.balance(seen).lost == 0;
            desk.until("the orders of a round", all).await?;
            slowest = slowest.max(begin.elapsed());
        }
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_12: {balance}, the slowest round took {slowest:?}");
        ensure_eq!((balance.lost, balance.duplicated), (0, 0), "{balance}");

        // Every place is still there.
        at.proxy.cut();
        holds.store(true, std::sync::atomic::Ordering::Relaxed);
        let before = desk.seen().len();
        publish(at.direct.bus(), 1_000_000..=1_000_019).await?;
        desk.sees(before + 10).await?;
        ensure_eq!(desk.running(), 10, "orders in its hands");
        desk.sees_no_more_than(before + 10).await?;
        desk.open();
        desk.finishes(before + 20).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_20_a_process_ends_right_after_it_published() -> CaseResult {
    on_redis("fault_20", async |at| {
        faults::a_process_ends_while_it_publishes(at, u64::from(length(10_u32))).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_27_twenty_kills_of_connections_leave_nothing_behind() -> CaseResult {
    on_own_redis("fault_27", nothing, async |at, _| {
        let desk = at.cx.desk();
        let consuming = at.cx.process().await?;
        let _running = at
            .cx
            .start(&consuming, at.cx.queue("billing_order", &desk))
            .await?;
        let ledger = Ledger::new();
        let metrics = Handle::current().metrics();
        let admin = Admin::of(at).await?;
        let count = async || -> CaseResult<[u64; 3]> {
            Ok([
                u64::try_from(metrics.num_alive_tasks())?,
                u64::try_from(at.proxy.connections())?,
                admin.info("clients", "connected_clients").await?,
            ])
        };
        let mut first = [0; 3];
        for round in 0..length(20_u32) {
            let id = u64::from(round);
            let round_trip = || async {
                let published = ledger.publish(at.cx.bus(), order(id)).await.is_ok();
                Ok(published)
            };
            let begin = Instant::now();
            at.cx.until("a publish", round_trip).await?;
            let took = begin.elapsed();
            // Much less than any request may take that is not answered.
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
                first = count().await?;
            }
            match round % 2 {
                0 => at.proxy.cut(),
                _ => admin.tell("CLIENT KILL TYPE normal").await?,
            }
        }
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        at.is_up(at.cx.bus()).await?;
        at.is_up(&consuming).await?;
        let settled = async || -> CaseResult<bool> {
            let now = count().await?;
            Ok(now.iter().zip(first).all(|(now, first)| *now <= first))
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !settled().await? {
            let now = count().await?;
            ensure!(
                Instant::now() < end,
                "tasks, connections and clients are {now:?}, and were {first:?} at first"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    })
    .await
}
