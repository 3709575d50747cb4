//! How a service, a reader and a bus come to their end.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use event_core::{Binding, Service, Settled};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep},
};

use super::{LONG, declared, publish};
use crate::{
    Act, CaseResult, Context, Failure,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderBilled, OrderSubmitted, order},
};

cases!(Shutdown:
    a_stopped_reader_ends,
    a_stopping_service_takes_nothing_more,
    a_stopping_service_finishes_what_it_has_begun,
    acknowledgements_are_flushed_at_shutdown,
    events_of_handlers_are_published_during_shutdown,
    an_idle_service_stops_at_once,
    a_shutdown_ends_although_the_broker_is_silent,
    run_ends_with_its_shutdown,
    closing_a_bus_flushes_its_publishes,
);

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
    let queue = cx
        .new_queue("billing_order")
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
    // They come back, unless the broker heard of them after all: a network may keep what was sent.
    publish(&cx, [3]).await?;
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.until("the next order to be handled", |seen| {
        seen.iter()
            .any(|seen| seen.number() == 3 && seen.ended.is_some())
    })
    .await?;
    desk.sees_no_more_than(3).await?;
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
