//! 9. Release.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, Delivery, DeliveryTag, Result, RetryPolicy, Running, Settle, Settled,
    Settlement,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    Act, CaseResult, Context, Desk, Intercept, Intercepted, Seen,
    case::cases,
    ensure, ensure_eq,
    orders::{order, order_of},
};

cases!(Release:
    a_released_delivery_comes_back_at_once,
    a_release_uses_no_attempt [DelayedRetry],
    a_release_makes_no_suspect,
    a_suspect_that_is_released_stays_one [Isolation],
    a_stopped_service_gives_back_what_it_has_not_started,
    releases_keep_the_order_of_each_partition_key,
    many_restarts_make_no_dead_letter [DeadLetters],
    a_process_that_joins_uses_no_attempts,
    a_rebalance_gives_back_what_has_not_begun,
    a_rebalance_waits_for_what_has_begun_as_long_as_it_may,
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
    let policy = || RetryPolicy::fixed(Duration::from_millis(100)).attempts(2);
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
    consumer.stop().await?;
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
        consumer.stop().await?;
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

async fn a_process_that_joins_uses_no_attempts(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| Act::Take(Duration::from_millis(20)));
    let queue = || cx.queue("billing_order", &desk).concurrency(2).prefetch(8);
    let one = cx.start(&cx.process().await?, queue()).await?;
    for id in 1..=40 {
        order(id).publish(cx.bus()).await?;
    }
    desk.finishes(5).await?;
    let two = cx.start(&cx.process().await?, queue()).await?;
    for id in 41..=80 {
        order(id).publish(cx.bus()).await?;
    }
    desk.finishes(30).await?;
    one.shutdown().await?;
    desk.finishes(60).await?;
    let _three = cx.start(&cx.process().await?, queue()).await?;
    two.shutdown().await?;
    desk.finishes(80).await?;
    let seen = desk
        .sees_no_more_than_for(80, cx.beyond_the_lease())
        .await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "a process that joined or left used attempts"
    );
    let mut numbers: Vec<_> = seen.iter().map(Seen::number).collect();
    numbers.sort_unstable();
    ensure_eq!(numbers, (1..=80).collect::<Vec<_>>(), "handled");
    Ok(())
}

/// Takes the first batch away again, as a rebalance does: it says so when the case wants it, and does it when the
/// framework comes back, which it also tells.
#[derive(Debug)]
struct Rebalancing {
    grace: Duration,
    stage: watch::Sender<Stage>,
    taken: Mutex<Vec<DeliveryTag>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Reading,
    /// The batch was given.
    Given,
    /// The case wants it to be taken away.
    Wanted,
    /// The framework was told, and has a time to finish.
    Revoking,
    /// The framework came back.
    Revoked,
}

impl Rebalancing {
    fn tags(&self) -> Vec<DeliveryTag> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.clone()
    }

    fn generation(&self) -> u64 {
        self.tags().first().map_or(0, |tag| tag.generation)
    }
}

#[async_trait]
impl Intercept for Rebalancing {
    async fn next(
        &self,
        inner: &mut dyn Deliveries,
        settle: &dyn Settle,
        max: usize,
    ) -> Result<Arrival> {
        let stage = *self.stage.borrow();
        match stage {
            Stage::Reading => {
                let arrival = inner.next(max).await?;
                if let Arrival::Batch(batch) = &arrival {
                    let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                    taken.extend(batch.iter().map(Delivery::tag));
                    self.stage.send_replace(Stage::Given);
                }
                Ok(arrival)
            }
            Stage::Given | Stage::Wanted => {
                // The sender is here.
                let mut stage = self.stage.subscribe();
                let _ = stage.wait_for(|stage| *stage == Stage::Wanted).await;
                self.stage.send_replace(Stage::Revoking);
                let (generation, until) = (self.generation(), Instant::now() + self.grace);
                Ok(Arrival::Revoking { generation, until })
            }
            Stage::Revoking => {
                self.stage.send_replace(Stage::Revoked);
                // What is not settled goes to others, and its tags are stale.
                let rest = self.tags().into_iter().map(Settlement::Release);
                for result in settle.settle(rest.collect()).await {
                    result?;
                }
                let generation = self.generation();
                Ok(Arrival::Revoked { generation })
            }
            Stage::Revoked => inner.next(max).await,
        }
    }
}

/// A process that holds five orders, runs one of them, and is going to lose all; the desk holds that one.
async fn losing_process(
    cx: &Context,
    grace: Duration,
) -> CaseResult<(Running, Desk, watch::Sender<Stage>)> {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    for id in 1..=5 {
        order(id).publish(cx.bus()).await?;
    }
    let stage = watch::Sender::new(Stage::Reading);
    let rebalancing = Rebalancing {
        grace,
        stage: stage.clone(),
        taken: Mutex::default(),
    };
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, rebalancing))
        .await?;
    let held = cx.desk().holding();
    let queue = cx.queue("billing_order", &held).concurrency(1);
    let running = cx.start(&bus, queue).await?;
    held.sees(1).await?;
    stage.send_replace(Stage::Wanted);
    Ok((running, held, stage))
}

async fn a_rebalance_gives_back_what_has_not_begun(cx: Context) -> CaseResult {
    let (running, held, stage) = losing_process(&cx, Duration::from_secs(3_600)).await?;
    let desk = cx.desk();
    let _other = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    let seen = desk.finishes(4).await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "a rebalance used attempts"
    );
    // It comes back when what has begun is done and settled, and not before.
    ensure_eq!(*stage.borrow(), Stage::Revoking, "stage");
    held.open();
    cx.within(
        "the framework to come back",
        stage.subscribe().wait_for(|stage| *stage == Stage::Revoked),
    )
    .await??;
    running.shutdown().await?;
    desk.sees_no_more_than_for(4, cx.beyond_the_lease()).await?;
    held.sees_no_more_than(1).await?;
    Ok(())
}

async fn a_rebalance_waits_for_what_has_begun_as_long_as_it_may(cx: Context) -> CaseResult {
    let grace = Duration::from_secs(2);
    let begun = Instant::now();
    let (running, held, stage) = losing_process(&cx, grace).await?;
    cx.within(
        "the framework to come back",
        stage.subscribe().wait_for(|stage| *stage == Stage::Revoked),
    )
    .await??;
    let took = begun.elapsed();
    ensure!(took >= grace, "it came back after {took:?}");
    // What had begun is handled by someone else as well, at the attempt that it was at.
    let desk = cx.desk();
    let _other = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    let seen = desk.until("all five to be handled", |seen| seen.len() >= 4);
    ensure!(
        seen.await?.iter().all(|seen| seen.meta.attempt == 1),
        "a rebalance used attempts"
    );
    held.open();
    held.finishes(1).await?;
    running.shutdown().await?;
    let mut handled: Vec<_> = desk.numbers();
    handled.extend(held.numbers());
    handled.sort_unstable();
    handled.dedup();
    ensure_eq!(handled, [1, 2, 3, 4, 5], "handled");
    cx.nothing_is_left("billing_order").await
}
