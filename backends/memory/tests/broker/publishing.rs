//! Publishing and routing.

use event_core::{Bytes, Capability, ConnectionState, ErrorKind, Support, Transport};
use event_memory::{MemoryBroker, MemoryTransport};
use tokio::time::{Instant, advance};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn everything_is_native() {
    let transport = MemoryTransport::open("memory://").unwrap();
    assert_eq!(transport.capabilities().backend(), "memory");
    for capability in Capability::ALL {
        assert_eq!(
            transport.capabilities().support(capability),
            Support::Native
        );
    }
    assert_eq!(*transport.state().borrow(), ConnectionState::Connected);
}

#[tokio::test(start_paused = true)]
async fn a_queue_gets_one_copy_however_many_bindings_match() {
    let mut spec = spec();
    spec.bindings
        .push(event_core::Binding::new("order", "order.*.submit").unwrap());
    spec.bindings
        .push(event_core::Binding::new("order", "#").unwrap());
    let (broker, transport, _subscription) = consumed(&spec).await;
    declare(&transport, &named("shipping_order")).await.unwrap();

    assert_eq!(publish(&transport, order(1)).await.unwrap().queues, Some(2));
    assert_eq!(broker.queue_state(QUEUE).unwrap().ready, 1);
    assert_eq!(broker.queue_state("shipping_order").unwrap().ready, 1);
}

#[tokio::test(start_paused = true)]
async fn mandatory_without_a_queue_is_an_error_on_that_message_only() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    let batch = [
        order(1),
        submitted("invoice.v1.submit", 2).with_mandatory(true),
        submitted("invoice.v1.submit", 3),
        order(4).with_mandatory(true),
    ];
    let results = publish_all(&transport, batch).await;
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert!(
        error.to_string().contains("`order`") && error.to_string().contains("`invoice.v1.submit`"),
        "{error}"
    );
    let queues: Vec<_> = results
        .iter()
        .flatten()
        .map(|receipt| receipt.queues)
        .collect();
    assert_eq!(queues, [Some(1), Some(0), Some(1)]);
    assert_eq!(
        numbers(&crate::support::batch(&mut subscription, 10).await),
        [1, 4]
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_many_keys_keeps_its_order_and_its_answers() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    let key = |number: usize| {
        if number.is_multiple_of(3) {
            "order.v1.refuse"
        } else {
            "order.v1.submit"
        }
    };
    let sent: Vec<_> = (0..20)
        .map(|number| submitted(key(number), number).with_id(format!("id-{number}").as_str()))
        .collect();
    let results = publish_all(&transport, sent.clone()).await;
    for (message, result) in sent.iter().zip(results) {
        assert_eq!(result.unwrap().id, *message.id());
    }
    let got = batch(&mut subscription, 100).await;
    assert!(got.iter().map(|delivery| delivery.message()).eq(&sent));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_the_others_take_the_message() {
    let mut small = spec();
    small.max_length = Some(2);
    let (broker, transport, mut subscription) = consumed(&small).await;
    declare(&transport, &named("shipping_order")).await.unwrap();
    let results = publish_all(&transport, (0..4).map(order)).await;
    assert_eq!(
        results.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, true, false, false]
    );
    let error = results[2].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(
        error.is_retryable() && error.to_string().contains("`billing_order`"),
        "{error}"
    );
    assert_eq!(broker.queue_state("shipping_order").unwrap().ready, 4);

    // What is held counts as much as what is ready.
    let held = batch(&mut subscription, 2).await;
    assert!(publish(&transport, order(5)).await.is_err());
    ack(&subscription, &held[0]).await.unwrap();
    assert!(publish(&transport, order(6)).await.is_ok());
    // A retry is not published: it takes the place of its original.
    retry(&subscription, &held[1], SECOND).await;
    assert!(publish(&transport, order(7)).await.is_err());
    assert_eq!(numbers(&batch(&mut subscription, 10).await), [6]);
    assert_eq!(numbers(&batch(&mut subscription, 10).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_payload_over_the_limit_is_refused_and_the_connection_lives() {
    let broker = MemoryBroker::new().with_max_message(3);
    let transport = broker.connect();
    declare(&transport, &spec()).await.unwrap();
    let large = order(1).with_payload(Bytes::from_static(b"four"));
    let results = publish_all(&transport, [order(1), large, order(3)]).await;
    assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(broker.queue_state(QUEUE).unwrap().ready, 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stored_after_the_deadline() {
    let (broker, transport, _subscription) = consumed(&spec()).await;
    let deadline = Instant::now();
    advance(SECOND).await;
    let results = transport.publish(vec![order(1), order(2)], deadline).await;
    assert_eq!(results.len(), 2);
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::Timeout)
    );
    assert_eq!(broker.queue_state(QUEUE).unwrap().ready, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_published_is_recorded_while_a_test_wants_it() {
    let (broker, transport, _subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..2).await;
    assert!(broker.published().is_empty());
    broker.record(true);
    publish_orders(&transport, 2..4).await;
    _ = publish(
        &transport,
        submitted("invoice.v1.submit", 4).with_mandatory(true),
    )
    .await;
    publish(&transport, submitted("invoice.v1.submit", 5))
        .await
        .unwrap();
    broker.record(true);
    assert_eq!(
        broker.published().iter().map(number).collect::<Vec<_>>(),
        [2, 3, 5]
    );
    broker.record(false);
    assert!(broker.published().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_named_broker_is_shared_by_url() {
    let shop = MemoryTransport::open("memory://shared-by-url").unwrap();
    let billing = MemoryTransport::open("memory://shared-by-url").unwrap();
    declare(&billing, &spec()).await.unwrap();
    assert_eq!(publish(&shop, order(1)).await.unwrap().queues, Some(1));
    assert_eq!(shop.broker().queues(), billing.broker().queues());
    let other = MemoryTransport::open("memory://").unwrap();
    assert_eq!(publish(&other, order(1)).await.unwrap().queues, Some(0));
}
