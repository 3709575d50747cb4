//! Readers that wait: who is woken, when, and with how much.

use std::time::Duration;

use event_core::{Arrival, Settlement, Transport};
use tokio::time::{Instant, timeout};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_batch_is_no_larger_than_asked_for_nor_than_the_prefetch() {
    let mut spec = spec();
    spec.prefetch = 5;
    let (_, transport, mut subscription) = consumed(&spec).await;
    publish_orders(&transport, 0..20).await;
    let first = batch(&mut subscription, 3).await;
    assert_eq!(numbers(&first), [0, 1, 2]);
    assert_eq!(numbers(&batch(&mut subscription, 9).await), [3, 4]);
    assert!(batch_now(&mut subscription, 9).is_empty());

    let settler = subscription.settle.clone();
    let ack = async { settler.settle(vec![Settlement::Ack(first[1].tag())]).await };
    let (next, _) = tokio::join!(batch(&mut subscription, 9), ack);
    assert_eq!(
        numbers(&next),
        [5],
        "a settlement makes room for a reader that waits"
    );
    assert!(next[0].tag() > first[2].tag());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_is_woken_by_a_publish() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    let (got, ()) = tokio::join!(
        batch(&mut subscription, 9),
        publish_orders(&transport, 0..3)
    );
    assert_eq!(numbers(&got), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn readers_that_wait_share_a_batch() {
    let (_, transport, mut first) = consumed(&spec()).await;
    let mut second = transport.consume(&spec()).await.unwrap();
    let mut third = transport.consume(&spec()).await.unwrap();
    let (a, b, c, ()) = tokio::join!(
        batch(&mut first, 256),
        batch(&mut second, 256),
        batch(&mut third, 256),
        publish_orders(&transport, 0..90),
    );
    assert_eq!((a.len(), b.len(), c.len()), (30, 30, 30));
}

#[tokio::test(start_paused = true)]
async fn a_quick_reader_leaves_something_for_one_that_was_woken() {
    let (_, transport, mut quick) = consumed(&spec()).await;
    let mut patient = transport.consume(&spec()).await.unwrap();
    let patient = tokio::spawn(async move { batch(&mut patient, 1).await.len() });
    tokio::task::yield_now().await;
    publish_orders(&transport, 0..10).await;
    let taken: usize = std::iter::from_fn(|| Some(batch_now(&mut quick, 256).len()))
        .take_while(|n| *n > 0)
        .sum();
    assert_eq!((taken, patient.await.unwrap()), (9, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_dropped_while_it_waits_passes_the_word_on() {
    let (_, transport, mut first) = consumed(&spec()).await;
    let mut second = transport.consume(&spec()).await.unwrap();
    let waits = tokio::spawn(async move { numbers(&batch(&mut second, 9).await) });
    // The first waits longest, is woken by the publish, and never comes.
    let mut next = Box::pin(first.deliveries.next(9));
    assert!(timeout(Duration::ZERO, &mut next).await.is_err());
    let rest = tokio::spawn({
        let transport = transport.broker().connect();
        async move { publish_orders(&transport, 0..1).await }
    });
    rest.await.unwrap();
    drop(next);
    assert_eq!(waits.await.unwrap(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_its_delay_and_no_longer() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 9).await;
    let began = Instant::now();
    retry(&subscription, &held[0], 3 * SECOND).await;
    retry(&subscription, &held[1], SECOND).await;
    let state = broker.queue_state(QUEUE).unwrap();
    assert_eq!((state.ready, state.held, state.delayed), (0, 0, 2));

    assert_eq!(numbers(&batch(&mut subscription, 9).await), [1]);
    assert_eq!(began.elapsed(), SECOND);
    let second = batch(&mut subscription, 9).await;
    assert_eq!((numbers(&second), began.elapsed()), (vec![0], 3 * SECOND));
    assert_eq!(
        (second[0].redeliveries(), second[0].is_suspect()),
        (0, false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_delay_comes_at_once() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    retry(&subscription, &held[0], Duration::ZERO).await;
    assert_eq!(numbers(&batch_now(&mut subscription, 9)), [0]);
    assert!(lost(ack(&subscription, &held[0]).await));
}

#[tokio::test(start_paused = true)]
async fn an_earlier_retry_shortens_the_wait_of_a_reader() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    let mut waits = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 9).await;
    let began = Instant::now();
    retry(&subscription, &held[0], 60 * SECOND).await;
    let waits =
        tokio::spawn(async move { (numbers(&batch(&mut waits, 9).await), began.elapsed()) });
    tokio::task::yield_now().await;
    retry(&subscription, &held[1], SECOND).await;
    assert_eq!(waits.await.unwrap(), (vec![1], SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_delay_of_centuries_is_accepted() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    retry(&subscription, &held[0], Duration::MAX).await;
    assert_eq!(broker.queue_state(QUEUE).unwrap().delayed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_reader_ends() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 1).await;
    let stop = subscription.stop.clone();
    subscription.stop.cancel();
    assert!(matches!(
        now(&mut subscription, 9),
        Some(Ok(Arrival::Ended))
    ));
    assert!(matches!(
        now(&mut subscription, 9),
        Some(Ok(Arrival::Ended))
    ));
    // What it holds it may still settle.
    ack(&subscription, &held[0]).await.unwrap();
    let state = broker.queue_state(QUEUE).unwrap();
    assert_eq!((state.ready, state.held, state.consumers), (1, 0, 0));
    assert!(stop.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_can_be_stopped() {
    let (_, _transport, mut subscription) = consumed(&spec()).await;
    let stop = subscription.stop.clone();
    let (end, ()) = tokio::join!(subscription.deliveries.next(9), async { stop.cancel() });
    assert!(matches!(end, Ok(Arrival::Ended)));
}

#[tokio::test(start_paused = true)]
async fn tests_wait_for_a_state_without_looking_again_and_again() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let later = broker.clone();
    let idle = tokio::spawn(async move { later.wait_idle(QUEUE).await });
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 9).await;
    retry(&subscription, &held[0], SECOND).await;
    bury(&subscription, &held[1]).await;
    tokio::task::yield_now().await;
    assert!(!idle.is_finished());
    // The time that passes makes it ready; nobody calls the broker for that.
    assert_eq!(
        broker
            .wait_until(QUEUE, |state| state.ready == 1)
            .await
            .delayed,
        0
    );
    let again = batch(&mut subscription, 9).await;
    ack(&subscription, &again[0]).await.unwrap();
    assert_eq!(idle.await.unwrap().dead, 1);

    let declared = tokio::spawn({
        let broker = broker.clone();
        async move { broker.wait_until("shipping_order", |_| true).await }
    });
    tokio::task::yield_now().await;
    declare(&transport, &named("shipping_order")).await.unwrap();
    assert!(declared.await.unwrap().is_idle());
}
