//! How long a message waits between attempts, and where.

use std::time::Duration;

use event_core::{Delivery, RetryPolicy, Settled};
use tokio::time::Instant;

use super::{fails, retry, waited, with_waits};
use crate::{Act, CaseResult, Context, case::cases, ensure, ensure_eq, orders::order};

cases!(Failure:
    a_retry_waits_for_its_delay [DelayedRetry],
    waits_are_exact [DelayedRetry, ExactDelay],
    waits_keep_their_own_order [DelayedRetry],
    a_waiting_message_holds_no_place [DelayedRetry],
    a_waiting_message_survives_a_crash [DelayedRetry],
);

async fn a_retry_waits_for_its_delay(cx: Context) -> CaseResult {
    let delays = [1_500, 0, 300, 700].map(Duration::from_millis);
    let spec = with_waits(&cx, &delays)?;
    cx.declare(&[&spec]).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    for id in 0..4 {
        order(id).publish(cx.bus()).await?;
    }
    let held = consumer.take(4).await?;
    let begun = Instant::now();
    for delivery in &held {
        let delay = delays[number(delivery)];
        ensure_eq!(
            consumer.settle(retry(delivery, delay)).await?,
            Settled::Done,
            "settled"
        );
    }
    for _ in 0..4 {
        let delivery = consumer.next().await?;
        let (waited, delay) = (begun.elapsed(), delays[number(&delivery)]);
        ensure!(waited >= delay, "it came after {waited:?}, not {delay:?}");
        consumer.ack(&delivery).await?;
    }
    consumer.gets_nothing().await
}

async fn waits_are_exact(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    for delay in [0, 350, 1_130].map(Duration::from_millis) {
        order(7).publish(cx.bus()).await?;
        let delivery = consumer.next().await?;
        let begun = Instant::now();
        consumer.settle(retry(&delivery, delay)).await?;
        let again = consumer.next().await?;
        let waited = begun.elapsed();
        ensure!(waited >= delay, "it came after {waited:?}, not {delay:?}");
        let late = waited - delay;
        ensure!(late < Duration::from_secs(1), "it came {late:?} late");
        consumer.ack(&again).await?;
    }
    Ok(())
}

async fn waits_keep_their_own_order(cx: Context) -> CaseResult {
    // So far apart that they are different steps of any ladder.
    let delays = [2_000, 1_000, 500].map(Duration::from_millis);
    let spec = with_waits(&cx, &delays)?;
    cx.declare(&[&spec]).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    for (id, delay) in (0..).zip(delays) {
        order(id).publish(cx.bus()).await?;
        let delivery = consumer.next().await?;
        consumer.settle(retry(&delivery, delay)).await?;
    }
    for expected in [2, 1, 0] {
        let delivery = consumer.next().await?;
        ensure_eq!(number(&delivery), expected, "the next that is due");
        consumer.ack(&delivery).await?;
    }
    Ok(())
}

fn number(delivery: &Delivery) -> usize {
    usize::try_from(crate::desk::number(delivery.message().payload())).unwrap_or(usize::MAX)
}

async fn a_waiting_message_holds_no_place(cx: Context) -> CaseResult {
    let desk = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, 1) => fails(),
            _ => Act::DONE,
        });
    let queue = cx.queue("billing_order", &desk).concurrency(1).prefetch(1);
    let queue = queue.retry(RetryPolicy::fixed(Duration::from_secs(2)));
    let _running = cx.start(cx.bus(), queue).await?;
    order(1).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    for id in 2..=5 {
        order(id).publish(cx.bus()).await?;
    }
    desk.finishes(6).await?;
    ensure_eq!(desk.numbers().last(), Some(&1), "the last to be handled");
    Ok(())
}

async fn a_waiting_message_survives_a_crash(cx: Context) -> CaseResult {
    let wait = Duration::from_secs(2);
    let policy = || RetryPolicy::fixed(wait).attempts(3);
    let desk = cx.desk().failing(1);
    let process = cx.process().await?;
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let running = cx.start(&process, queue).await?;
    order(7).publish(cx.bus()).await?;
    let failed = desk.finishes(1).await?;
    cx.until("the failure to be settled", || async {
        Ok(process.counters().retried == 1)
    })
    .await?;
    drop(running);
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(1).await?;
    let waited = waited(&failed[0], &seen[0]);
    ensure!(waited >= wait, "it came after {waited:?}");
    ensure_eq!(seen[0].meta.attempt, 2, "attempt");
    ensure!(seen[0].meta.first_failure.is_some(), "no first failure");
    desk.sees_no_more_than_for(1, cx.beyond_the_lease()).await?;
    Ok(())
}
