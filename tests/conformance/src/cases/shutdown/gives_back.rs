//! What a service that stops does not finish goes back.

use std::time::Duration;

use async_trait::async_trait;
use event_core::{Arrival, Deliveries, Outcome, Result, RetryPolicy, Service, Settle, Shutdown};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{LONG, declared, publish};
use crate::{
    Act, CaseResult, Context, Desk, Intercept, Intercepted, case::cases, ensure, ensure_eq,
    orders::order_of,
};

cases!(Shutdown:
    a_handler_beyond_the_deadline_goes_back,
    a_second_signal_stops_at_once,
    what_is_being_read_goes_back_at_once,
    a_stop_reaches_every_queue [HandOver],
    a_waiting_retry_does_not_hold_up_the_shutdown [DelayedRetry],
    an_ordered_queue_gives_back_its_retries_at_shutdown [Ordered, DelayedRetry],
    a_retry_that_meets_the_second_signal_goes_back [Ordered, DelayedRetry],
    a_suspect_that_waits_goes_back_at_shutdown [Isolation, DelayedRetry, HandOver],
);

/// A lease that is much longer than what goes back at once takes.
const LEASE: Duration = Duration::from_secs(60);

/// Makes sure that it did not take as long as a lease.
fn at_once(begun: Instant) -> CaseResult {
    let took = begun.elapsed();
    ensure!(took < LEASE / 2, "it took {took:?} and not at once");
    Ok(())
}

async fn a_handler_beyond_the_deadline_goes_back(cx: Context) -> CaseResult {
    let deadline = Duration::from_secs(1);
    let held = cx.desk().holding();
    let running = Service::new("billing")
        .queue(cx.queue("billing_order", &held).lease(LEASE))
        .with_shutdown_deadline(deadline)
        .start(&cx.process().await?)
        .await?;
    publish(&cx, [7]).await?;
    held.sees(1).await?;
    let begun = Instant::now();
    running.shutdown().await?;
    let took = begun.elapsed();
    ensure!(took >= deadline, "it ended after {took:?}");
    ensure_eq!(held.running(), 0, "handlers that still run");
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).lease(LEASE);
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.attempt, 1, "attempt");
    at_once(begun)
}

async fn a_second_signal_stops_at_once(cx: Context) -> CaseResult {
    let held = cx.desk().holding();
    let service = Service::new("billing")
        .queue(cx.queue("billing_order", &held).lease(LEASE).concurrency(2))
        .with_shutdown_deadline(LONG);
    let (stop, stopped) = oneshot::channel::<()>();
    let (now, stopped_now) = oneshot::channel::<()>();
    let shutdown = Shutdown::new(async { stopped.await.unwrap_or(()) }, async {
        stopped_now.await.unwrap_or(())
    });
    let process = cx.process().await?;
    let run = tokio::spawn(async move { service.run(&process, shutdown).await });
    declared(&cx).await?;
    publish(&cx, 1..=4).await?;
    held.sees(2).await?;
    let _ = stop.send(());
    held.sees_no_more_than(2).await?;
    ensure_eq!(held.running(), 2, "handlers after the first signal");
    let begun = Instant::now();
    let _ = now.send(());
    cx.within("the service to end", run).await???;
    ensure_eq!(held.running(), 0, "handlers after the second signal");
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).lease(LEASE);
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(4).await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "the second signal used attempts"
    );
    at_once(begun)
}

/// Holds back what was read until it may go on.
#[derive(Debug)]
struct SlowReader {
    read: watch::Sender<bool>,
    go: watch::Sender<bool>,
}

#[async_trait]
impl Intercept for SlowReader {
    async fn next(
        &self,
        inner: &mut dyn Deliveries,
        _settle: &dyn Settle,
        max: usize,
    ) -> Result<Arrival> {
        let arrival = inner.next(max).await?;
        if matches!(arrival, Arrival::Batch(_)) {
            self.read.send_replace(true);
            // The sender is here.
            let _ = self.go.subscribe().wait_for(|go| *go).await;
        }
        Ok(arrival)
    }
}

async fn what_is_being_read_goes_back_at_once(cx: Context) -> CaseResult {
    let (read, go) = (watch::Sender::new(false), watch::Sender::new(false));
    let (has_read, goes) = (read.subscribe(), go.clone());
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, SlowReader { read, go }))
        .await?;
    let desk = cx.desk();
    let queue = |desk: &Desk| cx.queue("billing_order", desk).lease(LEASE);
    let running = cx.start(&bus, queue(&desk)).await?;
    publish(&cx, [7]).await?;
    let mut reading = has_read;
    cx.within("it to be read", reading.wait_for(|read| *read))
        .await??;
    running.stop_now();
    desk.sees_no_more_than(0).await?;
    let begun = Instant::now();
    goes.send_replace(true);
    running.shutdown().await?;
    let next = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&next)).await?;
    let seen = next.finishes(1).await?;
    ensure!(!seen[0].delivery.is_suspect(), "it is suspected");
    at_once(begun)
}

async fn a_stop_reaches_every_queue(cx: Context) -> CaseResult {
    let (billing, logistic) = (cx.desk().holding(), cx.desk().holding());
    let queue = |name: &str, desk: &Desk| cx.queue(name, desk).lease(LEASE).concurrency(1);
    let running = Service::new("billing")
        .queue(queue("billing_order", &billing))
        .queue(queue("logistic_order", &logistic))
        .start(&cx.process().await?)
        .await?;
    publish(&cx, 1..=3).await?;
    billing.sees(1).await?;
    logistic.sees(1).await?;
    let begun = Instant::now();
    running.stop();
    // Each queue gives back the two that wait.
    for name in ["billing_order", "logistic_order"] {
        let mut spec = cx.spec(name, &["order.*.submit"])?;
        spec.lease = LEASE;
        let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
        for delivery in consumer.take(2).await? {
            consumer.ack(&delivery).await?;
        }
        at_once(begun)?;
        consumer.stop().await?;
    }
    billing.open();
    logistic.open();
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await?;
    cx.nothing_is_left("logistic_order").await
}

async fn a_waiting_retry_does_not_hold_up_the_shutdown(cx: Context) -> CaseResult {
    let wait = Duration::from_secs(5);
    let desk = cx.desk().failing(1);
    let queue = |desk: &Desk| {
        let policy = RetryPolicy::fixed(wait).attempts(2);
        cx.queue("billing_order", desk).retry(policy)
    };
    let running = cx.start(&cx.process().await?, queue(&desk)).await?;
    publish(&cx, [7]).await?;
    let failed = desk.finishes(1).await?;
    let begun = Instant::now();
    running.shutdown().await?;
    let took = begun.elapsed();
    ensure!(took < wait / 2, "it took {took:?}");
    let next = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&next)).await?;
    let seen = next.finishes(1).await?;
    let waited = seen[0].at - failed[0].at;
    ensure!(waited >= wait, "it came after {waited:?}");
    ensure_eq!(seen[0].meta.attempt, 2, "attempt");
    Ok(())
}

async fn an_ordered_queue_gives_back_its_retries_at_shutdown(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| Act::End(Outcome::RetryAfter(LONG)));
    let queue = |desk: &Desk| cx.queue("billing_order", desk).lease(LEASE).ordered();
    let process = cx.process().await?;
    let running = cx.start(&process, queue(&desk)).await?;
    for id in 1..=3 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    cx.until("the failure to be noted", || async {
        Ok(process.counters().retried == 1)
    })
    .await?;
    let begun = Instant::now();
    running.shutdown().await?;
    let next = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&next)).await?;
    next.finishes(3).await?;
    ensure_eq!(next.numbers(), [1, 2, 3], "order");
    at_once(begun)
}

async fn a_retry_that_meets_the_second_signal_goes_back(cx: Context) -> CaseResult {
    let queue = |desk: &Desk| cx.queue("billing_order", desk).lease(LEASE).ordered();
    for yields in 0..6 {
        let desk = cx.desk().doing(|_| Act::End(Outcome::RetryAfter(LONG)));
        let running = cx.start(&cx.process().await?, queue(&desk)).await?;
        if yields == 0 {
            order_of("anna", 1).publish(cx.bus()).await?;
        }
        let begun = Instant::now();
        desk.finishes(1).await?;
        // The failure is on its way to the settler, or back to the worker.
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        running.stop_now();
        running.shutdown().await?;
        at_once(begun)?;
    }
    let begun = Instant::now();
    let desk = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&desk)).await?;
    desk.finishes(1).await?;
    at_once(begun)
}

async fn a_suspect_that_waits_goes_back_at_shutdown(cx: Context) -> CaseResult {
    // It ends processes until every backend suspects it; the last one takes nothing else.
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    publish(&cx, [1]).await?;
    let queue = |desk: &Desk| cx.queue("billing_order", desk).prefetch(1);
    for _ in 0..2 {
        let desk = cx.desk().holding();
        let running = cx.start(&cx.process().await?, queue(&desk)).await?;
        desk.sees(1).await?;
        drop(running);
    }
    let killed = cx.desk().holding();
    let killer = cx.start(&cx.process().await?, queue(&killed)).await?;
    killed.sees(1).await?;
    // It comes to a process that is busy, and waits there.
    let busy = cx.desk().holding();
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &busy))
        .await?;
    publish(&cx, [2]).await?;
    busy.sees(1).await?;
    drop(killer);
    busy.sees_no_more_than_for(1, cx.beyond_the_lease()).await?;
    running.stop();
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].number(), 1, "what went back");
    ensure_eq!(busy.running(), 1, "handlers of the stopping service");
    busy.open();
    running.shutdown().await?;
    desk.sees_no_more_than_for(1, cx.beyond_the_lease()).await?;
    Ok(())
}
