//! Where an event goes: exchange and routing key, as data and as a typed handle.

use std::{fmt, marker::PhantomData};

use crate::{address::Parts, error::Result, event::Encode, outgoing::Outgoing, topic::key_matches};

/// One route of an event type as data, for documentation, checks and tooling.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RouteInfo {
    /// The exchange. Empty on types that take whatever a queue receives, such as [`RawEvent`](crate::RawEvent).
    pub exchange: &'static str,
    /// The event's name: what `name = "…"` says, the variant's name, or the type's.
    pub name: &'static str,
    /// The routing key as written, with `{field}` where a value of the event is filled in.
    pub key: &'static str,
    /// The key as a binding pattern: a filled-in word is `*`.
    pub pattern: &'static str,
    /// The first word of the key that is `v` and digits.
    pub version: Option<&'static str>,
    /// The Rust type of the payload, as written.
    pub type_name: &'static str,
    /// The media type of the payload.
    pub content_type: &'static str,
    /// The address of every message, when the key has no fields to fill in.
    pub(crate) address: Option<&'static Parts>,
}

impl RouteInfo {
    /// A route whose key has no fields to fill in. Called by the derive, which has checked the grammar.
    #[doc(hidden)]
    pub const fn new(
        exchange: &'static str,
        name: &'static str,
        key: &'static str,
        pattern: &'static str,
    ) -> Self {
        Self {
            exchange,
            name,
            key,
            pattern,
            version: None,
            type_name: "",
            content_type: "",
            address: None,
        }
    }

    #[doc(hidden)]
    pub const fn described(
        self,
        version: Option<&'static str>,
        type_name: &'static str,
        content_type: &'static str,
    ) -> Self {
        Self {
            version,
            type_name,
            content_type,
            ..self
        }
    }

    /// A route whose messages share an address.
    #[doc(hidden)]
    pub const fn with_address(self, address: &'static Parts) -> Self {
        Self {
            address: Some(address),
            ..self
        }
    }

    /// Whether a message with this address belongs to the route.
    pub fn takes(&self, exchange: &str, key: &str) -> bool {
        (self.exchange.is_empty() || self.exchange == exchange) && key_matches(self.pattern, key)
    }
}

impl fmt::Debug for RouteInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` on `{}`", self.name, self.key, self.exchange)
    }
}

impl fmt::Display for RouteInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` on exchange `{}`", self.key, self.exchange)
    }
}

/// One route of `E`, to publish or to subscribe with: `Order::SUBMIT`.
pub struct Route<E> {
    info: &'static RouteInfo,
    event: PhantomData<fn() -> E>,
}

impl<E> Route<E> {
    /// A handle on one of the type's `ROUTES`. Called by the derive.
    #[doc(hidden)]
    pub const fn new(info: &'static RouteInfo) -> Self {
        Self {
            info,
            event: PhantomData,
        }
    }

    /// The route as data.
    pub const fn info(&self) -> &'static RouteInfo {
        self.info
    }
}

impl<E: Encode> Route<E> {
    /// The event, validated and encoded for this route: what `publish_all`, an outbox and a handler's return
    /// value take.
    ///
    /// # Errors
    /// The value breaks its own rules, cannot be encoded, or has a field that does not fit into the key.
    pub fn of(&self, event: &E) -> Result<Outgoing> {
        event.encode(self.info)
    }
}

impl<E> Clone for Route<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Route<E> {}

impl<E> fmt::Debug for Route<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}
