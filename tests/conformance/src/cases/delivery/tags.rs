//! Deliveries are settled once, by their tags.

use std::time::Duration;

use event_core::{Arrival, Delivery, Result, Settled, Settlement, Subscription};

use super::publish;
use crate::{CaseResult, Context, Failure, case::cases, ensure, ensure_eq};

cases!(AtLeastOnce:
    a_stale_tag_settles_nothing [DelayedRetry, DeadLetters],
    settling_twice_settles_once [DelayedRetry, DeadLetters],
    settlements_are_answered_in_order [DelayedRetry, DeadLetters],
    a_batch_is_never_larger_than_asked_for,
);

async fn a_stale_tag_settles_nothing(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=4).await?;
    let stale = consumer.take(4).await?;
    cx.disconnect().await?;
    // The same four, with other tags.
    let mut held = consumer.rest().await?;
    if held.is_empty() {
        // With leases a consumer goes on with what it holds: then the process ends, and another has them.
        consumer.crash().await;
        consumer = cx
            .consume(
                &cx.process().await?,
                &cx.spec("billing_order", &["order.*.submit"])?,
            )
            .await?;
    }
    let missing = 4_usize.saturating_sub(held.len());
    held.extend(consumer.take(missing).await?);
    let settlements = vec![
        Settlement::Ack(stale[0].tag()),
        Settlement::Release(stale[1].tag()),
        retry(&stale[2], Duration::ZERO),
        dead_letter(&stale[3]),
    ];
    for (at, result) in consumer
        .settle_all(settlements)
        .await
        .into_iter()
        .enumerate()
    {
        ensure_eq!(result?, Settled::Lost, "answer to stale settlement {at}");
    }
    ensure!(
        consumer.isolate(stale[0].tag()).await.is_err(),
        "a run alone of a stale delivery was recorded"
    );
    consumer.gets_nothing().await?;
    for delivery in &held {
        ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
    }
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await?;
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    Ok(())
}

async fn settling_twice_settles_once(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=5).await?;
    let held = consumer.take(5).await?;
    let second = [
        Settlement::Ack(held[0].tag()),
        Settlement::Release(held[1].tag()),
        retry(&held[2], Duration::ZERO),
        dead_letter(&held[3]),
    ];
    for (delivery, second) in held.iter().zip(second) {
        ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "the first");
        ensure_eq!(consumer.settle(second).await?, Settled::Lost, "the second");
    }
    // In one batch too.
    let twice = vec![Settlement::Ack(held[4].tag()), dead_letter(&held[4])];
    let results: Result<Vec<_>> = consumer.settle_all(twice).await.into_iter().collect();
    ensure_eq!(results?, [Settled::Done, Settled::Lost], "in one batch");
    consumer.gets_nothing().await?;
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await?;
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    Ok(())
}

async fn settlements_are_answered_in_order(cx: Context) -> CaseResult {
    use Settled::{Done, Lost};
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=7).await?;
    let held = consumer.take(7).await?;
    let tag = |at: usize| held[at].tag();
    for gone in [1, 4, 6] {
        consumer.ack(&held[gone]).await?;
    }
    let batch = vec![
        Settlement::Ack(tag(0)),
        Settlement::Ack(tag(1)),
        retry(&held[2], Duration::from_secs(3_600)),
        dead_letter(&held[3]),
        retry(&held[4], Duration::from_secs(3_600)),
        Settlement::Ack(tag(5)),
        Settlement::Release(tag(6)),
    ];
    let results: Result<Vec<_>> = consumer.settle_all(batch).await.into_iter().collect();
    let expected = [Done, Lost, Done, Done, Lost, Done, Lost];
    ensure_eq!(results?, expected, "answers");
    let none = consumer.settle_all(Vec::new()).await;
    ensure_eq!(none.len(), 0, "answers to an empty batch");
    Ok(())
}

async fn a_batch_is_never_larger_than_asked_for(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    publish(&cx, 1..=20).await?;
    let Subscription {
        mut deliveries,
        settle,
        ..
    } = cx.process().await?.transport().consume(&spec).await?;
    let mut came = 0;
    for max in (1..=4).cycle() {
        let arrival = cx.within("a batch", deliveries.next(max)).await??;
        let Arrival::Batch(batch) = arrival else {
            return Err(Failure::new(format!("not a batch: {arrival:?}")));
        };
        ensure!(
            (1..=max).contains(&batch.len()),
            "{} deliveries, and {max} were asked for",
            batch.len()
        );
        ensure!(
            batch.is_sorted_by_key(Delivery::tag),
            "a batch is not in the order of its tags"
        );
        came += batch.len();
        let acks = batch.iter().map(|delivery| Settlement::Ack(delivery.tag()));
        settle.settle(acks.collect()).await;
        if came >= 20 {
            break;
        }
    }
    ensure_eq!(came, 20, "deliveries");
    Ok(())
}

fn retry(delivery: &Delivery, delay: Duration) -> Settlement {
    Settlement::Retry {
        tag: delivery.tag(),
        message: Box::new(delivery.message().clone()),
        delay,
    }
}

fn dead_letter(delivery: &Delivery) -> Settlement {
    Settlement::DeadLetter {
        tag: delivery.tag(),
        message: Box::new(delivery.message().clone()),
    }
}
