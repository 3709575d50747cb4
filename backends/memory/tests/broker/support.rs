//! What the tests share: a shop that publishes orders, and shorthands for the transport.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use event_core::{
    Arrival, Binding, Delivery, Error, ExchangeName, Message, QueueKind, QueueName, QueueSpec,
    Receipt, Result, RoutingKey, Settled, Settlement, Subscription, Topology, Transport,
};
use event_memory::{MemoryBroker, MemoryTransport};
use tokio::time::Instant;

pub(crate) const QUEUE: &str = "billing_order";

pub(crate) fn spec() -> QueueSpec {
    named(QUEUE)
}

/// A queue for everything that happens to orders.
pub(crate) fn named(name: &str) -> QueueSpec {
    let mut spec = QueueSpec::new(QueueName::new(name).unwrap());
    spec.bindings
        .push(Binding::new("order", "order.#").unwrap());
    spec
}

pub(crate) fn ephemeral() -> QueueSpec {
    let mut spec = named("prices");
    spec.kind = QueueKind::Ephemeral;
    spec
}

pub(crate) async fn declare(transport: &MemoryTransport, spec: &QueueSpec) -> Result<()> {
    transport
        .declare(&Topology {
            exchanges: Vec::new(),
            queues: vec![spec.clone()],
        })
        .await
}

/// A broker with the queue, and a connection that consumes it.
pub(crate) async fn consumed(spec: &QueueSpec) -> (MemoryBroker, MemoryTransport, Subscription) {
    let broker = MemoryBroker::new();
    let transport = broker.connect();
    declare(&transport, spec).await.unwrap();
    let subscription = transport.consume(spec).await.unwrap();
    (broker, transport, subscription)
}

pub(crate) fn order(number: usize) -> Message {
    submitted("order.v1.submit", number)
}

pub(crate) fn submitted(key: &str, number: usize) -> Message {
    Message::new(
        ExchangeName::new("order").unwrap(),
        RoutingKey::new(key).unwrap(),
        number.to_string(),
    )
}

pub(crate) fn number(message: &Message) -> usize {
    std::str::from_utf8(message.payload())
        .unwrap()
        .parse()
        .unwrap()
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries
        .iter()
        .map(|delivery| number(delivery.message()))
        .collect()
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) async fn publish_all(
    transport: &MemoryTransport,
    batch: impl IntoIterator<Item = Message>,
) -> Vec<Result<Receipt>> {
    transport
        .publish(batch.into_iter().collect(), deadline())
        .await
}

pub(crate) async fn publish(transport: &MemoryTransport, message: Message) -> Result<Receipt> {
    publish_all(transport, [message]).await.remove(0)
}

pub(crate) async fn publish_orders(transport: &MemoryTransport, numbers: std::ops::Range<usize>) {
    let results = publish_all(transport, numbers.map(order)).await;
    assert!(results.iter().all(Result::is_ok));
}

/// The next deliveries, as they must come, also after a connection was lost.
pub(crate) async fn batch(subscription: &mut Subscription, max: usize) -> Vec<Delivery> {
    loop {
        match subscription.deliveries.next(max).await.unwrap() {
            Arrival::Batch(batch) => return batch,
            Arrival::Revoked { .. } => {}
            other => panic!("no deliveries but {other:?}"),
        }
    }
}

/// What is there without waiting.
pub(crate) fn now(subscription: &mut Subscription, max: usize) -> Option<Result<Arrival>> {
    poll(pin!(subscription.deliveries.next(max)))
}

pub(crate) fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

pub(crate) fn batch_now(subscription: &mut Subscription, max: usize) -> Vec<Delivery> {
    loop {
        match now(subscription, max) {
            Some(Ok(Arrival::Batch(batch))) => return batch,
            Some(Ok(Arrival::Revoked { .. })) => {}
            None => return Vec::new(),
            Some(other) => panic!("no deliveries but {other:?}"),
        }
    }
}

pub(crate) async fn settle(subscription: &Subscription, settlement: Settlement) -> Result<Settled> {
    subscription.settle.settle(vec![settlement]).await.remove(0)
}

pub(crate) async fn ack(subscription: &Subscription, delivery: &Delivery) -> Result<Settled> {
    settle(subscription, Settlement::Ack(delivery.tag())).await
}

pub(crate) async fn release(subscription: &Subscription, delivery: &Delivery) {
    assert_eq!(
        settle(subscription, Settlement::Release(delivery.tag()))
            .await
            .unwrap(),
        Settled::Done
    );
}

pub(crate) async fn retry(subscription: &Subscription, delivery: &Delivery, delay: Duration) {
    let message = Box::new(delivery.message().clone());
    let retry = Settlement::Retry {
        tag: delivery.tag(),
        message,
        delay,
    };
    assert_eq!(settle(subscription, retry).await.unwrap(), Settled::Done);
}

pub(crate) async fn bury(subscription: &Subscription, delivery: &Delivery) {
    let message = Box::new(delivery.message().clone());
    let letter = Settlement::DeadLetter {
        tag: delivery.tag(),
        message,
    };
    assert_eq!(settle(subscription, letter).await.unwrap(), Settled::Done);
}

/// What a stale tag comes to: nothing.
pub(crate) fn lost(result: Result<Settled, Error>) -> bool {
    matches!(result, Ok(Settled::Lost))
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
