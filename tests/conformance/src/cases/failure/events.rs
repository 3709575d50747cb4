//! Events that a handler returns.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use async_trait::async_trait;
use event_core::{
    Binding, Delivery, Error, ErrorKind, HandlerResult, Message, Queue, Receipt, Result, Settle,
    Settled, Settlement, Transport,
};
use tokio::time::Instant;

use super::{bound, soon};
use crate::{
    CaseResult, Consumer, Context, Intercept, Intercepted,
    case::cases,
    ensure_eq,
    orders::{OrderBilled, OrderSubmitted, order},
};

cases!(Failure:
    events_of_a_handler_are_published_before_its_ack [DelayedRetry],
    a_handler_whose_events_are_refused_runs_again [DelayedRetry],
);

/// A queue for what the service publishes.
async fn billed(cx: &Context) -> CaseResult<Consumer> {
    let mut spec = cx.spec("archive_billed", &[])?;
    let binding = Binding::new("billing", "billing.*.bill")?;
    spec.bindings.push(binding);
    cx.declare(&[&spec]).await?;
    cx.consume(&cx.process().await?, &spec).await
}

/// A queue whose handler returns an event.
fn billing(cx: &Context) -> Queue {
    let bill = |order: OrderSubmitted| async move { OrderBilled { id: order.id } };
    bound("billing_order", cx).handle(bill).named("bill")
}

/// The broker never answers one of the two.
#[derive(Debug)]
enum Silent {
    Publish,
    Settle,
}

#[async_trait]
impl Intercept for Silent {
    async fn publish(
        &self,
        inner: &dyn Transport,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        match self {
            Self::Publish => std::future::pending().await,
            Self::Settle => inner.publish(batch, deadline).await,
        }
    }

    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        match self {
            Self::Publish => inner.settle(settlements).await,
            Self::Settle => std::future::pending().await,
        }
    }
}

async fn events_of_a_handler_are_published_before_its_ack(cx: Context) -> CaseResult {
    let mut billed = billed(&cx).await?;
    let over = |silent| cx.process_over(|transport| Intercepted::around(transport, silent));

    // Published, and not acknowledged.
    let running = cx.start(&over(Silent::Settle).await?, billing(&cx)).await?;
    order(7).publish(cx.bus()).await?;
    let event = billed.next().await?;
    billed.ack(&event).await?;
    drop(running);
    // Not published, and so not acknowledged.
    let bus = over(Silent::Publish).await?;
    let begun = Arc::new(AtomicUsize::new(0));
    let bill = {
        let begun = begun.clone();
        move |order: OrderSubmitted| {
            begun.fetch_add(1, SeqCst);
            async move { OrderBilled { id: order.id } }
        }
    };
    let queue = bound("billing_order", &cx).handle(bill).named("bill");
    let running = cx.start(&bus, queue).await?;
    cx.until("the delivery to come back", || async {
        Ok(begun.load(SeqCst) > 0)
    })
    .await?;
    billed.gets_nothing().await?;
    ensure_eq!(bus.counters().handled, 0, "acknowledged");
    drop(running);
    // Both.
    let running = cx.start(&cx.process().await?, billing(&cx)).await?;
    let event = billed.next().await?;
    billed.ack(&event).await?;
    billed.gets_nothing_for(cx.beyond_the_lease()).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Refuses the first batches of what the handler returns.
#[derive(Debug)]
struct Refusing {
    left: AtomicUsize,
}

#[async_trait]
impl Intercept for Refusing {
    async fn publish(
        &self,
        inner: &dyn Transport,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(SeqCst, SeqCst, one_less).is_err() {
            return inner.publish(batch, deadline).await;
        }
        let refused = || Error::retryable(ErrorKind::Overloaded, "the queue is full");
        batch.iter().map(|_| Err(refused())).collect()
    }
}

async fn a_handler_whose_events_are_refused_runs_again(cx: Context) -> CaseResult {
    let mut billed = billed(&cx).await?;
    let left = AtomicUsize::new(2);
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, Refusing { left }))
        .await?;
    let attempts: Arc<Mutex<Vec<u32>>> = Arc::default();
    let noted = attempts.clone();
    let bill = move |order: OrderSubmitted, delivery: Delivery| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(delivery.attempt());
        async move { HandlerResult::Ok(vec![OrderBilled { id: order.id }]) }
    };
    let other = cx.desk();
    let queue = bound("billing_order", &cx)
        .handle(bill)
        .named("bill")
        .handle(other.takes::<OrderSubmitted>())
        .named("pack")
        .retry(soon());
    let running = cx.start(&bus, queue).await?;
    order(7).publish(cx.bus()).await?;
    let event = billed.next().await?;
    ensure_eq!(crate::desk::number(event.message().payload()), 7, "order");
    billed.ack(&event).await?;
    billed.gets_nothing().await?;
    let attempts = attempts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    ensure_eq!(attempts, [1, 2, 3], "attempts");
    ensure_eq!(other.seen().len(), 1, "runs of the other handler");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}
