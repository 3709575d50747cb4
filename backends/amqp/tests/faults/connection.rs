//! What happens to connections: cut, silent, blocked, killed.

use std::time::{Duration, Instant};

use event_conformance::{
    Act, Broker, CaseResult, Failure, Ledger, Stage, done, ensure, ensure_eq, faults, length,
    orders::order, publish,
};
use event_core::{ConnectionState, ErrorKind, RetryPolicy, Settled, Settlement};
use tokio::runtime::Handle;

use crate::stage::{Admin, ctl, on_own_rabbitmq, on_rabbitmq};

/// How long past its deadline a publish may end, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_01_the_broker_is_killed_while_all_publish_and_consume() -> CaseResult {
    kills("fault_01", 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; scripts/soak runs it"]
async fn fault_01_the_broker_is_killed_again_and_again() -> CaseResult {
    kills("fault_01_long", length(3)).await
}

async fn kills(name: &str, kills: u32) -> CaseResult {
    let nothing = async |_: &_| Ok(());
    on_own_rabbitmq(name, nothing, async |at, broker| {
        let kill = async |_: &_, _: &_| {
            broker.kill().await?;
            broker.restart().await?;
            elect(broker, &at.name("billing_order")).await
        };
        let beat = Duration::from_millis(25);
        let deadline = Duration::from_secs(5);
        let killed = faults::the_broker_is_killed(at, kills, beat, deadline, kill);
        let (ledger, desk, _running) = killed.await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        let balance = desk.until("all that was confirmed", all).await;
        let balance = ledger.balance(&balance.unwrap_or_else(|_| desk.seen()));
        eprintln!("{name}: {balance}");
        let in_flight = usize::try_from(kills)? * 2 * 120;
        ensure!(
            balance.duplicated <= in_flight,
            "{balance}, {in_flight} were in flight"
        );
        balance.expect_no_loss()
    })
    .await
}

/// Has a queue elect its leader. A RabbitMQ of one node that was killed may leave that out, with some versions for ever:
/// issue 10070 of rabbitmq-server. Nobody's client can do anything about it.
async fn elect(broker: &Broker, queue: &str) -> CaseResult {
    let elect = format!("ra:trigger_election({{'%2F_{queue}', node()}}).");
    ctl(broker, &["eval", &elect]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_connection_cut_between_publish_and_confirm() -> CaseResult {
    on_rabbitmq("fault_03", "", async |at| {
        let (queue, admin) = (at.name("billing_order"), Admin::of(at).await?);
        let stored = || async { Ok(u64::from(admin.ready(&queue).await?)) };
        faults::a_publish_is_cut(at, stored).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_connection_cut_after_any_number_of_bytes() -> CaseResult {
    on_rabbitmq("fault_03_bytes", "", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        let ledger = Ledger::new();
        for round in 0..length(40_u32) {
            let orders: Vec<_> = (0..10).map(|n| order(u64::from(round) * 10 + n)).collect();
            let bytes = usize::try_from(round)? * 5 % 400;
            at.proxy.cut_after(bytes);
            for result in ledger.publish_all(at.cx.bus(), &orders).await {
                faults::may_fail(result.map(drop))?;
            }
        }
        at.proxy.cut();
        let balance = ledger.balance(&[]);
        ensure!(balance.confirmed > 0, "nothing was confirmed: {balance}");

        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        // Each order may have been sent again with each connection that was lost under it.
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_03: {balance}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_04_a_line_that_is_silent_is_noticed() -> CaseResult {
    on_rabbitmq("fault_04", "?heartbeat=2", async |at| {
        faults::a_silent_line_is_noticed(at, Duration::from_secs(2)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_04_a_bus_without_a_connection_is_closed_at_once() -> CaseResult {
    on_rabbitmq("fault_04_close", "", async |at| {
        let bus = at.cx.process().await?;
        publish(&bus, 1..=1).await?;
        at.proxy.refuse(true);
        at.proxy.cut();
        let mut state = bus.state();
        let lost = state.wait_for(|state| *state == ConnectionState::Reconnecting);
        at.cx.within("to notice it", lost).await??;
        // Nothing is on its way, so there is nothing to wait for.
        let begin = Instant::now();
        bus.close().await?;
        let took = begin.elapsed();
        ensure!(took < SLACK, "it took {took:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_10_an_acknowledgement_after_a_reconnect_is_lost() -> CaseResult {
    on_rabbitmq("fault_10", "", async |at| {
        let mut consumer = at.cx.consumer("billing_order").await?;
        publish(at.direct.bus(), 1..=5).await?;
        let old = consumer.take(5).await?;
        at.proxy.cut();
        let new = consumer.take(5).await?;
        let mut wrong = old.iter().filter(|old| {
            new.iter()
                .any(|new| new.tag().generation == old.tag().generation)
        });
        ensure!(
            wrong.next().is_none(),
            "a tag of the lost connection came again"
        );
        let stale = old.iter().map(|old| Settlement::Ack(old.tag())).collect();
        for settled in consumer.settle_all(stale).await {
            ensure_eq!(settled?, Settled::Lost, "an old tag");
        }
        // Nothing else was acknowledged in its place.
        consumer.crash().await;
        let mut other = at.direct.consumer("billing_order").await?;
        let again = other.take(5).await?;
        for delivery in &again {
            other.ack(delivery).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_11_a_memory_alarm_holds_up_publishes_only() -> CaseResult {
    const DEADLINE: Duration = Duration::from_secs(3);
    let nothing = async |_: &_| Ok(());
    on_own_rabbitmq("fault_11", nothing, async |at, broker| {
        let cx = &at.direct;
        let spec = cx.spec("billing_order", &["order.*.submit"])?;
        cx.declare(&[&spec]).await?;
        let consuming = cx.process().await?;
        let mut consumer = cx.consume(&consuming, &spec).await?;
        let bus = cx.process().await?.with_publish_deadline(DEADLINE);
        publish(&bus, 1..=10).await?;
        let held = consumer.take(10).await?;

        alarm(at, broker).await?;
        let begin = Instant::now();
        let refused = order(11).publish(&bus).await;
        let took = begin.elapsed();
        let kind = refused.map(drop).map_err(|error| error.kind());
        ensure!(
            matches!(kind, Err(ErrorKind::Timeout | ErrorKind::Overloaded)),
            "a publish during the alarm: {kind:?}"
        );
        ensure!(took < DEADLINE + SLACK, "it took {took:?}");
        for delivery in &held {
            ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "acknowledged");
        }
        holds(at, broker, 0).await?;

        ctl(broker, &["set_vm_memory_high_watermark", "0.4"]).await?;
        at.is_up(&bus).await?;
        publish(&bus, 12..=12).await?;
        let ids = |seen: Vec<event_core::Delivery>| seen.len();
        let rest = ids(consumer.rest().await?);
        // The refused one may have been stored when the alarm ended.
        ensure!((1..=2).contains(&rest), "{rest} deliveries after the alarm");
        Ok(())
    })
    .await
}

/// Has a broker be short of memory.
async fn alarm(at: &Stage, broker: &Broker) -> CaseResult {
    ctl(broker, &["set_vm_memory_high_watermark", "0.0001"]).await?;
    let alarmed = || async {
        let alarms = ctl(broker, &["eval", "rabbit_alarm:get_alarms()."]).await?;
        Ok(alarms.contains("memory"))
    };
    at.direct.until("the alarm", alarmed).await
}

/// Waits until the queue of all tests has this many messages, ready or not.
async fn holds(at: &Stage, broker: &Broker, count: usize) -> CaseResult {
    let holds = || async {
        let queues = ctl(broker, &["-q", "list_queues", "name", "messages"]).await?;
        let holds = format!("{}\t{count}", at.name("billing_order"));
        Ok(queues.lines().any(|line| line == holds))
    };
    at.direct
        .until("the acknowledgements to arrive", holds)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_11_what_fails_in_a_memory_alarm_holds_up_nobody() -> CaseResult {
    const FAIL: [u64; 3] = [1, 5, 9];
    const ORDERS: u64 = 500;
    let nothing = async |_: &_| Ok(());
    on_own_rabbitmq("fault_11_fails", nothing, async |at, broker| {
        let cx = &at.direct;
        cx.declare(&[&cx.spec("billing_order", &["order.*.submit"])?])
            .await?;
        publish(cx.bus(), 1..=ORDERS).await?;
        alarm(at, broker).await?;
        let desk = cx.desk().doing(|seen| match FAIL.contains(&seen.number()) {
            true => Act::fail("the bank is closed"),
            false => Act::DONE,
        });
        let policy = RetryPolicy::fixed(Duration::from_millis(100)).attempts(3);
        // Many more have to be acknowledged than may be unacknowledged.
        let queue = cx.queue("billing_order", &desk).retry(policy).prefetch(20);
        let _running = cx.start(&cx.process().await?, queue).await?;
        holds(at, broker, FAIL.len()).await?;

        ctl(broker, &["set_vm_memory_high_watermark", "0.4"]).await?;
        let letters = cx.dead_letters("billing_order", FAIL.len()).await?;
        ensure!(
            letters.iter().all(|letter| letter.attempts() == 3),
            "attempts of {letters:?}"
        );
        // Each was stored once for each attempt, however long that took.
        let seen = desk.seen();
        let runs = seen.iter().filter(|seen| FAIL.contains(&seen.number()));
        ensure_eq!(runs.count(), FAIL.len() * 3, "runs of those that fail");
        holds(at, broker, 0).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_27_twenty_kills_of_connections_leave_nothing_behind() -> CaseResult {
    on_rabbitmq("fault_27", "", async |at| {
        let desk = at.cx.desk();
        let consuming = at.cx.process().await?;
        let _running = at
            .cx
            .start(&consuming, at.cx.queue("billing_order", &desk))
            .await?;
        let ledger = Ledger::new();
        // lapin has a thread for each connection. Beside other tests it cannot be told whose they are.
        let threads = || if alone() { count_threads() } else { 0 };
        let metrics = Handle::current().metrics();
        let count = || [metrics.num_alive_tasks(), at.proxy.connections(), threads()];
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
            if round == 2 {
                // Everything that is made at first use is there, and everything that was lost is there again.
                for bus in [at.cx.bus(), &consuming] {
                    let mut state = bus.state();
                    let up = state.wait_for(|state| *state == ConnectionState::Connected);
                    at.cx.within("to be connected", up).await??;
                }
                first = count();
            }
            at.proxy.cut();
        }
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        at.is_up(at.cx.bus()).await?;
        at.is_up(&consuming).await?;
        let settled = || async {
            let now = count();
            Ok(now.iter().zip(first).all(|(now, first)| *now <= first))
        };
        let settled = at.cx.until("what was lost to be gone", settled).await;
        settled.map_err(|_| {
            let now = count();
            Failure::new(format!(
                "tasks, connections and threads are {now:?}, and were {first:?} at first"
            ))
        })
    })
    .await
}

/// Whether no other test runs beside this one.
fn alone() -> bool {
    std::env::var("RUST_TEST_THREADS").is_ok_and(|threads| threads == "1")
}

/// How many threads the process has.
fn count_threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
