//! How an event becomes bytes.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{BoxError, Error, ErrorKind, Result},
    payload,
};

/// Turns values of `T` into payloads and back. Named in `#[event(codec = …)]`; [`Json`] by default.
///
/// Implement it for your own unit struct to add a format:
///
/// ```
/// use event_core::{Bytes, Codec, Error, ErrorKind, Result};
///
/// /// Numbers in decimal, without anything around them.
/// struct Decimal;
///
/// impl Codec<u64> for Decimal {
///     const CONTENT_TYPE: &'static str = "text/plain";
///
///     fn encode(value: &u64) -> Result<Bytes> {
///         Ok(value.to_string().into())
///     }
///
///     fn decode(payload: &Bytes) -> Result<u64> {
///         let text = std::str::from_utf8(payload).map_err(|e| Error::new(ErrorKind::Decode, e.to_string()))?;
///         text.parse().map_err(|_| Error::new(ErrorKind::Decode, format!("`{text}` is not a number")))
///     }
/// }
/// # assert_eq!(Decimal::decode(&Decimal::encode(&7).unwrap()).unwrap(), 7);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot encode and decode `{T}`",
    note = "`Json`, `MessagePack` and `Cbor` need `Serialize` and `Deserialize`; `Raw` needs `RawPayload`"
)]
pub trait Codec<T> {
    /// The media type of what [`encode`](Self::encode) makes.
    const CONTENT_TYPE: &'static str;

    /// Turns a value into a payload.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] when the value has no form in this format.
    fn encode(value: &T) -> Result<Bytes>;

    /// Turns a payload into a value. Unknown fields are ignored unless the type says otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the payload is not a value of `T`.
    fn decode(payload: &Bytes) -> Result<T>;
}

/// JSON, the default: `application/json`.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode(value: &T) -> Result<Bytes> {
        payload::written(|buffer| {
            serde_json::to_writer(buffer, value).map_err(|e| encode_error("JSON", e))
        })
    }

    fn decode(payload: &Bytes) -> Result<T> {
        serde_json::from_slice(payload).map_err(|e| decode_error("JSON", e))
    }
}

/// MessagePack with field names: `application/msgpack`. Needs the feature `msgpack`.
#[cfg(feature = "msgpack")]
#[derive(Clone, Copy, Debug)]
pub struct MessagePack;

#[cfg(feature = "msgpack")]
impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    const CONTENT_TYPE: &'static str = "application/msgpack";

    fn encode(value: &T) -> Result<Bytes> {
        payload::written(|buffer| {
            let mut serializer = rmp_serde::Serializer::new(buffer).with_struct_map();
            value
                .serialize(&mut serializer)
                .map_err(|e| encode_error("MessagePack", e))
        })
    }

    fn decode(payload: &Bytes) -> Result<T> {
        rmp_serde::from_slice(payload).map_err(|e| decode_error("MessagePack", e))
    }
}

/// CBOR: `application/cbor`. Needs the feature `cbor`.
#[cfg(feature = "cbor")]
#[derive(Clone, Copy, Debug)]
pub struct Cbor;

#[cfg(feature = "cbor")]
impl<T: Serialize + DeserializeOwned> Codec<T> for Cbor {
    const CONTENT_TYPE: &'static str = "application/cbor";

    fn encode(value: &T) -> Result<Bytes> {
        payload::written(|buffer| {
            ciborium::into_writer(value, buffer).map_err(|e| encode_error("CBOR", e))
        })
    }

    fn decode(payload: &Bytes) -> Result<T> {
        ciborium::from_reader(&payload[..]).map_err(|e| decode_error("CBOR", e))
    }
}

/// The payload as it is: `application/octet-stream`, and any content type is read.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

/// What [`Raw`] carries: a type that is its own payload.
///
/// `#[event(codec = Raw)]` implements it for a struct with a single field that has it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not its own payload",
    note = "write `codec = Raw`, without a path, on a struct with one field of type `Bytes`, `Vec<u8>` or `String`, or implement `RawPayload`"
)]
pub trait RawPayload: Sized {
    /// The payload; shared where that is possible.
    fn to_payload(&self) -> Bytes;

    /// Takes a payload; shared where that is possible.
    ///
    /// # Errors
    /// Anything that says why these bytes are not a value.
    fn from_payload(payload: &Bytes) -> std::result::Result<Self, BoxError>;
}

impl<T: RawPayload> Codec<T> for Raw {
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(value: &T) -> Result<Bytes> {
        Ok(value.to_payload())
    }

    fn decode(payload: &Bytes) -> Result<T> {
        T::from_payload(payload).map_err(|e| decode_error("raw payload", e))
    }
}

impl RawPayload for Bytes {
    fn to_payload(&self) -> Bytes {
        self.clone()
    }

    fn from_payload(payload: &Bytes) -> std::result::Result<Self, BoxError> {
        Ok(payload.clone())
    }
}

impl RawPayload for Vec<u8> {
    fn to_payload(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn from_payload(payload: &Bytes) -> std::result::Result<Self, BoxError> {
        Ok(payload.to_vec())
    }
}

impl RawPayload for String {
    fn to_payload(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn from_payload(payload: &Bytes) -> std::result::Result<Self, BoxError> {
        Ok(std::str::from_utf8(payload)?.to_owned())
    }
}

fn encode_error(format: &str, error: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::Encode, format!("cannot encode as {format}")).with_source(error)
}

fn decode_error(format: &str, error: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::Decode, format!("cannot decode as {format}")).with_source(error)
}

/// Refuses a payload whose sender says that it is in another format than the codec reads.
///
/// Without a content type, and with one that nobody registered with us, the codec tries: programs that
/// know none of this rarely set it, or set something of their own.
pub(crate) fn check_content_type(found: &str, expected: &str) -> Result<()> {
    // What `Raw` makes says nothing about its content.
    const FORMATS: [&str; 3] = [
        "application/json",
        "application/msgpack",
        "application/cbor",
    ];
    if found == expected || found.is_empty() {
        return Ok(());
    }
    let essence = |text: &str| text.find(';').unwrap_or(text.len());
    let found = found[..essence(found)].trim();
    let expected = expected[..essence(expected)].trim();
    let is_known = |text: &str| {
        let mut formats = FORMATS.iter();
        formats.any(|format| format.eq_ignore_ascii_case(text))
    };
    if found.eq_ignore_ascii_case(expected) || !is_known(found) || !is_known(expected) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Decode,
        format!("content type is `{found}`, and the event reads `{expected}`"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_known_format_is_refused() {
        assert!(check_content_type("application/json; charset=utf-8", "application/json").is_ok());
        assert!(check_content_type("Application/JSON ;charset=utf-8", "application/json").is_ok());
        assert!(check_content_type("Application/CBOR;a=b", "application/json").is_err());
        assert!(check_content_type("", "application/cbor").is_ok());
        assert!(check_content_type("application/vnd.shop+json", "application/json").is_ok());
        assert!(check_content_type("application/cbor", "application/json").is_err());
    }

    #[test]
    fn a_decode_error_keeps_its_cause() {
        let error = <Json as Codec<u64>>::decode(&Bytes::from_static(b"{}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(
            crate::error::chain(&error).contains("invalid type"),
            "{}",
            crate::error::chain(&error)
        );
    }
}
