//! Strict order: one consumer at a time.

use event_core::{QueueSpec, Transport};
use tokio::time::Instant;

use crate::support::*;

fn ordered() -> QueueSpec {
    let mut spec = spec();
    spec.ordered = true;
    spec
}

#[tokio::test(start_paused = true)]
async fn the_oldest_consumer_takes_everything_until_it_ends() {
    let (_, transport, mut first) = consumed(&ordered()).await;
    let mut second = transport.consume(&ordered()).await.unwrap();
    publish_orders(&transport, 0..4).await;
    assert!(batch_now(&mut second, 9).is_empty());
    let held = batch(&mut first, 2).await;
    first.stop.cancel();
    first.deliveries.next(1).await.unwrap();
    assert!(
        batch_now(&mut second, 9).is_empty(),
        "what is held must be settled first"
    );

    let waits = tokio::spawn(async move { numbers(&batch(&mut second, 9).await) });
    tokio::task::yield_now().await;
    ack(&first, &held[0]).await.unwrap();
    release(&first, &held[1]).await;
    assert_eq!(waits.await.unwrap(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_next_takes_over_when_the_lease_of_a_crashed_one_has_passed() {
    let (_, transport, mut first) = consumed(&ordered()).await;
    let mut second = transport.consume(&ordered()).await.unwrap();
    publish_orders(&transport, 0..4).await;
    batch(&mut first, 2).await;
    let began = Instant::now();
    drop(first);
    let got = batch(&mut second, 9).await;
    assert_eq!(
        (numbers(&got), began.elapsed()),
        (vec![0, 1, 2, 3], 30 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_held_nothing_is_followed_at_once() {
    let (_, transport, first) = consumed(&ordered()).await;
    let mut second = transport.consume(&ordered()).await.unwrap();
    let waits = tokio::spawn(async move { numbers(&batch(&mut second, 9).await) });
    tokio::task::yield_now().await;
    publish_orders(&transport, 0..2).await;
    drop(first);
    assert_eq!(waits.await.unwrap(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_full_consumer_waits_without_spinning() {
    let mut narrow = ordered();
    narrow.prefetch = 1;
    let (_, transport, mut subscription) = consumed(&narrow).await;
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 9).await;
    let settle = subscription.settle.clone();
    let waits = tokio::spawn(async move { numbers(&batch(&mut subscription, 9).await) });
    // On this clock time passes only when every task waits.
    tokio::time::sleep(SECOND).await;
    settle
        .settle(vec![event_core::Settlement::Ack(held[0].tag())])
        .await
        .remove(0)
        .unwrap();
    assert_eq!(waits.await.unwrap(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_back_to_its_place() {
    let (_, transport, mut subscription) = consumed(&ordered()).await;
    publish_orders(&transport, 0..3).await;
    let held = batch(&mut subscription, 1).await;
    retry(&subscription, &held[0], SECOND).await;
    tokio::time::advance(SECOND).await;
    assert_eq!(numbers(&batch(&mut subscription, 9).await), [0, 1, 2]);
}
