//! 8. Back-pressure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, QueueSpec, Result, Service, Settle, Settled, Settlement, Subscription,
    Transport,
};

use crate::{
    Act, CaseResult, Context, Intercept, Intercepted, Ledger,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, order},
};

cases!(BackPressure:
    handlers_in_flight_are_bounded_by_concurrency,
    concurrency_is_used,
    deliveries_held_are_bounded_by_prefetch,
    one_place_is_one_at_a_time,
    a_slow_queue_does_not_hold_up_another,
    a_backlog_is_handled_in_full,
);

async fn handlers_in_flight_are_bounded_by_concurrency(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let queue = cx.queue("billing_order", &desk).concurrency(3);
    let _running = cx.start(cx.bus(), queue).await?;
    for id in 0..20 {
        order(id).publish(cx.bus()).await?;
    }
    desk.sees(3).await?;
    desk.sees_no_more_than(3).await?;
    desk.open();
    desk.finishes(20).await?;
    ensure_eq!(desk.most_running(), 3, "handlers at the same time");

    // The same when several workers share the places. Notes have no key, so that each worker gets its part.
    let desk = cx.desk().holding();
    let queue = cx
        .new_queue("billing_note")
        .bind("order", "order.*.note")
        .concurrency(5)
        .workers(3)
        .handle(desk.takes::<OrderNoted>())
        .named("note");
    let _notes = cx.start(cx.bus(), queue).await?;
    for id in 0..20 {
        OrderNoted { id }.publish(cx.bus()).await?;
    }
    desk.sees(5).await?;
    desk.sees_no_more_than(5).await?;
    desk.open();
    desk.finishes(20).await?;
    Ok(())
}

async fn concurrency_is_used(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let queue = cx.queue("billing_order", &desk).concurrency(24);
    let _running = cx.start(cx.bus(), queue).await?;
    for id in 0..24 {
        order(id).publish(cx.bus()).await?;
    }
    desk.sees(24).await?;
    ensure_eq!(desk.running(), 24, "handlers at the same time");
    desk.open();
    desk.finishes(24).await?;
    Ok(())
}

/// Counts what a process holds that is not settled.
#[derive(Debug, Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[derive(Debug)]
struct CountHeld(Arc<Held>);

#[async_trait]
impl Intercept for CountHeld {
    async fn consume(&self, inner: &dyn Transport, queue: &QueueSpec) -> Result<Subscription> {
        // The broker may bound it too, which is not what the case is about.
        let mut queue = queue.clone();
        queue.prefetch = 10_000;
        inner.consume(&queue).await
    }

    async fn next(
        &self,
        inner: &mut dyn Deliveries,
        _: &dyn Settle,
        max: usize,
    ) -> Result<Arrival> {
        let arrival = inner.next(max).await?;
        if let Arrival::Batch(batch) = &arrival {
            let now = self.0.now.fetch_add(batch.len(), SeqCst) + batch.len();
            self.0.most.fetch_max(now, SeqCst);
        }
        Ok(arrival)
    }

    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        // Before the broker's answer, so that what it gives in exchange is not counted on top.
        self.0.now.fetch_sub(settlements.len(), SeqCst);
        inner.settle(settlements).await
    }
}

async fn deliveries_held_are_bounded_by_prefetch(cx: Context) -> CaseResult {
    let held = Arc::new(Held::default());
    let count = CountHeld(held.clone());
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, count))
        .await?;
    // The first two stay for a while, so that the prefetch fills up; then places become free one by one.
    let desk = cx.desk().doing(|seen| match seen.nth {
        0 | 1 => Act::Hold,
        nth => Act::Take(Duration::from_millis(nth as u64 % 3 * 5 + 5)),
    });
    // Before the start: what is there at once comes in large batches.
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let orders: Vec<_> = (0..40).map(order).collect();
    for result in cx.bus().publish_all(&orders).await {
        result?;
    }
    let queue = cx.queue("billing_order", &desk).concurrency(2).prefetch(5);
    let _running = cx.start(&bus, queue).await?;
    cx.until("the prefetch to be used", || async {
        Ok(held.now.load(SeqCst) == 5)
    })
    .await?;
    desk.sees_no_more_than(2).await?;
    desk.open();
    desk.finishes(40).await?;
    let most = held.most.load(SeqCst);
    ensure!(
        most <= 5,
        "{most} deliveries were held with a prefetch of 5"
    );
    Ok(())
}

async fn one_place_is_one_at_a_time(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| Act::Take(Duration::from_millis(5)));
    let queue = cx.queue("billing_order", &desk).concurrency(1);
    let _running = cx.start(cx.bus(), queue).await?;
    for id in 1..=10 {
        order(id).publish(cx.bus()).await?;
    }
    desk.finishes(10).await?;
    ensure_eq!(desk.most_running(), 1, "handlers at the same time");
    Ok(())
}

async fn a_slow_queue_does_not_hold_up_another(cx: Context) -> CaseResult {
    let (slow, fast) = (cx.desk().holding(), cx.desk());
    let _running = Service::new("billing")
        .queue(cx.queue("billing_slow", &slow).concurrency(1).prefetch(2))
        .queue(cx.queue("billing_fast", &fast))
        .start(cx.bus())
        .await?;
    for id in 0..30 {
        order(id).publish(cx.bus()).await?;
    }
    slow.sees(1).await?;
    fast.finishes(30).await?;
    slow.sees_no_more_than(1).await?;
    slow.open();
    slow.finishes(30).await?;
    Ok(())
}

async fn a_backlog_is_handled_in_full(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let ledger = Ledger::new();
    for batch in 0..10 {
        let orders: Vec<_> = (0..100).map(|at| order(batch * 100 + at)).collect();
        for result in ledger.publish_all(cx.bus(), &orders).await {
            result?;
        }
    }
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).concurrency(4).prefetch(16);
    let _running = cx.start(&cx.process().await?, queue).await?;
    desk.finishes(1_000).await?;
    let seen = desk.sees_no_more_than(1_000).await?;
    ledger.balance(&seen).expect_balanced()
}
