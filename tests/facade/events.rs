//! What `#[derive(Event)]` makes of a type, without a broker: addresses, payloads, and reading them back.

mod codecs;
mod enums;
mod several;
mod single;
mod templates;
mod upcasts;
#[cfg(feature = "garde")]
mod validation;

use switchboard::{
    Bytes, Delivery, DeliveryTag, Error, Event, ExchangeName, IntoOutgoing, Message, Outgoing,
    Publish, RoutingKey,
};

/// The message of something to publish.
fn message(event: impl IntoOutgoing) -> Message {
    event.into_outgoing().unwrap().message().clone()
}

/// Where it goes: exchange and routing key.
fn address(event: impl IntoOutgoing) -> (String, String) {
    let message = message(event);
    (message.exchange().to_string(), message.key().to_string())
}

/// Its payload as text.
fn text(event: impl IntoOutgoing) -> String {
    String::from_utf8(message(event).payload().to_vec()).unwrap()
}

/// What was published, in the hands of a consumer.
fn arrived(outgoing: Outgoing) -> Delivery {
    let tag = DeliveryTag {
        generation: 1,
        number: 1,
    };
    Delivery::new(outgoing.message().clone(), tag)
}

/// A payload from somewhere else.
fn delivery(exchange: &str, key: &str, payload: impl Into<Bytes>) -> Delivery {
    let (exchange, key) = (ExchangeName::new(exchange), RoutingKey::new(key));
    let message = Message::new(exchange.unwrap(), key.unwrap(), payload);
    arrived(Outgoing::new(message).unwrap())
}

/// The value that a consumer of the same type reads.
fn round_trip<E: Publish>(event: &E) -> E {
    E::decode(&arrived(event.outgoing().unwrap())).unwrap()
}

/// The error of a value that cannot be published.
fn refused(event: impl IntoOutgoing) -> Error {
    event.into_outgoing().unwrap_err()
}

/// The error of a delivery that cannot be read as `E`.
fn unreadable<E: Event>(delivery: &Delivery) -> Error {
    match E::decode(delivery) {
        Ok(_) => panic!("{:?} was read", delivery.message()),
        Err(error) => error,
    }
}
