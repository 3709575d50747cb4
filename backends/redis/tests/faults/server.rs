//! What happens to the server and to what it keeps: wiped, without scripts, without memory, a replica, loading.

use std::{
    cell::Cell,
    future::Future,
    time::{Duration, Instant},
};

use event_conformance::{
    CaseResult, Failure, Ledger, Stage, done, ensure, ensure_eq, length,
    orders::{order, raw},
    publish, topology,
};
use event_core::{ErrorKind, IntoOutgoing, RetryPolicy};
use redis::{Client, RedisError};
use tokio::time::interval;

use crate::stage::{Admin, LEASE, key, nothing, on_own_redis};

/// Publishes mandatory orders one after the other while something happens, and enters them. Answers the kinds of
/// errors.
async fn under_load<T>(
    at: &Stage,
    ledger: &Ledger,
    from: u64,
    happens: impl Future<Output = CaseResult<T>>,
) -> CaseResult<(T, Vec<ErrorKind>)> {
    let over = Cell::new(false);
    let bus = at.direct.process().await?;
    let bus = bus.with_publish_deadline(Duration::from_secs(1));
    let publishing = async {
        let mut kinds = Vec::new();
        let mut tick = interval(Duration::from_millis(2));
        let mut id = from;
        while !over.get() {
            tick.tick().await;
            id += 1;
            let order = order(id).into_outgoing()?.mandatory();
            let begin = Instant::now();
            if let Err(error) = ledger.publish(&bus, order).await {
                ensure!(
                    error.is_retryable() || error.kind() == ErrorKind::Unroutable,
                    "it may be tried again: {error}"
                );
                kinds.push(error.kind());
            }
            let took = begin.elapsed();
            ensure!(took < Duration::from_secs(2), "a publish took {took:?}");
        }
        Ok::<_, Failure>(kinds)
    };
    let happening = async {
        let result = happens.await;
        over.set(true);
        result
    };
    let (kinds, result) = tokio::join!(publishing, happening);
    Ok((result?, kinds?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_everything_is_wiped_under_publishers_and_consumers() -> CaseResult {
    on_own_redis("fault_14_wiped", nothing, async |at, _| {
        let admin = Admin::of(at).await?;
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let service = at.direct.process().await?;
        let mut running = at.direct.start(&service, queue).await?;
        for round in 0..length(5_u32) {
            let from = u64::from(round) * 1_000_000;
            let before = Ledger::new();
            let wiping = async {
                desk.until("some orders", |seen| {
                    done(seen).iter().filter(|id| **id > from).count() > 20
                })
                .await?;
                admin.tell("FLUSHALL").await
            };
            under_load(at, &before, from, wiping).await?;
            // From now on: it is back, by itself, and until then publishes fail.
            let after = Ledger::new();
            let confirmed = || after.balance(&[]).confirmed;
            let going_on = async {
                let some = || async { Ok(confirmed() > 50) };
                at.direct.until("publishes after the wipe", some).await
            };
            let ((), kinds) = under_load(at, &after, from + 500_000, going_on).await?;
            for kind in kinds {
                let says = matches!(kind, ErrorKind::NotFound | ErrorKind::Unroutable);
                ensure!(says, "a {kind:?} for an exchange that was wiped");
            }
            let all = |seen: &[_]| after.balance(seen).lost == 0;
            let handled = desk.until("what was published after", all);
            tokio::select! {
                ended = running.join() => {
                    return Err(Failure::new(format!("the service ended: {ended:?}")));
                }
                handled = handled => drop(handled?),
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_a_publisher_hears_that_everything_was_wiped() -> CaseResult {
    on_own_redis("fault_14_told", nothing, async |at, _| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        publish(at.direct.bus(), 1..=1).await?;
        Admin::of(at).await?.tell("FLUSHALL").await?;
        // Not mandatory: nobody would hear of it otherwise.
        let Err(error) = order(2).publish(at.direct.bus()).await else {
            return Err(Failure::new("a publish went nowhere, and was confirmed"));
        };
        ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
        let text = error.to_string();
        let said = text.contains("wiped") && text.contains(&at.name("order"));
        ensure!(said, "it says: {text}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_scripts_are_forgotten_under_load() -> CaseResult {
    on_own_redis("fault_14_scripts", nothing, async |at, _| {
        let admin = Admin::of(at).await?;
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let ledger = Ledger::new();
        let forgetting = async {
            for _ in 0..length(100_u32) {
                admin.tell("SCRIPT FLUSH").await?;
                let handled = desk.seen().len();
                desk.sees(handled + 1).await?;
            }
            Ok(())
        };
        let ((), kinds) = under_load(at, &ledger, 0, forgetting).await?;
        ensure_eq!(kinds, [], "errors of publishes");
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_14, scripts: {balance}");
        ensure_eq!(balance.duplicated, 0, "{balance}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_a_group_is_destroyed_under_load() -> CaseResult {
    const PREFETCH: usize = 10;
    on_own_redis("fault_14_group", nothing, async |at, _| {
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "billing_order"));
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk).prefetch(PREFETCH);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let ledger = Ledger::new();
        let rounds = length(5_u32);
        let destroying = async {
            for _ in 0..rounds {
                let handled = desk.seen().len();
                desk.sees(handled + 20).await?;
                let destroyed = format!("XGROUP DESTROY {stream} consumers");
                ensure_eq!(admin.ask::<u64>(&destroyed).await?, 1, "groups");
                desk.sees(handled + 40).await?;
            }
            Ok(())
        };
        let ((), kinds) = under_load(at, &ledger, 0, destroying).await?;
        ensure_eq!(kinds, [], "errors of publishes");
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_14, groups: {balance}");
        // What was in flight, whose record is gone with the group.
        let most = PREFETCH * usize::try_from(rounds)?;
        ensure!(balance.duplicated <= most, "{balance}");
        let empty = || async { Ok(admin.ask::<u64>(&format!("XLEN {stream}")).await? == 0) };
        at.direct.until("the stream to be empty", empty).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_the_master_becomes_a_replica_for_a_while() -> CaseResult {
    on_own_redis("fault_14_replica", nothing, async |at, _| {
        let admin = Admin::of(at).await?;
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let ledger = publish(at.direct.bus(), 1..=10).await?;
        let connections = async || admin.info("stats", "total_connections_received").await;

        // Port 1: nobody is there, so it stays without a master.
        admin.tell("REPLICAOF 127.0.0.1 1").await?;
        let before = connections().await?;
        let bus = at.direct.process().await?;
        let bus = bus.with_publish_deadline(Duration::from_secs(2));
        let begin = Instant::now();
        let Err(error) = order(11).publish(&bus).await else {
            return Err(Failure::new("a replica took an order"));
        };
        let took = begin.elapsed();
        ensure!(took < Duration::from_secs(4), "the error took {took:?}");
        ensure_eq!(error.kind(), ErrorKind::Connection, "kind of: {error}");
        ensure!(error.is_retryable(), "it may be tried again: {error}");
        let text = error.to_string();
        ensure!(text.contains("replica"), "it says: {text}");
        let made = connections().await? - before;
        ensure!(made < 100, "{made} connections were made meanwhile");

        admin.tell("REPLICAOF NO ONE").await?;
        let again = || async { Ok(ledger.publish(&bus, order(12)).await.is_ok()) };
        at.direct.until("a publish to the master", again).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        let seen = desk.until("all that was confirmed", all).await?;
        ensure!(!done(&seen).contains(&11), "what a replica refused came");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_the_server_has_no_memory_left() -> CaseResult {
    const ORDERS: u64 = 200;
    on_own_redis("fault_14_memory", nothing, async |at, _| {
        let admin = Admin::of(at).await?;
        // Some wait to be tried again when the memory ends, and most have not been looked at.
        let fails = at.direct.desk().failing(100);
        let policy = RetryPolicy::fixed(LEASE).attempts(100);
        let queue = at.direct.queue("billing_order", &fails).retry(policy);
        let service = at.direct.process().await?;
        let running = at.direct.start(&service, queue.prefetch(8)).await?;
        publish(at.direct.bus(), 1..=ORDERS).await?;
        fails.sees(20).await?;
        admin.tell("CONFIG SET maxmemory 1").await?;
        drop((running, service));

        let Err(error) = order(1_000).publish(at.direct.bus()).await else {
            return Err(Failure::new("a server without memory took an order"));
        };
        ensure_eq!(error.kind(), ErrorKind::Overloaded, "kind of: {error}");
        ensure!(error.is_retryable(), "it may be tried again: {error}");
        let text = error.to_string();
        ensure!(text.contains("maxmemory"), "it says: {text}");

        // A consumer makes room, whatever the retries wait for.
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let stream = format!("XLEN {}", key(at, "stream", "billing_order"));
        let waits = format!("ZCARD {}", key(at, "delayed", "billing_order"));
        let due = Instant::now() + LEASE;
        let consumed =
            || async { Ok(Instant::now() > due && admin.ask::<u64>(&stream).await? == 0) };
        at.direct.until("all but the retries", consumed).await?;
        let waiting: u64 = admin.ask(&waits).await?;
        ensure!(waiting > 0, "no retry waits for memory");

        admin.tell("CONFIG SET maxmemory 0").await?;
        let all = |seen: &[_]| done(seen) == (1..=ORDERS).collect::<Vec<_>>();
        desk.until("all that was confirmed, and no other", all)
            .await?;
        ensure_eq!(admin.ask::<u64>(&waits).await?, 0, "retries that wait");
        publish(at.direct.bus(), 1_001..=1_001).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_14_the_server_loads_its_data_for_a_while() -> CaseResult {
    on_own_redis("fault_14_loads", nothing, async |at, broker| {
        let admin = Admin::of(at).await?;
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let ledger = publish(at.direct.bus(), 1..=10).await?;
        // So much that it takes a while to read it.
        let fill = "for i = 1, 1000000 do redis.call('SET', 'filler:' .. i % 100, i) end";
        let mut cmd = redis::Cmd::new();
        cmd.arg("EVAL").arg(fill).arg(0);
        admin.run(&cmd).await?;
        admin.tell("CONFIG SET appendfsync always").await?;
        admin.tell("SET filler done").await?;

        broker.kill().await?;
        let restarting = broker.restart();
        let publishing = async {
            let mut tick = interval(Duration::from_millis(5));
            for id in 100..=200 {
                tick.tick().await;
                ledger.publish(at.direct.bus(), order(id)).await?;
            }
            Ok::<_, Failure>(())
        };
        let watching = async {
            let client = Client::open(broker.url())?;
            let mut loading = 0;
            for _ in 0..10_000 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let Ok(mut line) = client.get_multiplexed_async_connection().await else {
                    continue;
                };
                let pinged: Result<String, RedisError> =
                    redis::cmd("PING").query_async(&mut line).await;
                match pinged {
                    Ok(_) => break,
                    Err(error) if error.code() == Some("LOADING") => loading += 1,
                    Err(_) => {}
                }
            }
            Ok(loading)
        };
        let (restarted, published, loading) = tokio::join!(restarting, publishing, watching);
        restarted?;
        published?;
        let loading = loading.map_err(|error: RedisError| Failure::from(error))?;
        ensure!(loading > 0, "nobody has seen it load");
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was confirmed", all).await?;
        let balance = ledger.balance(&desk.seen());
        eprintln!("fault_14, loads: {balance}, {loading} times it said so");
        ensure_eq!(balance.refused, 0, "{balance}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_33_everything_is_wiped_and_declared_otherwise_by_others() -> CaseResult {
    on_own_redis("fault_33", nothing, async |at, _| {
        let admin = Admin::of(at).await?;
        let keys = ["order.v1.submit", "order.v1.note"];
        let names = ["billing_order", "logistic_order"];
        for round in 0..length(10_u32) {
            // Other queues, or the same with their bindings the other way round; as many changes each time.
            let turned = round % 2 == 1;
            let specs = names
                .iter()
                .enumerate()
                .map(|(nth, name)| {
                    let nth = if turned { 1 - nth } else { nth };
                    at.direct.spec(name, &[keys[nth]])
                })
                .collect::<CaseResult<Vec<_>>>()?;
            admin.tell("FLUSHALL").await?;
            let others = at.direct.process().await?;
            others
                .topology()
                .declare(&topology(&[&specs[0], &specs[1]]))
                .await?;
            // This one has the table of the round before, and many batches of it at once.
            let publishes = (0..300).map(|nth| raw("order", keys[nth % 2], "{}"));
            let events = publishes.collect::<event_core::Result<Vec<_>>>()?;
            for result in at.cx.bus().publish_all(&events).await {
                match result {
                    Ok(receipt) => ensure_eq!(receipt.queues, Some(1), "queues"),
                    Err(error) => {
                        ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
                    }
                }
            }
            for (nth, name) in names.iter().enumerate() {
                let stream = key(at, "stream", name);
                let stored: Vec<(String, Vec<String>)> =
                    admin.ask(&format!("XRANGE {stream} - +")).await?;
                ensure_eq!(stored.len(), 150, "orders in {name}, round {round}");
                let key = keys[if turned { 1 - nth } else { nth }];
                for (_, fields) in stored {
                    let right = fields.iter().any(|field| field == key);
                    ensure!(right, "in {name}, which is bound to {key}: {fields:?}");
                }
            }
        }
        Ok(())
    })
    .await
}
