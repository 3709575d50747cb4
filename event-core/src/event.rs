//! What an event is: the traits that `#[derive(Event)]` implements.

use bytes::Bytes;

use crate::{
    bus::Bus,
    delivery::Delivery,
    error::Result,
    header::Headers,
    message::Message,
    name::{ExchangeName, RoutingKey},
    outgoing::Outgoing,
    publishing::Publishing,
    route::RouteInfo,
};

/// A type whose values are published and handled: derive it.
///
/// See the guide's page on events for everything that `#[derive(Event)]` understands.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "the first argument of a handler is an event, by value",
    note = "add `#[derive(Event)]` to `{Self}`, or put the event first and extractors after it"
)]
pub trait Event: Sized + Send + 'static {
    /// The type's own routes.
    const ROUTES: &'static [RouteInfo];

    /// Older types that this one reads, each with those that it reads.
    #[doc(hidden)]
    const OLDER: &'static [&'static Older] = &[];

    /// Reads a delivery whose address belongs to [`ROUTES`](Self::ROUTES) or an older type's.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) when the payload is not a value of the type, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it
    /// breaks the rules of `validate`.
    fn decode(delivery: &Delivery) -> Result<Self>;
}

/// An older version of an event, linked to those that it reads itself.
///
/// A list that links on, because arrays of generic types cannot be concatenated on stable Rust.
#[doc(hidden)]
#[derive(Debug)]
pub struct Older {
    /// The routes of the older type.
    pub routes: &'static [RouteInfo],
    /// What the older type reads.
    pub older: &'static [&'static Older],
}

impl Older {
    /// Whether the older type, or one that it reads, takes a message with this address.
    pub fn takes(&self, exchange: &str, key: &str) -> bool {
        self.routes.iter().any(|route| route.takes(exchange, key))
            || self.older.iter().any(|older| older.takes(exchange, key))
    }
}

/// Whether a handler of `E` takes a message with this address, through an older version or not.
#[doc(hidden)]
pub fn takes<E: Event>(exchange: &str, key: &str) -> bool {
    E::ROUTES.iter().any(|route| route.takes(exchange, key))
        || E::OLDER.iter().any(|older| older.takes(exchange, key))
}

/// All routes that a handler of `E` takes: its own, then those of older versions.
pub(crate) fn all_routes<E: Event>() -> Vec<&'static RouteInfo> {
    fn add(
        routes: &'static [RouteInfo],
        older: &'static [&'static Older],
        into: &mut Vec<&'static RouteInfo>,
    ) {
        into.extend(routes);
        for version in older {
            add(version.routes, version.older, into);
        }
    }
    let mut all = Vec::new();
    add(E::ROUTES, E::OLDER, &mut all);
    all
}

/// An event that can be encoded for one of its routes. Implemented by the derive.
#[doc(hidden)]
pub trait Encode: Event {
    /// Validates, fills the key and encodes.
    fn encode(&self, route: &'static RouteInfo) -> Result<Outgoing>;
}

/// An event that knows its own route: a type with one event, and an enum.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which event to publish",
    label = "not an event with a route of its own",
    note = "a type with several events is published as one of them: `Order::SUBMIT.of(&order)`"
)]
pub trait Publish: Event {
    /// The event, validated and encoded.
    ///
    /// # Errors
    /// The value breaks its own rules, cannot be encoded, or has a field that does not fit into the key.
    fn outgoing(&self) -> Result<Outgoing>;

    /// Publishes the event. The same as the method that the derive gives the type, for generic code.
    fn publish_on<'a>(&self, bus: &'a Bus) -> Publishing<'a> {
        bus.publish(self)
    }
}

/// Whatever a queue receives, undecoded: address, headers and bytes.
///
/// As a handler's argument it takes every key that the queue's bindings let through; as the value of an
/// enum's `#[event(other)]` variant, what that enum does not know. Publishing it repeats its address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawEvent {
    /// The exchange it came from, or goes to.
    pub exchange: ExchangeName,
    /// Its routing key.
    pub key: RoutingKey,
    /// The media type of the payload; empty when unknown.
    pub content_type: String,
    /// The headers of the sender, without those of the framework.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

impl RawEvent {
    /// A raw event to publish.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) when the exchange or the key is not legal.
    pub fn new(exchange: &str, key: &str, payload: impl Into<Bytes>) -> Result<Self> {
        Ok(Self {
            exchange: ExchangeName::new(exchange)?,
            key: RoutingKey::new(key)?,
            content_type: String::new(),
            headers: Headers::new(),
            payload: payload.into(),
        })
    }
}

impl Event for RawEvent {
    const ROUTES: &'static [RouteInfo] = &[RouteInfo::new("", "RawEvent", "#", "#")];

    fn decode(delivery: &Delivery) -> Result<Self> {
        let message = delivery.message();
        let mut headers = message.headers().clone();
        headers.retain(|name| !name.starts_with(crate::header::RESERVED_PREFIX));
        Ok(Self {
            exchange: message.exchange().clone(),
            key: message.key().clone(),
            content_type: message.content_type().to_owned(),
            headers,
            payload: message.payload().clone(),
        })
    }
}

impl Publish for RawEvent {
    fn outgoing(&self) -> Result<Outgoing> {
        let mut message = Message::new(
            self.exchange.clone(),
            self.key.clone(),
            self.payload.clone(),
        );
        if !self.content_type.is_empty() {
            message = message.with_content_type(&self.content_type);
        }
        *message.headers_mut() = self.headers.clone();
        Outgoing::new(message)
    }
}
