//! Deliveries that a process gives back.

use std::time::Duration;

use event_core::{RetryPolicy, Settled, Settlement};
use tokio::time::Instant;

use crate::{
    CaseResult, Consumer, Context, Desk,
    case::cases,
    ensure, ensure_eq,
    orders::{order, order_of},
};

cases!(Release:
    a_released_delivery_comes_back_at_once,
    a_release_uses_no_attempt [DelayedRetry],
    a_release_makes_no_suspect,
    a_suspect_that_is_released_stays_one [Isolation],
    a_stopped_service_gives_back_what_it_has_not_started [HandOver],
    releases_keep_the_order_of_each_partition_key,
    many_restarts_make_no_dead_letter [DeadLetters, DelayedRetry],
);

async fn a_released_delivery_comes_back_at_once(cx: Context) -> CaseResult {
    let mut spec = cx.spec("billing_order", &["order.*.submit"])?;
    spec.lease = Duration::from_secs(60);
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    let mut holder = cx.consume(&cx.process().await?, &spec).await?;
    let first = holder.next().await?;
    // To the same consumer, which is the only one.
    let begun = Instant::now();
    ensure_eq!(holder.release(&first).await?, Settled::Done, "settled");
    let again = holder.next().await?;
    ensure_eq!(again.message().id(), first.message().id(), "id");
    // And to another.
    holder.stop().await?;
    let mut other = cx.consume(&cx.process().await?, &spec).await?;
    other.gets_nothing().await?;
    ensure_eq!(holder.release(&again).await?, Settled::Done, "settled");
    let last = other.next().await?;
    ensure_eq!(last.message().id(), first.message().id(), "id");
    let took = begun.elapsed();
    ensure!(took < spec.lease, "it took {took:?} and not at once");
    other.ack(&last).await?;
    other.gets_nothing().await
}

async fn a_release_uses_no_attempt(cx: Context) -> CaseResult {
    // It is at its second attempt when it is given back.
    let desk = cx.desk().failing(1);
    // Long enough for this process to end before it is due.
    let policy = || RetryPolicy::fixed(Duration::from_secs(1)).attempts(2);
    let process = cx.process().await?;
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let running = cx.start(&process, queue).await?;
    order(7).publish(cx.bus()).await?;
    cx.until("the failure to be settled", || async {
        Ok(process.counters().retried == 1)
    })
    .await?;
    drop(running);
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
    for _ in 0..5 {
        let delivery = consumer.next().await?;
        ensure_eq!(delivery.attempt(), 2, "attempt");
        ensure!(delivery.first_failure().is_some(), "no first failure");
        consumer.release(&delivery).await?;
    }
    leave(consumer).await?;
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.attempt, 2, "attempt in the end");
    Ok(())
}

async fn a_release_makes_no_suspect(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    order(7).publish(cx.bus()).await?;
    for _ in 0..6 {
        let delivery = consumer.next().await?;
        ensure!(!delivery.is_suspect(), "it is suspected after a release");
        consumer.release(&delivery).await?;
    }
    // Nor when whole services give it back.
    for _ in 0..6 {
        let desk = cx.desk().holding();
        leave(consumer).await?;
        let running = cx
            .start(&cx.process().await?, cx.queue("billing_order", &desk))
            .await?;
        desk.sees(1).await?;
        running.stop_now();
        running.shutdown().await?;
        consumer = cx.consumer("billing_order").await?;
        let delivery = consumer.next().await?;
        ensure!(!delivery.is_suspect(), "it is suspected after a shutdown");
        consumer.release(&delivery).await?;
    }
    Ok(())
}

/// Ends a consumer and gives back what it had read meanwhile.
async fn leave(mut consumer: Consumer) -> CaseResult {
    for delivery in consumer.stop().await? {
        consumer.release(&delivery).await?;
    }
    Ok(())
}

async fn a_suspect_that_is_released_stays_one(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
    let mut delivery = consumer.next().await?;
    // Some brokers take a while to suspect it.
    for _ in 0..4 {
        if !delivery.is_suspect() {
            consumer.crash().await;
            consumer = cx.consume(&cx.process().await?, &spec).await?;
            delivery = consumer.next().await?;
        }
    }
    // Given back before it was run, which says nothing about it.
    for _ in 0..2 {
        ensure!(delivery.is_suspect(), "it is not suspected");
        consumer.release(&delivery).await?;
        delivery = consumer.next().await?;
    }
    let counted = consumer.isolate(delivery.tag()).await?;
    ensure_eq!(counted, 0, "runs alone that ended in a crash");
    consumer.ack(&delivery).await?;
    consumer.stop().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_stopped_service_gives_back_what_it_has_not_started(cx: Context) -> CaseResult {
    let lease = Duration::from_secs(60);
    let held = cx.desk().holding();
    let queue = cx.queue("billing_order", &held).lease(lease);
    let running = cx
        .start(&cx.process().await?, queue.concurrency(1).prefetch(10))
        .await?;
    for id in 1..=5 {
        order(id).publish(cx.bus()).await?;
    }
    held.sees(1).await?;
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).lease(lease);
    let _other = cx.start(&cx.process().await?, queue).await?;
    desk.sees_no_more_than(0).await?;
    let begun = Instant::now();
    running.stop();
    let seen = desk.finishes(4).await?;
    let took = begun.elapsed();
    ensure!(took < lease / 2, "it took {took:?} and not at once");
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "giving back used an attempt"
    );
    held.open();
    running.shutdown().await?;
    desk.sees_no_more_than_for(4, cx.beyond_the_lease()).await?;
    held.sees_no_more_than(1).await?;
    Ok(())
}

async fn releases_keep_the_order_of_each_partition_key(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    for id in 1..=6 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    let held = consumer.take(6).await?;
    // Not in their order, and in two batches.
    let releases = |of: [usize; 3]| of.map(|at: usize| Settlement::Release(held[at].tag()));
    consumer.stop().await?;
    for batch in [releases([4, 1, 5]), releases([2, 0, 3])] {
        for result in consumer.settle_all(batch.to_vec()).await {
            ensure_eq!(result?, Settled::Done, "settled");
        }
    }
    // As a service does when it is told to stop, with the first of them running.
    for stop_now in [false, true] {
        let desk = cx.desk().holding();
        let queue = cx.queue("billing_order", &desk).concurrency(1);
        let running = cx.start(&cx.process().await?, queue).await?;
        desk.sees(1).await?;
        if !stop_now {
            running.stop();
        }
        running.stop_now();
        running.shutdown().await?;
    }
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.finishes(6).await?;
    ensure_eq!(desk.numbers(), [1, 2, 3, 4, 5, 6], "order");
    Ok(())
}

async fn many_restarts_make_no_dead_letter(cx: Context) -> CaseResult {
    let queue = |desk: &Desk| {
        let policy = RetryPolicy::default().attempts(2);
        cx.queue("billing_order", desk).retry(policy).concurrency(2)
    };
    for restart in 0..12 {
        let desk = cx.desk().holding();
        let running = cx.start(&cx.process().await?, queue(&desk)).await?;
        if restart == 0 {
            for id in 1..=5 {
                order(id).publish(cx.bus()).await?;
            }
        }
        // Some run and some wait.
        desk.sees(2).await?;
        running.stop_now();
        running.shutdown().await?;
    }
    let desk = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&desk)).await?;
    let seen = desk.finishes(5).await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "restarts used attempts"
    );
    desk.sees_no_more_than(5).await?;
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    Ok(())
}
