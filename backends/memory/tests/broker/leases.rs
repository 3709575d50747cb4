//! What becomes of deliveries whose consumer is gone, and which of them are suspected.

use std::time::Duration;

use event_core::{ErrorKind, Settlement, Transport};
use tokio::time::{Instant, advance};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_subscription_that_lives_keeps_what_it_holds() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    advance(3_600 * SECOND).await;
    assert_eq!(broker.queue_state(QUEUE).unwrap().held, 1);
    ack(&subscription, &held[0]).await.unwrap();
    assert!(broker.queue_state(QUEUE).unwrap().is_idle());
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_subscription_held_comes_back_after_its_lease_as_suspects() {
    let (broker, transport, mut crashes) = consumed(&spec()).await;
    let mut other = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..4).await;
    let held = batch(&mut crashes, 3).await;
    ack(&crashes, &held[1]).await.unwrap();
    let began = Instant::now();
    drop(crashes);
    assert_eq!(broker.queue_state(QUEUE).unwrap().held, 2);

    let first = batch(&mut other, 1).await;
    assert_eq!(
        (numbers(&first), began.elapsed()),
        (vec![3], Duration::ZERO)
    );
    let back = batch(&mut other, 9).await;
    assert_eq!((numbers(&back), began.elapsed()), (vec![0, 2], 30 * SECOND));
    assert!(
        back.iter()
            .all(|delivery| delivery.redeliveries() == 1 && delivery.is_suspect())
    );
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_stands_before_what_came_later() {
    let (_, transport, mut crashes) = consumed(&spec()).await;
    publish_orders(&transport, 0..3).await;
    batch(&mut crashes, 2).await;
    drop(crashes);
    advance(30 * SECOND).await;
    publish_orders(&transport, 3..5).await;
    let mut other = transport.consume(&spec()).await.unwrap();
    assert_eq!(numbers(&batch(&mut other, 9).await), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn settling_may_outlive_reading() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 9).await;
    let settle = subscription.settle.clone();
    drop(subscription);
    advance(60 * SECOND).await;
    assert_eq!(broker.queue_state(QUEUE).unwrap().held, 2);
    settle
        .settle(vec![Settlement::Ack(held[0].tag())])
        .await
        .remove(0)
        .unwrap();
    drop(settle);
    advance(30 * SECOND).await;
    let state = broker.queue_state(QUEUE).unwrap();
    assert_eq!((state.ready, state.held), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn stopping_without_settling_is_a_crash_as_well() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    batch(&mut subscription, 9).await;
    subscription.stop.cancel();
    subscription.deliveries.next(1).await.unwrap();
    drop(subscription);
    let mut other = transport.consume(&spec()).await.unwrap();
    assert!(batch_now(&mut other, 9).is_empty());
    assert!(batch(&mut other, 9).await[0].is_suspect());
}

#[tokio::test(start_paused = true)]
async fn a_release_goes_back_to_its_place_and_counts_nothing() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..5).await;
    let held = batch(&mut subscription, 4).await;
    release(&subscription, &held[2]).await;
    release(&subscription, &held[1]).await;
    assert!(lost(ack(&subscription, &held[1]).await), "its tag is spent");
    let back = batch(&mut subscription, 9).await;
    assert_eq!(numbers(&back), [1, 2, 4]);
    assert!(
        back.iter()
            .all(|delivery| delivery.redeliveries() == 0 && !delivery.is_suspect())
    );
    assert!(back[0].tag() > held[3].tag());
}

#[tokio::test(start_paused = true)]
async fn a_settled_tag_settles_nothing_more() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let mut other = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 1).await;
    ack(&subscription, &held[0]).await.unwrap();
    assert!(lost(ack(&subscription, &held[0]).await));
    let others = batch(&mut other, 1).await;
    assert!(
        lost(ack(&subscription, &others[0]).await),
        "a tag of somebody else"
    );
    assert_eq!(broker.queue_state(QUEUE).unwrap().held, 1);
    assert_eq!(
        subscription
            .settle
            .isolate(held[0].tag())
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

/// A consumer that takes one suspect, says that it runs alone, and crashes.
async fn crash_alone(transport: &event_memory::MemoryTransport) -> u32 {
    let mut subscription = transport.consume(&spec()).await.unwrap();
    let suspect = batch(&mut subscription, 1).await;
    assert!(suspect[0].is_suspect());
    let alone = subscription.settle.isolate(suspect[0].tag()).await.unwrap();
    assert_eq!(
        subscription.settle.isolate(suspect[0].tag()).await.unwrap(),
        alone,
        "one delivery counts once"
    );
    alone
}

#[tokio::test(start_paused = true)]
async fn only_crashes_alone_are_counted() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    for _ in 0..2 {
        batch(&mut subscription, 1).await;
        drop(subscription);
        subscription = transport.consume(&spec()).await.unwrap();
        broker.wait_until(QUEUE, |state| state.ready == 1).await;
    }
    drop(subscription);
    assert_eq!(crash_alone(&transport).await, 0);
    assert_eq!(crash_alone(&transport).await, 1);

    // A connection that is lost is no crash, and a release ends the suspicion.
    let mut subscription = transport.consume(&spec()).await.unwrap();
    let suspect = batch(&mut subscription, 1).await;
    assert_eq!(
        (suspect[0].redeliveries(), suspect[0].is_suspect()),
        (4, true)
    );
    assert_eq!(
        subscription.settle.isolate(suspect[0].tag()).await.unwrap(),
        2
    );
    broker.disconnect_all();
    let suspect = batch(&mut subscription, 1).await;
    assert_eq!(
        (suspect[0].redeliveries(), suspect[0].is_suspect()),
        (5, true)
    );
    release(&subscription, &suspect[0]).await;
    let suspect = batch(&mut subscription, 1).await;
    assert!(suspect[0].is_suspect(), "it did not run");
    assert_eq!(
        subscription.settle.isolate(suspect[0].tag()).await.unwrap(),
        2
    );
    release(&subscription, &suspect[0]).await;
    let cleared = batch(&mut subscription, 1).await;
    assert!(!cleared[0].is_suspect());
    assert_eq!(
        subscription.settle.isolate(cleared[0].tag()).await.unwrap(),
        2
    );

    // A retry is another message, of which nothing is known.
    retry(&subscription, &cleared[0], SECOND).await;
    let fresh = batch(&mut subscription, 1).await;
    assert_eq!((fresh[0].redeliveries(), fresh[0].is_suspect()), (0, false));
    assert_eq!(
        subscription.settle.isolate(fresh[0].tag()).await.unwrap(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_gets_what_a_crashed_one_held() {
    let (_, transport, mut crashes) = consumed(&spec()).await;
    let mut other = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..1).await;
    batch(&mut crashes, 9).await;
    let began = Instant::now();
    let waits =
        tokio::spawn(async move { (numbers(&batch(&mut other, 9).await), began.elapsed()) });
    tokio::task::yield_now().await;
    drop(crashes);
    assert_eq!(waits.await.unwrap(), (vec![0], 30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_gets_what_another_releases() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    let mut other = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    let (got, ()) = tokio::join!(batch(&mut other, 9), release(&subscription, &held[0]));
    assert_eq!(numbers(&got), [0]);
}
