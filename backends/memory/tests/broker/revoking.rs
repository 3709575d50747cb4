//! Deliveries that are taken away: rebalances, lost connections, outages.

use std::{pin::pin, time::Duration};

use event_core::{Arrival, ConnectionState, ErrorKind, Transport};
use tokio::time::{Instant, advance};

use crate::support::*;

fn revoking(arrival: Option<event_core::Result<Arrival>>) -> (u64, Instant) {
    match arrival {
        Some(Ok(Arrival::Revoking { generation, until })) => (generation, until),
        other => panic!("not revoking but {other:?}"),
    }
}

fn revoked(arrival: Option<event_core::Result<Arrival>>) -> u64 {
    match arrival {
        Some(Ok(Arrival::Revoked { generation })) => generation,
        other => panic!("not revoked but {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_generation_is_drained_then_taken_away() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..4).await;
    let held = batch(&mut subscription, 3).await;
    let generation = held[0].tag().generation;
    broker.revoke(QUEUE, 5 * SECOND).unwrap();
    let (taken, until) = revoking(now(&mut subscription, 9));
    assert_eq!((taken, until), (generation, Instant::now() + 5 * SECOND));
    ack(&subscription, &held[0]).await.unwrap();

    assert_eq!(revoked(now(&mut subscription, 9)), generation);
    assert!(lost(ack(&subscription, &held[1]).await));
    let back = batch(&mut subscription, 9).await;
    assert_eq!(numbers(&back), [1, 2, 3]);
    assert!(
        back.iter()
            .all(|delivery| delivery.tag().generation > generation && !delivery.is_suspect())
    );
    assert_eq!(
        back.iter()
            .map(|delivery| delivery.redeliveries())
            .collect::<Vec<_>>(),
        [1, 1, 0]
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_come_back_loses_them_when_the_grace_has_passed() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let mut other = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    broker.revoke(QUEUE, SECOND).unwrap();
    revoking(now(&mut other, 9));
    revoked(now(&mut other, 9));
    let began = Instant::now();
    // The first never calls `next`; the other waits for what it holds.
    assert_eq!(numbers(&batch(&mut other, 9).await), [0]);
    assert_eq!(began.elapsed(), SECOND);
    assert!(lost(ack(&subscription, &held[0]).await));
    assert_eq!(revoked(now(&mut subscription, 9)), held[0].tag().generation);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_hears_of_a_rebalance() {
    let (broker, _transport, mut subscription) = consumed(&spec()).await;
    let (arrival, ()) = tokio::join!(subscription.deliveries.next(9), async {
        broker.revoke(QUEUE, SECOND).unwrap()
    });
    revoking(Some(arrival));
    assert_eq!(
        broker.revoke("shipping_order", SECOND).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_gives_everything_back_without_suspicion() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let mut prices = transport.consume(&ephemeral()).await.unwrap();
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 9).await;
    let mut state = transport.state();
    state.mark_unchanged();
    broker.disconnect_all();
    assert!(state.has_changed().unwrap());
    assert_eq!(*state.borrow(), ConnectionState::Connected);

    assert!(lost(ack(&subscription, &held[0]).await));
    assert_eq!(
        revoked(now(&mut subscription, 9)),
        held[0].tag().generation,
        "what has not begun need not begin"
    );
    let back = batch(&mut subscription, 9).await;
    assert_eq!(numbers(&back), [0, 1]);
    assert!(
        back.iter()
            .all(|delivery| delivery.redeliveries() == 1 && !delivery.is_suspect())
    );
    assert!(back[0].tag().generation > held[0].tag().generation);
    assert!(
        batch_now(&mut prices, 9).is_empty(),
        "at most once: it went with the connection"
    );
    publish_orders(&transport, 2..3).await;
    assert_eq!(numbers(&batch(&mut prices, 9).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_wakes_readers_of_what_comes_back() {
    let (broker, transport, mut holds) = consumed(&spec()).await;
    let mut waits = transport.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..1).await;
    batch(&mut holds, 9).await;
    let (got, ()) = tokio::join!(batch(&mut waits, 9), async { broker.disconnect_all() });
    assert_eq!(numbers(&got), [0]);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_publishes_wait_and_the_rest_fails() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 1).await;
    broker.outage(true);
    assert_eq!(*transport.state().borrow(), ConnectionState::Reconnecting);
    assert_eq!(
        *broker.connect().state().borrow(),
        ConnectionState::Reconnecting
    );
    let error = ack(&subscription, &held[0]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Connection && error.is_retryable());
    assert_eq!(
        declare(&transport, &spec()).await.unwrap_err().kind(),
        ErrorKind::Connection
    );
    assert!(batch_now(&mut subscription, 9).is_empty());

    let began = Instant::now();
    let late = transport.publish(vec![order(7)], began + SECOND).await;
    assert_eq!(
        (late[0].as_ref().unwrap_err().kind(), began.elapsed()),
        (ErrorKind::Timeout, SECOND)
    );

    let waits = tokio::spawn(async move { numbers(&batch(&mut subscription, 9).await) });
    let publishes = tokio::spawn(async move { publish(&transport, order(2)).await });
    advance(SECOND).await;
    tokio::task::yield_now().await;
    broker.outage(false);
    assert_eq!(publishes.await.unwrap().unwrap().queues, Some(1));
    assert_eq!(waits.await.unwrap(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_publish_gives_up_the_answer_only() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    broker.outage(true);
    let publish = transport.publish(vec![order(1)], deadline());
    assert!(tokio::time::timeout(SECOND, publish).await.is_err());
    broker.outage(false);
    assert_eq!(numbers(&batch_now(&mut subscription, 9)), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_second_rebalance_does_not_lengthen_the_first() {
    let (broker, _transport, mut subscription) = consumed(&spec()).await;
    broker.revoke(QUEUE, SECOND).unwrap();
    broker.revoke(QUEUE, 9 * SECOND).unwrap();
    let (_, until) = revoking(now(&mut subscription, 9));
    assert_eq!(until, Instant::now() + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_revoked_passes_on_what_it_was_woken_for() {
    let (broker, transport, mut first) = consumed(&spec()).await;
    let mut woken = pin!(first.deliveries.next(9));
    assert!(poll(woken.as_mut()).is_none());
    publish_orders(&transport, 0..1).await;
    broker.revoke(QUEUE, 60 * SECOND).unwrap();
    let mut other = transport.consume(&spec()).await.unwrap();
    let waits = tokio::spawn(async move { numbers(&batch(&mut other, 9).await) });
    tokio::task::yield_now().await;
    let began = Instant::now();
    revoking(poll(woken.as_mut()));
    assert_eq!(
        (waits.await.unwrap(), began.elapsed()),
        (vec![0], Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_wakes_a_reader_that_waits_for_room() {
    let mut narrow = spec();
    narrow.prefetch = 1;
    let (broker, transport, mut subscription) = consumed(&narrow).await;
    publish_orders(&transport, 0..2).await;
    batch(&mut subscription, 9).await;
    let (got, ()) = tokio::join!(batch(&mut subscription, 9), async {
        broker.disconnect_all()
    });
    assert_eq!((numbers(&got), got[0].redeliveries()), (vec![0], 1));
}
