//! What a handler takes after its event.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::{
    delivery::Delivery,
    error::{Error, ErrorKind, Result},
    header::{Headers, RESERVED_PREFIX},
    id::MessageId,
    name::{ExchangeName, RoutingKey},
};

/// What can be taken from a delivery or the service's state: an argument of a handler after the event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "`{Self}` is not an extractor",
    note = "after the event come extractors: `State<T>`, `Metadata`, `Headers`, `Header<T>`, `Delivery`, `Bytes`"
)]
pub trait FromDelivery<S>: Sized {
    /// Takes it. An error makes the delivery a dead letter, since trying again would not change it.
    ///
    /// # Errors
    /// The delivery does not have what is asked for.
    fn from_delivery(delivery: &Delivery, state: &S) -> Result<Self>;
}

/// The service's state, or a part of it that [`FromRef`] finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State<T>(pub T);

/// A part of a service's state. Every state that is `Clone` is a part of itself, also behind an `Arc`.
#[diagnostic::on_unimplemented(
    message = "`State<{Self}>` is not part of the service's state `{S}`",
    note = "call `.with_state(…)` with a value of this type, or implement `FromRef<{S}>` for `{Self}`"
)]
pub trait FromRef<S> {
    /// The part.
    fn from_ref(state: &S) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> T {
        state.clone()
    }
}

impl<T: Clone> FromRef<Arc<T>> for T {
    fn from_ref(state: &Arc<T>) -> T {
        T::clone(state)
    }
}

impl<S, T: FromRef<S>> FromDelivery<S> for State<T> {
    fn from_delivery(_: &Delivery, state: &S) -> Result<Self> {
        Ok(Self(T::from_ref(state)))
    }
}

/// What is known of a message besides its event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// The id, unique together with the source.
    pub id: MessageId,
    /// Which attempt this is, starting at 1.
    pub attempt: u32,
    /// The exchange that it was published to.
    pub exchange: ExchangeName,
    /// The routing key that it was published with.
    pub key: RoutingKey,
    /// When it was published, if the sender said so.
    pub time: Option<SystemTime>,
    /// Who published it; empty if the sender did not say.
    pub source: String,
    /// When a handler first failed on it.
    pub first_failure: Option<SystemTime>,
    /// How often the broker delivered it before without seeing it settled.
    pub redeliveries: u32,
}

impl<S> FromDelivery<S> for Metadata {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self> {
        let message = delivery.message();
        Ok(Self {
            id: message.id().clone(),
            attempt: delivery.attempt(),
            exchange: message.exchange().clone(),
            key: message.key().clone(),
            time: message.time(),
            source: message.source().to_owned(),
            first_failure: delivery.first_failure(),
            redeliveries: delivery.redeliveries(),
        })
    }
}

/// The sender's headers, without those of the framework.
impl<S> FromDelivery<S> for Headers {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self> {
        let mut headers = delivery.message().headers().clone();
        headers.retain(|name| !name.starts_with(RESERVED_PREFIX));
        Ok(headers)
    }
}

/// One header, by the name and the form that `T` gives it. `Option<Header<T>>` takes one that may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<T>(pub T);

/// A type that is read from a header.
///
/// ```
/// use event_core::{BoxError, FromHeader};
///
/// struct Tenant(String);
///
/// impl FromHeader for Tenant {
///     const NAME: &'static str = "tenant";
///
///     fn from_header(text: &str) -> Result<Self, BoxError> {
///         Ok(Self(text.to_owned()))
///     }
/// }
/// ```
pub trait FromHeader: Sized {
    /// The name of the header.
    const NAME: &'static str;

    /// Reads its value.
    ///
    /// # Errors
    /// Anything that says why the text is not a value.
    fn from_header(text: &str) -> std::result::Result<Self, crate::BoxError>;
}

fn read<T: FromHeader>(delivery: &Delivery) -> Result<Option<Header<T>>> {
    let name = T::NAME;
    let Some(value) = delivery.message().headers().get(name) else {
        return Ok(None);
    };
    let wrong = |source| {
        Error::new(ErrorKind::Decode, format!("header `{name}` cannot be read")).with_source(source)
    };
    let text = value
        .as_str()
        .ok_or_else(|| wrong("it is not UTF-8".into()))?;
    T::from_header(text)
        .map(|value| Some(Header(value)))
        .map_err(wrong)
}

impl<S, T: FromHeader> FromDelivery<S> for Header<T> {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self> {
        let missing = || {
            Error::new(
                ErrorKind::Decode,
                format!("header `{}` is missing", T::NAME),
            )
        };
        read(delivery)?.ok_or_else(missing)
    }
}

impl<S, T: FromHeader> FromDelivery<S> for Option<Header<T>> {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self> {
        read(delivery)
    }
}

impl<S> FromDelivery<S> for Delivery {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self> {
        Ok(delivery.clone())
    }
}

/// The encoded payload.
impl<S> FromDelivery<S> for Bytes {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self> {
        Ok(delivery.message().payload().clone())
    }
}
