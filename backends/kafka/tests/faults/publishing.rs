//! Publishes that are refused, and those that meet a change of the topology.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use event_conformance::{
    CaseResult, Failure, ensure, ensure_eq, faults,
    orders::{order, raw},
};
use event_core::{ConnectionState, ErrorKind};

use crate::stage::{Admin, on_kafka};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_06_an_unroutable_message_fails_alone() -> CaseResult {
    on_kafka("fault_06", async |at| {
        faults::an_unroutable_message_fails_alone(at).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_07_a_queue_declared_with_other_arguments() -> CaseResult {
    on_kafka("fault_07", async |at| {
        let desk = at.cx.desk();
        let queue = at.cx.queue("billing_order", &desk);
        let _running = at.cx.start(at.cx.bus(), queue).await?;
        let mut spec = at.cx.spec("billing_order", &["order.*.submit"])?;
        spec.ordered = true;
        let Err(error) = at.direct.declare(&[&spec]).await else {
            return Err(Failure::new("it was declared with other arguments"));
        };
        let text = error.to_string();
        for part in ["ordered", &at.name("billing_order")] {
            ensure!(text.contains(part), "`{part}` is not named: {text}");
        }
        // Other traffic goes on.
        let ledger = event_conformance::publish(at.cx.bus(), 1..=5).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("what was published afterwards", all)
            .await
            .map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_15_a_binding_is_added_while_four_tasks_publish() -> CaseResult {
    on_kafka("fault_15", async |at| {
        let mut spec = at.direct.spec("billing_order", &["order.v1.note"])?;
        at.direct.declare(&[&spec]).await?;
        let spec_before = spec.clone();
        spec.bindings = at.direct.spec("x", &["order.*.submit"])?.bindings;
        let (declared, over) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        // One consumes already: it passes over what no binding lets in, and must not pass over what one does.
        let mut consumer = at
            .direct
            .consume(&at.direct.process().await?, &spec_before)
            .await?;
        let tasks: Vec<_> = (0..4)
            .map(|task: u64| {
                let bus = at.cx.bus().clone();
                let (declared, over) = (declared.clone(), over.clone());
                tokio::spawn(async move {
                    let mut id = task * 1_000_000;
                    let (mut early, mut late) = (0, Vec::new());
                    while !over.load(SeqCst) || late.len() < 200 {
                        id += 1;
                        match declared.load(SeqCst) {
                            true => late.push(order(id).publish(&bus).await?.id),
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
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        let some = || async { Ok(admin.stored(&topic).await? > 100) };
        at.direct.until("some publishes", some).await?;
        at.direct.declare(&[&spec]).await?;
        declared.store(true, SeqCst);
        over.store(true, SeqCst);
        let mut missing = HashSet::new();
        for task in tasks {
            let (early, late) = task.await??;
            ensure!(early > 0, "nothing was published before");
            missing.extend(late);
        }
        ensure!(missing.len() >= 800, "{} after", missing.len());
        while !missing.is_empty() {
            let delivery = consumer.next().await?;
            missing.remove(delivery.message().id());
            consumer.ack(&delivery).await?;
        }
        Ok(())
    })
    .await
}

/// Publishes messages that are too large among others, all at once or one after the other.
async fn too_large(name: &str, at_once: bool) -> CaseResult {
    const LIMIT: usize = 20_000;
    // More than the client lets through: 1,000,000 bytes.
    const MUCH: usize = 1_200_000;
    // Small ones in the end.
    const MANY: usize = 1_000;
    on_kafka(name, async |at| {
        let mut consumer = at.direct.consumer("billing_order").await?;
        let admin = Admin::of(at)?;
        let limit = LIMIT.to_string();
        admin
            .set(&at.name("order"), "max.message.bytes", &limit)
            .await?;
        let bus = at.direct.process().await?;
        let mut state = bus.state();
        state.mark_unchanged();
        for round in 0..3 {
            let payloads = [10, LIMIT + 1, 20, MUCH, 30];
            let events: Vec<_> = payloads
                .iter()
                .map(|length| raw("order", "order.v1.submit", vec![b'7'; *length]))
                .collect::<event_core::Result<_>>()?;
            let mut results = Vec::new();
            if at_once {
                results = bus.publish_all(&events).await;
            } else {
                for event in &events {
                    results.push(bus.publish(event).await);
                }
            }
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
            let mut lengths = Vec::new();
            for delivery in consumer.take(3).await? {
                lengths.push(delivery.message().payload().len());
                consumer.ack(&delivery).await?;
            }
            lengths.sort_unstable();
            ensure_eq!(lengths, [10, 20, 30], "bytes");
        }
        // Together they are far more than the topic takes at once.
        let small = || raw("order", "order.v1.submit", vec![b'7'; LIMIT / 10]);
        let events = (0..MANY).map(|_| small());
        let events: Vec<_> = events.collect::<event_core::Result<_>>()?;
        for result in bus.publish_all(&events).await {
            result?;
        }
        for delivery in consumer.take(MANY).await? {
            consumer.ack(&delivery).await?;
        }
        let changed = state.has_changed()? || *state.borrow() != ConnectionState::Connected;
        ensure!(!changed, "its connection was lost");
        consumer.gets_nothing().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_25_a_payload_over_the_limit_of_the_topic_fails() -> CaseResult {
    too_large("fault_25", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_25_a_payload_over_the_limit_of_the_topic_fails_alone_in_its_batch() -> CaseResult {
    too_large("fault_25_batch", true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_31_two_processes_declare_one_queue_while_a_third_publishes() -> CaseResult {
    on_kafka("fault_31", async |at| {
        faults::two_processes_declare_one_queue(at, |_| false).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_whose_topics_kafka_takes_for_the_same_are_refused() -> CaseResult {
    on_kafka("twins", async |at| {
        let dot = at.direct.spec("billing.order", &["order.*.submit"])?;
        let line = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&dot]).await?;
        let Err(error) = at.direct.declare(&[&line]).await else {
            return Err(Failure::new("both were declared"));
        };
        let text = error.to_string();
        ensure!(text.contains(dot.name.as_str()), "{text}");
        // Again, and the other once this one is gone.
        at.direct.declare(&[&dot]).await?;
        at.direct.bus().topology().delete_queue(&dot.name).await?;
        at.direct.declare(&[&line]).await
    })
    .await
}
