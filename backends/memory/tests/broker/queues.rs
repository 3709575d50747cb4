//! Declaring, removing, ephemeral subscriptions.

use event_core::{Binding, ErrorKind, QueueKind, QueueName, Removal, Settled, Topology, Transport};
use event_memory::MemoryBroker;

use crate::support::*;

fn queue() -> QueueName {
    QueueName::new(QUEUE).unwrap()
}

#[tokio::test(start_paused = true)]
async fn declaring_only_adds() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    let mut other = spec();
    other.bindings = vec![Binding::new("invoice", "#").unwrap()];
    declare(&transport, &other).await.unwrap();
    declare(&transport, &other).await.unwrap();
    publish_orders(&transport, 1..2).await;
    assert_eq!(numbers(&batch(&mut subscription, 9).await), [0, 1]);
    assert_eq!(broker.queues(), [queue()]);
}

#[tokio::test(start_paused = true)]
async fn other_arguments_are_a_mismatch_that_says_which() {
    let (broker, transport, _subscription) = consumed(&spec()).await;
    let (mut other, fresh) = (spec(), named("shipping_order"));
    other.ordered = true;
    other.max_length = Some(7);
    let topology = Topology {
        exchanges: Vec::new(),
        queues: vec![fresh, other],
    };
    let error = transport.declare(&topology).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(
        error.to_string(),
        "queue `billing_order` exists with other arguments (ordered: false → true, max_length: none → 7); \
         delete it or declare it as it is"
    );
    // Nothing of a topology that contradicts what exists.
    assert_eq!(broker.queues(), [queue()]);

    let mut consumer = spec();
    consumer.prefetch = 1;
    consumer.lease = SECOND;
    declare(&transport, &consumer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topology_that_contradicts_itself_is_a_mismatch() {
    let transport = MemoryBroker::new().connect();
    let mut other = spec();
    other.ordered = true;
    let error = transport
        .declare(&Topology {
            exchanges: Vec::new(),
            queues: vec![spec(), other],
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_others_is_used_as_it_is() {
    let transport = MemoryBroker::new().connect();
    let mut existing = spec();
    existing.kind = QueueKind::Existing;
    assert_eq!(
        declare(&transport, &existing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        transport.consume(&existing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        transport.consume(&spec()).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );

    let mut bare = spec();
    bare.bindings.clear();
    bare.max_length = Some(9);
    declare(&transport, &bare).await.unwrap();
    declare(&transport, &existing).await.unwrap();
    transport.consume(&existing).await.unwrap();
    assert_eq!(
        publish(&transport, order(1)).await.unwrap().queues,
        Some(0),
        "its bindings are not added"
    );
    existing.ordered = true;
    assert_eq!(
        transport.consume(&existing).await.unwrap_err().kind(),
        ErrorKind::Mismatch
    );
}

#[tokio::test(start_paused = true)]
async fn an_unbound_pattern_stops_matching_at_once() {
    let (_, transport, _subscription) = consumed(&spec()).await;
    let binding = Binding::new("order", "order.#").unwrap();
    let removal = Removal::Binding {
        queue: queue(),
        binding,
    };
    transport.remove(&removal).await.unwrap();
    assert_eq!(publish(&transport, order(1)).await.unwrap().queues, Some(0));
    transport.remove(&removal).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pruning_keeps_what_is_declared() {
    let mut many = spec();
    many.bindings
        .push(Binding::new("order", "invoice.#").unwrap());
    many.bindings.push(Binding::new("stock", "#").unwrap());
    let (_, transport, _subscription) = consumed(&many).await;
    let keep = vec![Binding::new("order", "invoice.#").unwrap()];
    transport
        .remove(&Removal::OtherBindings {
            queue: queue(),
            keep,
        })
        .await
        .unwrap();
    assert_eq!(publish(&transport, order(1)).await.unwrap().queues, Some(0));
    assert_eq!(
        publish(&transport, submitted("invoice.v1.submit", 2))
            .await
            .unwrap()
            .queues,
        Some(1)
    );
}

#[tokio::test(start_paused = true)]
async fn deleting_a_queue_takes_everything_along() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let letters = transport.dead_letters(QUEUE).await.unwrap();
    publish_orders(&transport, 0..4).await;
    let held = batch(&mut subscription, 3).await;
    bury(&subscription, &held[0]).await;
    retry(&subscription, &held[1], SECOND).await;
    transport.remove(&Removal::Queue(queue())).await.unwrap();

    assert!(lost(ack(&subscription, &held[2]).await));
    let error = subscription.deliveries.next(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        !error.is_retryable() && error.to_string().contains("`billing_order` was deleted"),
        "{error}"
    );
    assert_eq!(
        letters.list(None, 9).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(publish(&transport, order(5)).await.unwrap().queues, Some(0));
    transport.remove(&Removal::Queue(queue())).await.unwrap();

    declare(&transport, &spec()).await.unwrap();
    assert_eq!(broker.queue_state(QUEUE), Some(Default::default()));
    assert!(
        lost(ack(&subscription, &held[2]).await),
        "an old tag means nothing to the new queue"
    );
    assert!(subscription.deliveries.next(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_hears_that_its_queue_was_deleted() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    let removal = Removal::Queue(queue());
    let (end, removed) = tokio::join!(subscription.deliveries.next(1), transport.remove(&removal));
    removed.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_subscription_gets_its_own_copy_at_most_once() {
    let (broker, transport, mut billing) = consumed(&spec()).await;
    let mut first = transport.consume(&ephemeral()).await.unwrap();
    let mut second = transport.consume(&ephemeral()).await.unwrap();
    assert_eq!(publish(&transport, order(1)).await.unwrap().queues, Some(3));
    assert_eq!(broker.queues(), [queue()]);
    for subscription in [&mut first, &mut second, &mut billing] {
        let got = batch(subscription, 9).await;
        assert_eq!(numbers(&got), [1]);
        assert_eq!(ack(subscription, &got[0]).await.unwrap(), Settled::Done);
    }

    publish_orders(&transport, 2..4).await;
    let held = batch(&mut first, 9).await;
    // The framework sends neither of these for an ephemeral queue; they lose nothing that they promised.
    release(&first, &held[0]).await;
    bury(&first, &held[0]).await;
    retry(&first, &held[1], SECOND).await;
    assert_eq!(numbers(&batch(&mut first, 9).await), [3]);

    drop((first, second));
    assert_eq!(publish(&transport, order(4)).await.unwrap().queues, Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_subscription_that_is_full_forgets_its_oldest() {
    let transport = MemoryBroker::new().connect();
    let mut small = ephemeral();
    small.max_length = Some(2);
    let mut subscription = transport.consume(&small).await.unwrap();
    publish_orders(&transport, 0..5).await;
    assert_eq!(numbers(&batch(&mut subscription, 9).await), [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_bindings_route_to_the_right_queues() {
    let transport = MemoryBroker::new().connect();
    let mut many = spec();
    many.bindings = (0..10_000)
        .map(|n| Binding::new("order", &format!("order.{n}.*")).unwrap())
        .collect();
    declare(&transport, &many).await.unwrap();
    declare(&transport, &named("all")).await.unwrap();
    assert_eq!(
        publish(&transport, submitted("order.777.submit", 1))
            .await
            .unwrap()
            .queues,
        Some(2)
    );
    assert_eq!(
        publish(&transport, submitted("order.x.submit", 1))
            .await
            .unwrap()
            .queues,
        Some(1)
    );
    let keep = many.bindings[..10].to_vec();
    transport
        .remove(&Removal::OtherBindings {
            queue: queue(),
            keep,
        })
        .await
        .unwrap();
    assert_eq!(
        publish(&transport, submitted("order.777.submit", 1))
            .await
            .unwrap()
            .queues,
        Some(1)
    );
}
