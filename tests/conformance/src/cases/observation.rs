//! What can be seen.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    ConnectionState, Delivery, End, Message, Outcome, Result, RetryPolicy, Service, Settle,
    Settled, Settlement,
};
use tower::util::MapRequestLayer;

use crate::{
    Act, CaseResult, Context, Intercept, Intercepted,
    case::cases,
    ensure_eq,
    orders::{OrderSubmitted, order, raw},
};

cases!(Observation:
    publishes_and_deliveries_are_counted,
    failures_are_counted [DelayedRetry],
    lost_settlements_are_counted,
    an_observer_sees_each_delivery [DelayedRetry],
    layers_see_every_publish_and_delivery [DelayedRetry],
    a_bus_knows_the_state_of_its_connection,
);

async fn publishes_and_deliveries_are_counted(cx: Context) -> CaseResult {
    let (shop, billing) = (cx.process().await?, cx.process().await?);
    let desk = cx.desk();
    let _running = cx.start(&billing, cx.queue("billing_order", &desk)).await?;
    order(1).publish(&shop).await?;
    for result in shop.publish_all(&[order(2), order(3)]).await {
        result?;
    }
    desk.finishes(3).await?;
    cx.until("all to be counted", || async {
        Ok(billing.counters().handled == 3)
    })
    .await?;
    let (shop, billing) = (shop.counters(), billing.counters());
    ensure_eq!((shop.published, shop.handled), (3, 0), "of the shop");
    ensure_eq!(
        (billing.published, billing.retried, billing.lost),
        (0, 0, 0),
        "other counters of billing"
    );
    Ok(())
}

async fn failures_are_counted(cx: Context) -> CaseResult {
    let desk = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, 1) => Act::fail("the bank is closed"),
            (2, _) => Act::End(Outcome::Reject("no such customer".to_owned())),
            (4, _) => Act::Hold,
            _ => Act::DONE,
        });
    let bus = cx.process().await?;
    let queue = cx
        .queue("billing_order", &desk)
        .bind("order", "order.#")
        .retry(RetryPolicy::fixed(Duration::from_millis(100)));
    let running = cx.start(&bus, queue).await?;
    for id in 1..=4 {
        order(id).publish(cx.bus()).await?;
    }
    let unknown = raw("order", "order.v1.refuse", "{}")?;
    cx.bus().publish(&unknown).await?;
    let counted = |released| {
        let bus = bus.clone();
        move || {
            let counters = bus.counters();
            let all = (
                counters.retried,
                counters.handled,
                counters.dead_lettered,
                counters.released,
            );
            async move { Ok(all == (1, 2, 1, released) && counters.skipped > 0) }
        }
    };
    cx.until("what was not given back to be counted", counted(0))
        .await?;
    running.stop_now();
    running.shutdown().await?;
    cx.until("the release to be counted", counted(1)).await
}

/// Answers every settlement as if it had come too late.
#[derive(Debug)]
struct TooLate;

#[async_trait]
impl Intercept for TooLate {
    async fn settle(&self, _: &dyn Settle, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        settlements.iter().map(|_| Ok(Settled::Lost)).collect()
    }
}

async fn lost_settlements_are_counted(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let late = cx
        .process_over(|transport| Intercepted::around(transport, TooLate))
        .await?;
    let _running = cx.start(&late, cx.queue("billing_order", &desk)).await?;
    order(1).publish(cx.bus()).await?;
    order(2).publish(cx.bus()).await?;
    cx.until("the losses to be counted", || async {
        Ok(late.counters().lost == 2)
    })
    .await?;
    ensure_eq!(late.counters().handled, 0, "handled");
    Ok(())
}

/// A13 of the shop: what one line of a log for each event needs.
async fn an_observer_sees_each_delivery(cx: Context) -> CaseResult {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = lines.clone();
    let desk = cx.desk().failing(1);
    let queue = cx
        .queue("billing_order", &desk)
        .retry(RetryPolicy::fixed(Duration::from_millis(100)));
    let _running = Service::new("billing")
        .queue(queue)
        .inspect(move |observed| {
            let end = match observed.end {
                End::Ack => "ack",
                End::Retry => "retry",
                End::Reject => "reject",
                _ => "?",
            };
            let line = format!(
                "{} {} {} {} {end} {:?} {}",
                observed.service,
                observed.queue,
                observed.delivery.message().key(),
                observed.attempt,
                observed.error,
                observed.elapsed.is_some(),
            );
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        })
        .start(cx.bus())
        .await?;
    order(7).publish(cx.bus()).await?;
    desk.finishes(2).await?;
    let seen = || lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
    cx.until("two lines", || async { Ok(seen().len() == 2) })
        .await?;
    let place = "order.v1.submit";
    let expected = [
        format!("billing billing_order {place} 1 retry Some(\"the bank is closed\") true"),
        format!("billing billing_order {place} 2 ack None true"),
    ];
    ensure_eq!(seen(), expected, "lines");
    Ok(())
}

async fn layers_see_every_publish_and_delivery(cx: Context) -> CaseResult {
    let counter = || Arc::new(AtomicUsize::new(0));
    let (batches, messages, by_queue, by_service) = (counter(), counter(), counter(), counter());
    let bus = cx.process().await?.layer(MapRequestLayer::new({
        let (batches, messages) = (batches.clone(), messages.clone());
        move |batch: Vec<Message>| {
            batches.fetch_add(1, SeqCst);
            messages.fetch_add(batch.len(), SeqCst);
            batch
        }
    }));
    let count = |counter: &Arc<AtomicUsize>| {
        let counter = counter.clone();
        MapRequestLayer::new(move |delivery: Delivery| {
            counter.fetch_add(1, SeqCst);
            delivery
        })
    };
    let desk = cx.desk().failing(1);
    let queue = cx
        .new_queue("billing_order")
        .bind("order", "order.*.submit")
        .lease(cx.lease())
        .retry(RetryPolicy::fixed(Duration::from_millis(100)))
        .layer(count(&by_queue))
        .handle(desk.takes::<OrderSubmitted>())
        .named("bill");
    let _running = Service::new("billing")
        .layer(count(&by_service))
        .queue(queue)
        .start(&bus)
        .await?;
    order(1).publish(&bus).await?;
    for result in bus.publish_all(&[order(2), order(3)]).await {
        result?;
    }
    desk.finishes(6).await?;
    let all = [batches, messages, by_queue, by_service].map(|counter| counter.load(SeqCst));
    ensure_eq!(
        all,
        [2, 3, 6, 6],
        "batches, messages, calls by queue and service"
    );
    Ok(())
}

async fn a_bus_knows_the_state_of_its_connection(cx: Context) -> CaseResult {
    let bus = cx.process().await?;
    let mut state = bus.state();
    cx.within(
        "to be connected",
        state.wait_for(|state| *state == ConnectionState::Connected),
    )
    .await??;
    bus.close().await?;
    cx.within(
        "to be closed",
        state.wait_for(|state| *state == ConnectionState::Closed),
    )
    .await??;
    Ok(())
}
