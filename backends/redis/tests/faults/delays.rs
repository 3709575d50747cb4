//! Retries that wait: moved once each and never early, whoever ends meanwhile.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use event_conformance::{CaseResult, ensure, ensure_eq, publish};
use event_core::{Settled, Settlement};

use crate::stage::{Admin, key, on_redis};

const ORDERS: u64 = 500;
const WAIT: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_16_two_move_what_is_due_and_one_is_killed() -> CaseResult {
    on_redis("fault_16", async |at| {
        let mut spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        spec.prefetch = 50;
        spec.retry_waits = vec![WAIT];
        at.direct.declare(&[&spec]).await?;
        publish(at.direct.bus(), 1..=ORDERS).await?;
        let mut first = at.direct.consume(at.direct.bus(), &spec).await?;
        // When each of them is due at the earliest.
        let mut due = HashMap::new();
        while due.len() < usize::try_from(ORDERS)? {
            let delivery = first.next().await?;
            due.insert(delivery.message().id().clone(), Instant::now() + WAIT);
            let settled = first
                .settle(Settlement::Retry {
                    tag: delivery.tag(),
                    message: Box::new(delivery.message().clone()),
                    delay: WAIT,
                })
                .await?;
            ensure_eq!(settled, Settled::Done, "a retry");
        }
        let process = at.cx.process().await?;
        let mut killed = at.cx.consume(&process, &spec).await?;
        let mut fresh = HashMap::new();
        let mut held = Vec::new();
        // The one that is killed acknowledges some, and ends with its hands full.
        while held.len() < 30 {
            let delivery = tokio::select! {
                delivery = killed.next() => {
                    let delivery = delivery?;
                    if fresh.len() % 2 == 0 {
                        killed.ack(&delivery).await?;
                    } else {
                        held.push(delivery.message().id().clone());
                    }
                    delivery
                }
                delivery = first.next() => {
                    let delivery = delivery?;
                    first.ack(&delivery).await?;
                    delivery
                }
            };
            let now = Instant::now();
            let id = delivery.message().id().clone();
            let early = due[&id].saturating_duration_since(now);
            ensure!(early.is_zero(), "early by {early:?}");
            ensure_eq!(delivery.redeliveries(), 0, "redeliveries");
            *fresh.entry(id).or_insert(0) += 1;
        }
        at.proxy.refuse(true);
        at.proxy.cut();
        killed.crash().await;
        drop(process);
        // All others once, and what it held again.
        let mut again = HashMap::new();
        let stream = format!("XLEN {}", key(at, "stream", "billing_order"));
        let admin = Admin::of(at).await?;
        while due
            .keys()
            .any(|id| !fresh.contains_key(id) && !again.contains_key(id))
            || held.iter().any(|id| !again.contains_key(id))
        {
            let delivery = first.next().await?;
            let early = due[delivery.message().id()].saturating_duration_since(Instant::now());
            ensure!(early.is_zero(), "early by {early:?}");
            let count = match delivery.redeliveries() {
                0 => &mut fresh,
                _ => &mut again,
            };
            *count.entry(delivery.message().id().clone()).or_insert(0) += 1;
            ensure_eq!(first.ack(&delivery).await?, Settled::Done, "settled");
        }
        first.gets_nothing().await?;
        let twice = fresh.values().chain(again.values()).filter(|n| **n > 1);
        ensure_eq!(twice.count(), 0, "orders that were moved twice");
        // What it had been given and not yet seen comes again as well, and no more than its prefetch.
        ensure!(again.len() <= 50, "{} came again", again.len());
        ensure_eq!(admin.ask::<u64>(&stream).await?, 0, "orders that are left");
        Ok(())
    })
    .await
}
