//! Deliveries that move when processes join and leave.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, Delivery, DeliveryTag, QueueSpec, Result, Running, Settle, Settlement,
    Subscription, Transport,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Act, CaseResult, Context, Desk, Intercept, Intercepted, Seen, case::cases, ensure, ensure_eq,
    orders::order,
};

cases!(Release:
    a_process_that_joins_uses_no_attempts,
    a_rebalance_gives_back_what_has_not_begun [HandOver],
    a_rebalance_waits_for_what_has_begun_as_long_as_it_may,
);

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

/// How many orders are taken away.
const ORDERS: usize = 5;

/// Takes the first orders away again, as a rebalance does: it says so when the case wants it, and does it when the
/// framework comes back, which it also tells.
#[derive(Debug)]
struct Rebalancing {
    grace: Duration,
    stage: watch::Sender<Stage>,
    taken: Mutex<Vec<DeliveryTag>>,
    /// Ends reading from the broker when the batch is taken away: a broker that pushes would otherwise give this
    /// process again what it gives back.
    leaves: bool,
    stop: Mutex<Option<CancellationToken>>,
    /// The generations that are still to be announced: a broker may give a part of them with each.
    left: Mutex<Vec<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Reading,
    /// They were given.
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

    async fn leave(&self, inner: &mut dyn Deliveries, settle: &dyn Settle) -> Result<()> {
        if let Some(stop) = &*self.stop.lock().unwrap_or_else(PoisonError::into_inner) {
            stop.cancel();
        }
        loop {
            match inner.next(1).await? {
                Arrival::Batch(batch) => {
                    let back = batch.iter().map(|late| Settlement::Release(late.tag()));
                    for result in settle.settle(back.collect()).await {
                        result?;
                    }
                }
                Arrival::Ended => return Ok(()),
                _ => {}
            }
        }
    }

    fn generations(&self) -> Vec<u64> {
        let mut generations: Vec<_> = self.tags().iter().map(|tag| tag.generation).collect();
        generations.sort_unstable();
        generations.dedup();
        generations
    }

    fn left(&self) -> MutexGuard<'_, Vec<u64>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Intercept for Rebalancing {
    async fn consume(&self, inner: &dyn Transport, queue: &QueueSpec) -> Result<Subscription> {
        let subscription = inner.consume(queue).await?;
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        *stop = Some(subscription.stop.clone());
        drop(stop);
        Ok(subscription)
    }

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
                    // They may come one by one.
                    if taken.len() == ORDERS {
                        self.stage.send_replace(Stage::Given);
                    }
                }
                Ok(arrival)
            }
            Stage::Given | Stage::Wanted => {
                // The sender is here.
                let mut stage = self.stage.subscribe();
                let _ = stage.wait_for(|stage| *stage == Stage::Wanted).await;
                if self.leaves {
                    self.leave(inner, settle).await?;
                }
                self.stage.send_replace(Stage::Revoking);
                *self.left() = self.generations();
                let generation = self.left().pop().unwrap_or_default();
                let until = Instant::now() + self.grace;
                Ok(Arrival::Revoking { generation, until })
            }
            Stage::Revoking => {
                if let Some(generation) = self.left().pop() {
                    let until = Instant::now() + self.grace;
                    return Ok(Arrival::Revoking { generation, until });
                }
                // What is not settled goes to others, and its tags are stale.
                let rest = self.tags().into_iter().map(Settlement::Release);
                for result in settle.settle(rest.collect()).await {
                    result?;
                }
                // Not before: what had begun could be settled first.
                *self.left() = self.generations();
                self.stage.send_replace(Stage::Revoked);
                let generation = self.left().pop().unwrap_or_default();
                Ok(Arrival::Revoked { generation })
            }
            Stage::Revoked => {
                if let Some(generation) = self.left().pop() {
                    return Ok(Arrival::Revoked { generation });
                }
                inner.next(max).await
            }
        }
    }
}

/// A process that holds five orders, runs one of them, and is going to lose all; the desk holds that one.
async fn losing_process(
    cx: &Context,
    grace: Duration,
    leaves: bool,
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
        leaves,
        stop: Mutex::default(),
        left: Mutex::default(),
    };
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, rebalancing))
        .await?;
    let held = cx.desk().holding();
    let queue = cx.queue("billing_order", &held).concurrency(1);
    let running = cx.start(&bus, queue).await?;
    held.sees(1).await?;
    cx.within(
        "all orders to be given",
        stage.subscribe().wait_for(|stage| *stage == Stage::Given),
    )
    .await??;
    stage.send_replace(Stage::Wanted);
    Ok((running, held, stage))
}

async fn a_rebalance_gives_back_what_has_not_begun(cx: Context) -> CaseResult {
    let (running, held, stage) = losing_process(&cx, Duration::from_secs(3_600), true).await?;
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
    let (running, held, stage) = losing_process(&cx, grace, false).await?;
    cx.within(
        "the framework to come back",
        stage.subscribe().wait_for(|stage| *stage == Stage::Revoked),
    )
    .await??;
    let took = begun.elapsed();
    ensure!(took >= grace, "it came back after {took:?}");
    ensure_eq!(held.running(), 1, "handlers that still run");
    // What had begun comes again, here or elsewhere, at the attempt that it was at.
    held.open();
    let seen = held.finishes(6).await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "a rebalance used attempts"
    );
    running.shutdown().await?;
    let mut numbers = held.numbers();
    // Orders without a key come in any order.
    let mut expected = vec![numbers[0], 1, 2, 3, 4, 5];
    numbers.sort_unstable();
    expected.sort_unstable();
    ensure_eq!(numbers, expected, "handled");
    cx.nothing_is_left("billing_order").await
}
