//! 10. Shutdown.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Binding, Deliveries, Outcome, Queue, Result, RetryPolicy, Service, Settle, Settled,
    Shutdown,
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep},
};

use crate::{
    Act, CaseResult, Context, Desk, Failure, Intercept, Intercepted,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderBilled, OrderSubmitted, order, order_of},
};

cases!(Shutdown:
    a_stopped_reader_ends,
    a_stopping_service_takes_nothing_more,
    a_stopping_service_finishes_what_it_has_begun,
    a_handler_beyond_the_deadline_goes_back,
    a_second_signal_stops_at_once,
    what_is_being_read_goes_back_at_once,
    a_stop_reaches_every_queue,
    acknowledgements_are_flushed_at_shutdown,
    events_of_handlers_are_published_during_shutdown,
    an_idle_service_stops_at_once,
    a_waiting_retry_does_not_hold_up_the_shutdown [DelayedRetry],
    an_ordered_queue_gives_back_its_retries_at_shutdown [Ordered],
    a_retry_that_meets_the_second_signal_goes_back [Ordered],
    a_suspect_that_waits_goes_back_at_shutdown [Isolation],
    a_shutdown_ends_although_the_broker_is_silent,
    run_ends_with_its_shutdown,
    closing_a_bus_flushes_its_publishes,
);

/// So long that nothing in a case waits for its end by mistake.
const LONG: Duration = Duration::from_secs(3_600);

/// A lease that is much longer than what goes back at once takes.
const LEASE: Duration = Duration::from_secs(60);

/// Makes sure that it did not take as long as a lease.
fn at_once(begun: Instant) -> CaseResult {
    let took = begun.elapsed();
    ensure!(took < LEASE / 2, "it took {took:?} and not at once");
    Ok(())
}

async fn publish(cx: &Context, ids: impl IntoIterator<Item = u64>) -> CaseResult {
    for id in ids {
        order(id).publish(cx.bus()).await?;
    }
    Ok(())
}

async fn a_stopped_reader_ends(cx: Context) -> CaseResult {
    // An idle one.
    let mut idle = cx.consumer("billing_order").await?;
    ensure_eq!(idle.stop().await?.len(), 0, "deliveries of an idle reader");
    // One that holds something, which can be settled afterwards.
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=3).await?;
    let mut held = vec![consumer.next().await?];
    held.extend(consumer.stop().await?);
    publish(&cx, 4..=5).await?;
    for delivery in &held {
        ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
    }
    // What it did not take is there for the next.
    let mut next = cx.consumer("billing_order").await?;
    let rest = next.take(5 - held.len()).await?;
    let all: BTreeSet<_> = held
        .iter()
        .chain(&rest)
        .map(|delivery| crate::desk::number(delivery.message().payload()))
        .collect();
    ensure_eq!(all, (1..=5).collect(), "deliveries of both");
    Ok(())
}

async fn a_stopping_service_takes_nothing_more(cx: Context) -> CaseResult {
    let held = cx.desk().holding();
    let service = Service::new("billing")
        .queue(cx.queue("billing_order", &held))
        .with_shutdown_deadline(LONG);
    let mut running = service.start(&cx.process().await?).await?;
    publish(&cx, [1]).await?;
    held.sees(1).await?;
    running.stop();
    publish(&cx, 2..=6).await?;
    held.sees_no_more_than(1).await?;
    held.open();
    cx.within("the service to end", running.join()).await??;
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.finishes(5).await?;
    desk.sees_no_more_than(5).await?;
    held.sees_no_more_than(1).await?;
    Ok(())
}

async fn a_stopping_service_finishes_what_it_has_begun(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| Act::Take(Duration::from_secs(2)));
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    publish(&cx, 1..=3).await?;
    desk.sees(3).await?;
    running.shutdown().await?;
    let ended = desk
        .seen()
        .iter()
        .filter(|seen| seen.ended.is_some())
        .count();
    ensure_eq!(ended, 3, "handlers that ended");
    cx.nothing_is_left("billing_order").await
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

/// Declares the queue, for a service that is started beside the case.
async fn declared(cx: &Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await
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

async fn acknowledgements_are_flushed_at_shutdown(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    publish(&cx, 1..=100).await?;
    desk.finishes(100).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn events_of_handlers_are_published_during_shutdown(cx: Context) -> CaseResult {
    let mut spec = cx.spec("archive_billed", &[])?;
    spec.bindings
        .push(Binding::new("billing", "billing.*.bill")?);
    cx.declare(&[&spec]).await?;
    let mut billed = cx.consume(&cx.process().await?, &spec).await?;
    let (begun, mut begins) = watch::channel(0);
    let bill = move |order: OrderSubmitted| {
        begun.send_modify(|begun| *begun += 1);
        async move {
            sleep(Duration::from_secs(1)).await;
            OrderBilled { id: order.id }
        }
    };
    let queue = Queue::new("billing_order")
        .bind("order", "order.*.submit")
        .lease(cx.lease())
        .handle(bill)
        .named("bill");
    let running = cx.start(&cx.process().await?, queue).await?;
    publish(&cx, 1..=3).await?;
    cx.within(
        "three handlers to begin",
        begins.wait_for(|begun| *begun == 3),
    )
    .await??;
    running.shutdown().await?;
    let events = billed.take(3).await?;
    let numbers: BTreeSet<_> = events
        .iter()
        .map(|delivery| crate::desk::number(delivery.message().payload()))
        .collect();
    ensure_eq!(numbers, (1..=3).collect(), "events");
    cx.nothing_is_left("billing_order").await
}

async fn an_idle_service_stops_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let service = |deadline| {
        Service::new("billing")
            .queue(cx.queue("billing_order", &desk))
            .with_shutdown_deadline(deadline)
    };
    // One that never had anything to do, and one that had.
    for id in [None, Some(7)] {
        let running = service(LONG).start(&cx.process().await?).await?;
        if let Some(id) = id {
            publish(&cx, [id]).await?;
            desk.finishes(1).await?;
        }
        let begun = Instant::now();
        running.shutdown().await?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(10), "it took {took:?}");
    }
    Ok(())
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

async fn a_shutdown_ends_although_the_broker_is_silent(cx: Context) -> CaseResult {
    let held = cx.desk().holding();
    let running = Service::new("billing")
        .queue(cx.queue("billing_order", &held))
        .with_shutdown_deadline(Duration::from_secs(2))
        .start(&cx.process().await?)
        .await?;
    publish(&cx, 1..=2).await?;
    held.sees(2).await?;
    cx.outage(true).await?;
    held.open();
    held.finishes(2).await?;
    let begun = Instant::now();
    let result = running.shutdown().await;
    let took = begun.elapsed();
    cx.outage(false).await?;
    ensure!(took < Duration::from_secs(30), "it took {took:?}");
    ensure!(
        result.is_err(),
        "it ended well, and its acknowledgements did not reach the broker"
    );
    // They come back.
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.finishes(2).await?;
    Ok(())
}

async fn run_ends_with_its_shutdown(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let service = || Service::new("billing").queue(cx.queue("billing_order", &desk));
    // Any future is a signal.
    let (stop, stopped) = oneshot::channel::<()>();
    let (process, run) = (cx.process().await?, service());
    let run = tokio::spawn(async move {
        run.run(&process, async { stopped.await.unwrap_or(()) })
            .await
    });
    declared(&cx).await?;
    publish(&cx, 1..=5).await?;
    desk.finishes(5).await?;
    ensure!(!run.is_finished(), "it ended before its signal");
    let _ = stop.send(());
    cx.within("the service to end", run).await???;
    cx.nothing_is_left("billing_order").await?;
    // One that was there before it began.
    let run = service().run(cx.bus(), async {});
    cx.within("the service to end", run).await??;
    Ok(())
}

async fn closing_a_bus_flushes_its_publishes(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let bus = cx.process().await?;
    let stored: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let publishing: Vec<_> = (1..=50)
        .map(|id| {
            let (bus, stored) = (bus.clone(), stored.clone());
            tokio::spawn(async move {
                if order(id).publish(&bus).await.is_ok() {
                    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                    stored.insert(id);
                }
            })
        })
        .collect();
    // One that is under way, and that nobody waits for any more.
    {
        let first = order(51);
        let mut publish = pin!(async { first.publish(&bus).await });
        let sent = poll_fn(|cx| Poll::Ready(publish.as_mut().poll(cx))).await;
        if let Poll::Ready(result) = sent {
            result?;
        }
    }
    bus.close().await?;
    for task in publishing {
        cx.within("a publish to end", task).await??;
    }
    let stored = stored
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let came = consumer.rest().await?;
    let came: BTreeSet<_> = came
        .iter()
        .map(|delivery| crate::desk::number(delivery.message().payload()))
        .collect();
    ensure!(came.contains(&51), "what was under way is not there");
    let lost: Vec<_> = stored.difference(&came).collect();
    ensure!(lost.is_empty(), "answered with `Ok` and lost: {lost:?}");
    match order(52).publish(&bus).await {
        Ok(_) => Err(Failure::new("a closed bus published")),
        Err(_) => Ok(()),
    }
}
