//! What a process held when it ended comes back, and nothing is lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use event_core::{Delivery, Error, ErrorKind, Result, RetryPolicy, Settle, Settled, Settlement};

use super::{done, publish};
use crate::{
    Act, CaseResult, Context, Desk, Intercept, Intercepted,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderSubmitted, order},
};

cases!(AtLeastOnce:
    an_acknowledged_delivery_is_gone,
    a_delivery_is_not_acknowledged_before_its_handler_is_done,
    a_delivery_is_not_acknowledged_before_its_last_handler_is_done,
    a_crash_loses_nothing,
    two_crashes_lose_nothing,
    what_a_crashed_consumer_held_comes_back_after_the_lease,
    leases_are_renewed_while_the_subscription_lives,
    a_handler_that_holds_its_thread_keeps_its_lease,
    a_lost_connection_redelivers,
    a_lost_connection_repeats_only_what_had_begun,
    a_settlement_that_was_lost_is_made_up_for,
    the_first_attempt_is_number_one,
    attempts_are_visible [DelayedRetry],
    a_crash_uses_no_attempt_of_its_neighbours [DelayedRetry],
);

async fn an_acknowledged_delivery_is_gone(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    order(7).publish(cx.bus()).await?;
    let delivery = consumer.next().await?;
    ensure_eq!(consumer.ack(&delivery).await?, Settled::Done, "settled");
    consumer.gets_nothing_for(cx.beyond_the_lease()).await?;
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await
}

async fn a_delivery_is_not_acknowledged_before_its_handler_is_done(cx: Context) -> CaseResult {
    let holding = cx.desk().holding();
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &holding))
        .await?;
    order(7).publish(cx.bus()).await?;
    let first = holding.sees(1).await?;
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.sees_no_more_than(0).await?;
    drop(running);
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.id, first[0].meta.id, "id");
    desk.sees_no_more_than(1).await?;
    Ok(())
}

async fn a_delivery_is_not_acknowledged_before_its_last_handler_is_done(cx: Context) -> CaseResult {
    let (first, last) = (cx.desk(), cx.desk().holding());
    let queue = |last: &Desk| {
        cx.queue("billing_order", &first)
            .handle(last.takes::<OrderSubmitted>())
            .named("pack")
    };
    let running = cx.start(&cx.process().await?, queue(&last)).await?;
    order(7).publish(cx.bus()).await?;
    last.sees(1).await?;
    drop(running);
    let last = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&last)).await?;
    last.finishes(1).await?;
    ensure_eq!(first.seen().len(), 2, "runs of the first handler");
    Ok(())
}

async fn a_crash_loses_nothing(cx: Context) -> CaseResult {
    let held = cx.desk().holding();
    let queue = cx.queue("billing_order", &held).concurrency(4).prefetch(20);
    let running = cx.start(&cx.process().await?, queue).await?;
    publish(&cx, 1..=50).await?;
    held.sees(4).await?;
    drop(running);
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.finishes(50).await?;
    desk.sees_no_more_than(50).await?;
    ensure_eq!(done(&desk.seen()), (1..=50).collect(), "handled");
    Ok(())
}

async fn two_crashes_lose_nothing(cx: Context) -> CaseResult {
    // Both hold every third order, and end with others done, held and waiting.
    let desk = cx.desk().doing(|seen| match seen.number() % 3 {
        0 => Act::Hold,
        _ => Act::DONE,
    });
    let queue = || cx.queue("billing_order", &desk).concurrency(3).prefetch(8);
    let one = cx.start(&cx.process().await?, queue()).await?;
    let two = cx.start(&cx.process().await?, queue()).await?;
    publish(&cx, 1..=30).await?;
    desk.until("an order to be held", |seen| {
        seen.iter().any(|seen| seen.number() % 3 == 0)
    })
    .await?;
    drop(one);
    publish(&cx, 31..=40).await?;
    // What the first held comes to the second, and is held there too.
    desk.until("two orders to be held", |seen| {
        let held = seen.iter().filter(|seen| seen.number() % 3 == 0);
        held.count() >= 2
    })
    .await?;
    drop(two);
    let last = cx.desk();
    let _last = cx
        .start(&cx.process().await?, cx.queue("billing_order", &last))
        .await?;
    let before = done(&desk.seen());
    last.until("every order to be handled", move |seen| {
        before.union(&done(seen)).count() == 40
    })
    .await?;
    last.sees_no_more_than(40).await?;
    Ok(())
}

async fn what_a_crashed_consumer_held_comes_back_after_the_lease(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let mut holder = cx.consume(&cx.process().await?, &spec).await?;
    publish(&cx, 1..=3).await?;
    let held = holder.take(3).await?;
    let mut other = cx.consume(&cx.process().await?, &spec).await?;
    other.gets_nothing_for(cx.lease() * 2).await?;
    holder.crash().await;
    let again = other.take(3).await?;
    let ids = |deliveries: &[Delivery]| -> BTreeSet<String> {
        let ids = deliveries.iter().map(|delivery| delivery.message().id());
        ids.map(ToString::to_string).collect()
    };
    ensure_eq!(ids(&again), ids(&held), "what came back");
    other.gets_nothing().await
}

async fn leases_are_renewed_while_the_subscription_lives(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let queue = || cx.queue("billing_order", &desk).concurrency(2).prefetch(10);
    let _one = cx.start(&cx.process().await?, queue()).await?;
    let _two = cx.start(&cx.process().await?, queue()).await?;
    publish(&cx, 1..=10).await?;
    desk.sees(2).await?;
    // Two places in each process.
    desk.sees_no_more_than_for(4, cx.lease() * 5).await?;
    desk.open();
    desk.finishes(10).await?;
    desk.sees_no_more_than_for(10, cx.beyond_the_lease())
        .await?;
    ensure_eq!(done(&desk.seen()), (1..=10).collect(), "handled");
    Ok(())
}

async fn a_handler_that_holds_its_thread_keeps_its_lease(cx: Context) -> CaseResult {
    let lease = cx.lease();
    let runs = Arc::new(AtomicUsize::new(0));
    let queue = || {
        let runs = runs.clone();
        let bill = move |order: OrderSubmitted| {
            let runs = runs.clone();
            async move {
                if order.id == 1 {
                    hold_thread(lease * 2);
                }
                runs.fetch_add(1, SeqCst);
            }
        };
        cx.new_queue("billing_order")
            .bind("order", "order.*.submit")
            .lease(lease)
            .handle(bill)
            .named("bill")
    };
    let _one = cx.start(&cx.process().await?, queue()).await?;
    publish(&cx, 1..=5).await?;
    let _two = cx.start(&cx.process().await?, queue()).await?;
    cx.until("all to be handled", || async { Ok(runs.load(SeqCst) >= 5) })
        .await?;
    let mut other = cx.consumer("billing_order").await?;
    other.gets_nothing_for(cx.beyond_the_lease()).await?;
    ensure_eq!(runs.load(SeqCst), 5, "runs");
    Ok(())
}

/// Holds the thread for this long; on a paused clock, which stands still then, only for a moment.
fn hold_thread(time: Duration) {
    let (begun, seen) = (std::time::Instant::now(), tokio::time::Instant::now());
    let stands_still = || begun.elapsed() > Duration::from_millis(30) && seen.elapsed().is_zero();
    while seen.elapsed() < time && !stands_still() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn a_lost_connection_redelivers(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    publish(&cx, 1..=5).await?;
    desk.sees(5).await?;
    cx.disconnect().await?;
    desk.open();
    // The connection is used again, by the same service.
    cx.until("a publish after the connection was lost", || async {
        Ok(order(6).publish(cx.bus()).await.is_ok())
    })
    .await?;
    desk.until("everything to be handled", |seen| done(seen).len() == 6)
        .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_lost_connection_repeats_only_what_had_begun(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    publish(&cx, 1..=10).await?;
    let desk = cx.desk().holding();
    let queue = cx.queue("billing_order", &desk).concurrency(2).prefetch(20);
    let running = cx.start(&cx.process().await?, queue).await?;
    let begun = desk.sees(2).await?;
    // Twice, the second time before anything was done about the first.
    cx.disconnect().await?;
    cx.disconnect().await?;
    // For as long as it takes to notice.
    desk.sees_no_more_than_for(2, cx.beyond_the_lease()).await?;
    desk.open();
    desk.until("everything to be handled", |seen| done(seen).len() == 10)
        .await?;
    let seen = desk
        .sees_no_more_than_for(12, cx.beyond_the_lease())
        .await?;
    for number in 1..=10 {
        let runs = seen.iter().filter(|seen| seen.number() == number).count();
        let most = 1 + begun.iter().filter(|seen| seen.number() == number).count();
        ensure!(runs <= most, "order {number} was handled {runs} times");
    }
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Does not pass on the first batch, and not back the answers to the second.
#[derive(Debug, Default)]
struct Forgetful(AtomicUsize);

#[async_trait]
impl Intercept for Forgetful {
    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        let count = settlements.len();
        match self.0.fetch_add(1, SeqCst) {
            0 => {}
            1 => drop(inner.settle(settlements).await),
            _ => return inner.settle(settlements).await,
        }
        let lost = || Error::retryable(ErrorKind::Connection, "the answer was lost");
        (0..count).map(|_| Err(lost())).collect()
    }
}

async fn a_settlement_that_was_lost_is_made_up_for(cx: Context) -> CaseResult {
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, Forgetful::default()))
        .await?;
    let desk = cx.desk();
    let running = cx.start(&bus, cx.queue("billing_order", &desk)).await?;
    publish(&cx, 1..=3).await?;
    desk.until("everything to be handled", |seen| done(seen).len() == 3)
        .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn the_first_attempt_is_number_one(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.attempt, 1, "attempt");
    ensure_eq!(seen[0].meta.first_failure, None, "first failure");
    Ok(())
}

async fn attempts_are_visible(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(2);
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let receipt = order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(3).await?;
    for (seen, attempt) in seen.iter().zip(1..) {
        ensure_eq!(seen.meta.attempt, attempt, "attempt");
        ensure_eq!(seen.meta.id, receipt.id, "id");
    }
    let first = seen[1].meta.first_failure;
    ensure_eq!(seen[0].meta.first_failure, None, "first failure at first");
    ensure!(first.is_some(), "the second attempt has no first failure");
    ensure_eq!(seen[2].meta.first_failure, first, "first failure");
    Ok(())
}

async fn a_crash_uses_no_attempt_of_its_neighbours(cx: Context) -> CaseResult {
    // Everything fails once. Then the first that comes again is held, with the others behind it.
    let held = cx.desk().doing(|seen| match seen.meta.attempt {
        1 => Act::fail("the bank is closed"),
        _ => Act::Hold,
    });
    let policy = || RetryPolicy::fixed(Duration::from_millis(100)).attempts(2);
    let queue = cx.queue("billing_order", &held).retry(policy());
    let process = cx.process().await?;
    let running = cx.start(&process, queue.concurrency(1)).await?;
    publish(&cx, 1..=5).await?;
    let seen = held.sees(6).await?;
    let killer = seen[5].number();
    // What failed last may still be on its way to its retry when what failed first is back.
    let retried = || async { Ok(process.counters().retried == 5) };
    cx.until("all of them to be retried", retried).await?;
    drop((running, process));
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(5).await?;
    for seen in seen.iter().filter(|seen| seen.number() != killer) {
        ensure_eq!(seen.meta.attempt, 2, "attempt of {}", seen.number());
    }
    desk.sees_no_more_than(5).await?;
    Ok(())
}
