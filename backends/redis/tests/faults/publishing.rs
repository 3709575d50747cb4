//! Publishes that are refused, and those that meet a change of the topology.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use event_conformance::{
    CaseResult, Failure, Ledger, ensure, ensure_eq, faults,
    orders::{order, raw},
};
use event_core::{ConnectionState, ErrorKind};

use crate::stage::{Admin, key, nothing, on_own_redis, on_redis};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_06_an_unroutable_message_fails_alone() -> CaseResult {
    on_redis("fault_06", async |at| {
        faults::an_unroutable_message_fails_alone(at).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_15_a_binding_is_added_while_four_tasks_publish() -> CaseResult {
    on_redis("fault_15", async |at| {
        let mut spec = at.direct.spec("billing_order", &["order.v1.note"])?;
        at.direct.declare(&[&spec]).await?;
        let before = at.direct.spec("logistic_order", &["order.*.submit"])?;
        at.direct.declare(&[&before]).await?;
        spec.bindings = at.direct.spec("x", &["order.*.submit"])?.bindings;
        let (declared, over) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let ledger = Ledger::new();
        let tasks: Vec<_> = (0..4)
            .map(|task: u64| {
                let (bus, ledger) = (at.cx.bus().clone(), ledger.clone());
                let (declared, over) = (declared.clone(), over.clone());
                tokio::spawn(async move {
                    let mut id = task * 1_000_000;
                    let (mut early, mut late) = (0, 0);
                    while !over.load(Relaxed) || late < 200 {
                        id += 1;
                        match declared.load(std::sync::atomic::Ordering::SeqCst) {
                            true => {
                                late += 1;
                                ledger.publish(&bus, order(id)).await?;
                            }
                            // What is published before is nobody's business.
                            false => {
                                early += 1;
                                order(id).publish(&bus).await?;
                            }
                        }
                    }
                    Ok::<_, Failure>((early, late))
                })
            })
            .collect();
        // While they are at it, which the other queue shows.
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "logistic_order"));
        let some = || async { Ok(admin.ask::<u64>(&format!("XLEN {stream}")).await? > 100) };
        at.direct.until("some publishes", some).await?;
        at.direct.declare(&[&spec]).await?;
        declared.store(true, std::sync::atomic::Ordering::SeqCst);
        over.store(true, Relaxed);
        for task in tasks {
            let (early, late) = task.await??;
            ensure!(early > 0 && late >= 200, "{early} before and {late} after");
        }
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all that was published after", all)
            .await
            .map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_25_a_payload_over_the_limit_fails_alone() -> CaseResult {
    const LIMIT: usize = 1 << 20;
    let prepare = async |admin: Admin| {
        admin
            .tell(&format!("CONFIG SET proto-max-bulk-len {LIMIT}"))
            .await
    };
    on_own_redis("fault_25", prepare, async |at, _| {
        let mut consumer = at.direct.consumer("billing_order").await?;
        let bus = at.direct.process().await?;
        let mut state = bus.state();
        state.mark_unchanged();
        for round in 0..3 {
            let payloads = [10, LIMIT + 1, 20, 3 * LIMIT, LIMIT];
            let events: Vec<_> = payloads
                .iter()
                .map(|length| raw("order", "order.v1.submit", vec![b'7'; *length]))
                .collect::<event_core::Result<_>>()?;
            let results = bus.publish_all(&events).await;
            let kinds: Vec<_> = results
                .iter()
                .map(|result| result.as_ref().err().map(|error| error.kind()))
                .collect();
            let large = Some(ErrorKind::TooLarge);
            ensure_eq!(
                kinds,
                [None, large, None, large, None],
                "errors of round {round}"
            );
            for (delivery, length) in consumer.take(3).await?.iter().zip([10, 20, LIMIT]) {
                ensure_eq!(delivery.message().payload().len(), length, "bytes");
                consumer.ack(delivery).await?;
            }
        }
        let changed = state.has_changed()? || *state.borrow() != ConnectionState::Connected;
        ensure!(!changed, "its connection was lost");
        consumer.gets_nothing().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_31_two_processes_declare_one_queue_while_a_third_publishes() -> CaseResult {
    on_redis("fault_31", async |at| {
        faults::two_processes_declare_one_queue(at, |_| false).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_queues_on_one_exchange_each_get_theirs() -> CaseResult {
    const QUEUES: usize = 200;
    const EACH: usize = 5;
    const ALL: usize = 20;
    on_own_redis("many", nothing, async |at, _| {
        let specs = (0..QUEUES)
            .map(|nth| {
                let own = format!("order.q{nth}.submit");
                at.direct
                    .spec(&format!("billing_{nth}"), &[&own, "order.all.#"])
            })
            .collect::<CaseResult<Vec<_>>>()?;
        at.direct.declare(&specs.iter().collect::<Vec<_>>()).await?;
        let mut events = Vec::new();
        for nth in 0..EACH * QUEUES {
            let key = format!("order.q{}.submit", nth % QUEUES);
            events.push(raw("order", &key, key.clone())?);
            if nth % (EACH * QUEUES / ALL) == 0 {
                events.push(raw("order", "order.all.submit", "all")?);
            }
        }
        for result in at.direct.bus().publish_all(&events).await {
            let queues = result?.queues;
            ensure!(matches!(queues, Some(1 | 200)), "in {queues:?} queues");
        }
        for (nth, spec) in specs.iter().enumerate() {
            let mut consumer = at.direct.consume(at.direct.bus(), spec).await?;
            let (mut own, mut all) = (0, 0);
            for delivery in consumer.take(EACH + ALL).await? {
                let payload = delivery.message().payload();
                match payload.as_ref() {
                    b"all" => all += 1,
                    key if *key == *format!("order.q{nth}.submit").as_bytes() => own += 1,
                    other => {
                        let other = String::from_utf8_lossy(other);
                        return Err(Failure::new(format!("queue {nth} has {other}")));
                    }
                }
                consumer.ack(&delivery).await?;
            }
            ensure_eq!((own, all), (EACH, ALL), "deliveries of queue {nth}");
        }
        let admin = Admin::of(at).await?;
        for nth in 0..QUEUES {
            let stream = key(at, "stream", &format!("billing_{nth}"));
            let left: u64 = admin.ask(&format!("XLEN {stream}")).await?;
            ensure_eq!(left, 0, "left in queue {nth}");
        }
        Ok(())
    })
    .await
}
