//! What the code of `#[derive(Event)]` calls. Not for people.

use std::fmt::{Display, Write};

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};

use crate::{
    address::Address,
    codec,
    delivery::Delivery,
    error::{Error, ErrorKind, Result},
    event::{Event, Publish, RawEvent},
    message::Message,
    name::RoutingKey,
    outgoing::Outgoing,
    route::RouteInfo,
};

/// An encoded event on a route whose key is the same in every message.
pub fn message(route: &'static RouteInfo, payload: Bytes) -> Message {
    let address = match route.address {
        Some(parts) => Address::known(parts),
        None => address(route, RoutingKey::checked(route.key)),
    };
    Message::to(address, payload)
}

/// An encoded event on a route whose key was filled in.
pub fn message_with_key(route: &'static RouteInfo, key: &str, payload: Bytes) -> Result<Message> {
    Ok(Message::to(address(route, RoutingKey::new(key)?), payload))
}

fn address(route: &'static RouteInfo, key: RoutingKey) -> Address {
    Address::filled(route.exchange, key, route.content_type)
}

/// A field as a partition key. Does not allocate up to 23 bytes.
pub fn partition_key(value: &dyn Display) -> SmolStr {
    format_smolstr!("{value}")
}

/// Puts a field's value into a routing key.
pub fn push_word(key: &mut String, field: &str, value: &dyn Display) -> Result<()> {
    let start = key.len();
    // Writing into a string fails only when the value's own `Display` does.
    let written = write!(key, "{value}");
    let word = &key[start..];
    if written.is_err() || word.is_empty() || word.contains(['.', '*', '#']) {
        let shown: String = word.chars().take(40).collect();
        return Err(Error::new(
            ErrorKind::Encode,
            format!(
                "field `{field}` is `{shown}`, which cannot be a word of a routing key; it must not be empty or contain `.`, `*` or `#`"
            ),
        ));
    }
    Ok(())
}

/// Looks at what the sender says the payload is, before a codec that reads `expected`.
pub fn check_content_type(delivery: &Delivery, expected: &str) -> Result<()> {
    codec::check_content_type(delivery.message().content_type(), expected)
}

/// The answer to an address that the type does not take; the framework does not ask for those.
pub fn not_taken(type_name: &str, delivery: &Delivery) -> Error {
    let message = delivery.message();
    let (exchange, key) = (message.exchange(), message.key());
    Error::new(
        ErrorKind::Decode,
        format!("`{type_name}` has no event `{key}` on exchange `{exchange}`"),
    )
}

/// What a variant with `#[event(other)]` holds.
#[diagnostic::on_unimplemented(
    message = "a variant with `#[event(other)]` holds a `RawEvent`, not `{Self}`",
    label = "write `RawEvent`",
    note = "it keeps the address, the headers and the bytes of what the enum does not know"
)]
pub trait Other: Sized {
    /// Reads what an enum does not know.
    fn decode_other(delivery: &Delivery) -> Result<Self>;

    /// Publishes it again, to its own address.
    fn publish_other(&self) -> Result<Outgoing>;
}

impl Other for RawEvent {
    fn decode_other(delivery: &Delivery) -> Result<Self> {
        Self::decode(delivery)
    }

    fn publish_other(&self) -> Result<Outgoing> {
        self.outgoing()
    }
}

/// Calls the type's own rules, as `#[event(validate)]` asks.
pub fn validate<T: Validated>(value: &T) -> Result<()> {
    value.validated()
}

/// What `#[event(validate)]` asks of a type. Without the feature nothing has it.
#[cfg_attr(
    feature = "garde",
    diagnostic::on_unimplemented(
        message = "`{Self}` has no rules to validate",
        label = "`validate` calls `garde::Validate`, with `()` for a context",
        note = "add `#[derive(garde::Validate)]` to `{Self}`, of the version of `garde` that `switchboard` has"
    )
)]
#[cfg_attr(
    not(feature = "garde"),
    diagnostic::on_unimplemented(
        message = "`validate` needs the feature `garde` of `switchboard`",
        label = "in Cargo.toml: `switchboard = {{ features = [\"garde\"] }}`"
    )
)]
pub trait Validated {
    /// Whether the value keeps its own rules.
    fn validated(&self) -> Result<()>;
}

#[cfg(feature = "garde")]
impl<T: garde::Validate<Context = ()>> Validated for T {
    fn validated(&self) -> Result<()> {
        self.validate().map_err(|report| {
            let broken: Vec<String> = report
                .iter()
                .map(|(path, error)| {
                    let path = path.to_string();
                    if path.is_empty() {
                        error.to_string()
                    } else {
                        format!("`{path}`: {error}")
                    }
                })
                .collect();
            let message = format!("not valid: {}", broken.join("; "));
            Error::new(ErrorKind::Invalid, message)
        })
    }
}

#[cfg(feature = "cbor")]
pub use crate::codec::Cbor;
#[cfg(feature = "msgpack")]
pub use crate::codec::MessagePack;

/// Stands in for a codec whose feature is off. Nothing has its trait, so that using it is an error which
/// names the feature.
#[cfg(not(all(feature = "cbor", feature = "msgpack")))]
macro_rules! codec_without_feature {
    ($codec:ident, $needs:ident, $message:literal, $label:literal) => {
        /// Stands in for the codec of this name.
        #[derive(Debug)]
        pub struct $codec;

        /// What the codec would need.
        #[diagnostic::on_unimplemented(message = $message, label = $label)]
        pub trait $needs {}

        impl<T: $needs> codec::Codec<T> for $codec {
            const CONTENT_TYPE: &'static str = "";

            fn encode(_: &T) -> Result<Bytes> {
                Err(Error::new(ErrorKind::Unsupported, $message))
            }

            fn decode(_: &Bytes) -> Result<T> {
                Err(Error::new(ErrorKind::Unsupported, $message))
            }
        }
    };
}

#[cfg(not(feature = "cbor"))]
codec_without_feature!(
    Cbor,
    CborWithoutFeature,
    "`codec = Cbor` needs the feature `cbor` of `switchboard`",
    "in Cargo.toml: `switchboard = {{ features = [\"cbor\"] }}`"
);

#[cfg(not(feature = "msgpack"))]
codec_without_feature!(
    MessagePack,
    MessagePackWithoutFeature,
    "`codec = MessagePack` needs the feature `msgpack` of `switchboard`",
    "in Cargo.toml: `switchboard = {{ features = [\"msgpack\"] }}`"
);
