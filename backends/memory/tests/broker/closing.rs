//! Closing one connection of several.

use event_core::{ConnectionState, ErrorKind, Removal, Selection, Transport};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_closed_connection_answers_nothing_but_that() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let other = broker.connect();
    let mut others = other.consume(&spec()).await.unwrap();
    let letters = transport.dead_letters(QUEUE).await.unwrap();
    publish_orders(&transport, 0..2).await;
    let held = batch(&mut subscription, 1).await;
    let state = transport.state();
    transport.close(deadline()).await.unwrap();
    transport.close(deadline()).await.unwrap();

    assert_eq!(
        (*state.borrow(), *other.state().borrow()),
        (ConnectionState::Closed, ConnectionState::Connected)
    );
    let removal = Removal::Queue(spec().name);
    for kind in [
        declare(&transport, &spec()).await.unwrap_err().kind(),
        publish(&transport, order(2)).await.unwrap_err().kind(),
        transport.consume(&spec()).await.unwrap_err().kind(),
        transport.remove(&removal).await.unwrap_err().kind(),
        transport.dead_letters(QUEUE).await.unwrap_err().kind(),
        letters.purge(&Selection::All).await.unwrap_err().kind(),
        subscription.deliveries.next(1).await.unwrap_err().kind(),
        ack(&subscription, &held[0]).await.unwrap_err().kind(),
        subscription
            .settle
            .isolate(held[0].tag())
            .await
            .unwrap_err()
            .kind(),
    ] {
        assert_eq!(kind, ErrorKind::Closed);
    }

    // What it held goes to the others at once: who closes did not crash.
    let got = batch(&mut others, 9).await;
    assert_eq!(numbers(&got), [0, 1]);
    assert_eq!((got[0].redeliveries(), got[0].is_suspect()), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_hears_of_the_close() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let mut prices = transport.consume(&ephemeral()).await.unwrap();
    let (end, prices, closed) = tokio::join!(
        subscription.deliveries.next(1),
        prices.deliveries.next(1),
        transport.close(deadline())
    );
    closed.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(prices.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(
        publish(&broker.connect(), order(1)).await.unwrap().queues,
        Some(1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_a_publish_that_waits_for_an_outage() {
    let (broker, transport, _subscription) = consumed(&spec()).await;
    broker.outage(true);
    let (result, closed) = tokio::join!(publish(&transport, order(1)), transport.close(deadline()));
    closed.unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
    broker.outage(false);
    assert_eq!(broker.queue_state(QUEUE).unwrap().ready, 0);
}
