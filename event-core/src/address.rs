//! Where a message goes and what its payload is: shared by all messages of a route.

use std::{fmt, sync::Arc};

use smol_str::SmolStr;

use crate::name::{ExchangeName, RoutingKey};

/// The exchange, the routing key and the media type of a message.
///
/// Cheap to clone, and those of one route are compared by their place in memory. A backend that makes
/// messages keeps the last one and uses it again while it fits.
#[derive(Clone)]
pub struct Address(Repr);

#[derive(Clone)]
enum Repr {
    /// Of a route of the derive's, known while compiling.
    Static(&'static Parts),
    Shared(Arc<Parts>),
}

/// What an address consists of. Only the derive names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parts {
    exchange: ExchangeName,
    key: RoutingKey,
    content_type: SmolStr,
}

impl Parts {
    /// Parts that were checked while compiling, by the derive.
    pub const fn checked(
        exchange: &'static str,
        key: &'static str,
        content_type: &'static str,
    ) -> Self {
        Self {
            exchange: ExchangeName::checked(exchange),
            key: RoutingKey::checked(key),
            content_type: SmolStr::new_static(content_type),
        }
    }
}

impl Address {
    /// An address without a media type.
    pub fn new(exchange: ExchangeName, key: RoutingKey) -> Self {
        Self::of(Parts {
            exchange,
            key,
            content_type: SmolStr::default(),
        })
    }

    /// The same address with another media type.
    pub fn with_content_type(&self, content_type: impl Into<SmolStr>) -> Self {
        Self::of(Parts {
            content_type: content_type.into(),
            ..self.parts().clone()
        })
    }

    /// The address of a route of the derive's, with the key that a value has.
    pub(crate) fn filled(
        exchange: &'static str,
        key: RoutingKey,
        content_type: &'static str,
    ) -> Self {
        Self::of(Parts {
            exchange: ExchangeName::checked(exchange),
            key,
            content_type: SmolStr::new_static(content_type),
        })
    }

    fn of(parts: Parts) -> Self {
        Self(Repr::Shared(Arc::new(parts)))
    }

    pub(crate) const fn known(parts: &'static Parts) -> Self {
        Self(Repr::Static(parts))
    }

    fn parts(&self) -> &Parts {
        match &self.0 {
            Repr::Static(parts) => parts,
            Repr::Shared(parts) => parts,
        }
    }

    /// The exchange.
    pub fn exchange(&self) -> &ExchangeName {
        &self.parts().exchange
    }

    /// The routing key.
    pub fn key(&self) -> &RoutingKey {
        &self.parts().key
    }

    /// The media type of the payload. Empty when the sender did not say.
    pub fn content_type(&self) -> &str {
        &self.parts().content_type
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.parts(), other.parts()) || self.parts() == other.parts()
    }
}

impl Eq for Address {}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(f)
    }
}

/// The exchange and the key, for messages to people.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` on exchange `{}`", self.key(), self.exchange())
    }
}
