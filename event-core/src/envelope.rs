//! The envelope: CloudEvents 1.0 attributes of a message, as headers of a broker and as a JSON document.
//!
//! Binary mode is what is written: attributes in headers, the payload as it is. Structured mode, a JSON
//! document around the payload, is read wherever a message's content type asks for it.

use std::{borrow::Cow, collections::BTreeMap};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use serde_json::value::RawValue;
use smol_str::SmolStr;

use crate::{
    address::Address,
    error::{Error, ErrorKind, Result},
    header::HeaderValue,
    message::Message,
};

/// The extension attributes that travel as attributes; every other header travels as a header.
/// `traceparent` and `tracestate` keep the bare names that W3C gives them.
const EXTENSIONS: [&str; 6] = [
    "subject",
    "dataschema",
    "correlationid",
    "causationid",
    "sequence",
    "sequencetype",
];

/// The most bytes of the name of an attribute.
const LONGEST: usize = 16;

impl Message {
    /// The attributes and headers of the message as a broker's headers, the attributes under a prefix:
    /// `cloudEvents_` on AMQP, `ce_` on Kafka and Redis. The content type is not among them.
    pub fn to_wire(&self, prefix: &str) -> Vec<(SmolStr, HeaderValue)> {
        let mut wire = Vec::with_capacity(6 + self.headers().len());
        self.each_on_wire(prefix, |name, value| {
            let value = match value {
                WireValue::Text(text) => text.into(),
                WireValue::Header(value) => value.clone(),
            };
            // Short enough to stand in place, mostly.
            wire.push((name.into(), value));
        });
        wire
    }

    /// What [`to_wire`](Self::to_wire) gives, one after the other and without a copy of each: for clients that
    /// make their own.
    pub fn write_wire(&self, prefix: &str, mut write: impl FnMut(&str, &[u8])) {
        self.each_on_wire(prefix, |name, value| match value {
            WireValue::Text(text) => write(name, text.as_bytes()),
            WireValue::Header(value) => write(name, value.as_bytes()),
        });
    }

    fn each_on_wire(&self, prefix: &str, mut each: impl FnMut(&str, WireValue<'_>)) {
        // One buffer for the names of all attributes.
        let mut buffer = String::with_capacity(prefix.len() + LONGEST);
        let mut named = |attribute: &str, value: WireValue<'_>| {
            buffer.clear();
            buffer.extend([prefix, attribute]);
            each(&buffer, value);
        };
        named("specversion", WireValue::Text("1.0"));
        self.id().with_text(|id| named("id", WireValue::Text(id)));
        // Required by the standard, and it must not be empty.
        let source = if self.source().is_empty() {
            "unknown"
        } else {
            self.source()
        };
        named("source", WireValue::Text(source));
        named("type", WireValue::Text(self.key()));
        if let Some(time) = self.time() {
            let time = humantime::format_rfc3339_micros(time).to_string();
            named("time", WireValue::Text(&time));
        }
        if let Some(key) = self.partition_key() {
            named("partitionkey", WireValue::Text(key));
        }
        for (name, value) in self.headers().iter() {
            if EXTENSIONS.contains(&name) {
                buffer.clear();
                buffer.extend([prefix, name]);
                each(&buffer, WireValue::Header(value));
            } else {
                each(name, WireValue::Header(value));
            }
        }
    }

    /// A message from a broker's headers, attributes under any of the prefixes. What is missing stays
    /// unset: other programs send none of them. A value becomes one of the message's own only where it is kept as a
    /// header.
    pub fn from_wire<'h, V>(
        address: Address,
        payload: Bytes,
        prefixes: &[&str],
        wire: impl IntoIterator<Item = (&'h str, V)>,
    ) -> Self
    where
        V: AsRef<[u8]> + Into<HeaderValue>,
    {
        let mut message = Self::to(address, payload);
        for (name, value) in wire {
            match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
                Some(attribute) => message.set_attribute(attribute, value),
                None => message.headers_mut().push(name, value),
            }
        }
        message.headers_mut().unify();
        message
    }

    /// An attribute from a broker. Whoever sets them [unifies](Headers::unify) the headers afterwards.
    fn set_attribute<V: AsRef<[u8]> + Into<HeaderValue>>(&mut self, name: &str, value: V) {
        // What the standard fixes, and what the address already says.
        if matches!(name, "specversion" | "datacontenttype") {
            return;
        }
        match (name, std::str::from_utf8(value.as_ref())) {
            ("type", Ok(kind)) if kind == self.key().as_str() => {}
            ("id", Ok(id)) => self.set_id(id),
            ("source", Ok(source)) => self.set_source(source),
            ("partitionkey", Ok(key)) => self.set_partition_key(key),
            ("time", Ok(time)) => match humantime::parse_rfc3339_weak(time) {
                Ok(time) => self.set_time(time),
                // Kept as it came, for whoever can read it.
                Err(_) => self.headers_mut().push("time", value),
            },
            (other, _) => self.headers_mut().push(other, value),
        }
    }
}

/// What stands in a header of a broker: made for it, or shared.
enum WireValue<'a> {
    Text(&'a str),
    Header(&'a HeaderValue),
}

/// Whether a message is a CloudEvents document: exactly when its content type says so.
pub(crate) fn is_structured(content_type: &str) -> bool {
    const PREFIX: &str = "application/cloudevents";
    content_type
        .get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The message inside of a document: the same address, with the document's attributes and data.
pub(crate) fn open(message: &Message) -> Result<Message> {
    let wrong = |text: String| {
        Error::new(
            ErrorKind::Decode,
            format!("not a CloudEvents document in JSON: {text}"),
        )
    };
    let format = message
        .content_type()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !format.eq_ignore_ascii_case("application/cloudevents+json") {
        return Err(wrong(format!("the content type is `{format}`")));
    }
    // Members as they are written, so that the data keeps its bytes.
    let document: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(message.payload()).map_err(|e| wrong(e.to_string()))?;
    let text = |name: &str| {
        document
            .get(name)
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
    };
    for required in ["id", "source", "specversion", "type"] {
        if text(required).is_none_or(|text| text.is_empty()) {
            return Err(wrong(format!("the attribute `{required}` is missing")));
        }
    }
    let content_type = text("datacontenttype").unwrap_or_else(|| "application/json".to_owned());
    let payload = match (document.get("data"), document.get("data_base64")) {
        (Some(_), Some(_)) => return Err(wrong("it has both `data` and `data_base64`".to_owned())),
        (Some(data), None) => match text("data") {
            Some(text) if !content_type.contains("json") => text.into(),
            _ => Bytes::copy_from_slice(data.get().as_bytes()),
        },
        (None, Some(_)) => {
            let encoded = text("data_base64").unwrap_or_default();
            BASE64_STANDARD
                .decode(encoded)
                .map_err(|e| wrong(format!("`data_base64`: {e}")))?
                .into()
        }
        (None, None) => Bytes::new(),
    };
    let mut inner = message
        .clone()
        .with_payload(payload)
        .with_content_type(content_type);
    for (name, raw) in &document {
        if matches!(&**name, "data" | "data_base64") || raw.get() == "null" {
            continue;
        }
        // A number or a boolean is its own text.
        let value = text(name).unwrap_or_else(|| raw.get().to_owned());
        inner.set_attribute(name, HeaderValue::from(value));
    }
    inner.headers_mut().unify();
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn address(content_type: &str) -> Address {
        Address::new("order".parse().unwrap(), "order.v1.submit".parse().unwrap())
            .with_content_type(content_type)
    }

    #[test]
    fn the_wire_gives_back_what_it_was_given() {
        let message = Message::to(address("application/json"), "{}")
            .with_id("A-17")
            .with_source("shop")
            .with_time(
                SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_700_000_000_000_001),
            )
            .with_partition_key("7")
            .with_header("correlationid", "c")
            .with_header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .with_header("tenant", "eu");
        let wire = message.to_wire("cloudEvents_");
        assert!(wire.contains(&("cloudEvents_type".into(), "order.v1.submit".into())));
        assert!(wire.contains(&("cloudEvents_correlationid".into(), "c".into())));
        assert!(wire.iter().any(|(name, _)| name == "traceparent"));
        let mut written = Vec::new();
        message.write_wire("cloudEvents_", |name, value| {
            written.push((name.into(), value.into()));
        });
        assert_eq!(written, wire);
        let read = wire
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        let back = Message::from_wire(
            message.address().clone(),
            "{}".into(),
            &["cloudEvents:", "cloudEvents_"],
            read,
        );
        assert_eq!(back, message);
    }

    #[test]
    fn messages_of_others_need_no_attributes() {
        let wire = [("task", HeaderValue::from("bill"))];
        let message = Message::from_wire(address(""), "{}".into(), &["ce_"], wire);
        assert_eq!((message.source(), message.time()), ("", None));
        assert_eq!(message.headers().text("task"), Some("bill"));
    }

    #[test]
    fn a_document_is_opened() {
        let json = r#"{"specversion":"1.0","id":"1","source":"/x","type":"order.v1.submit","sequence":7,
            "time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","data":{"id": 1.50}}"#;
        let message = Message::to(address("application/cloudevents+json; charset=utf-8"), json);
        assert!(is_structured(message.content_type()));
        let inner = open(&message).unwrap();
        assert_eq!(&inner.payload()[..], br#"{"id": 1.50}"#);
        assert_eq!(
            (inner.source(), inner.content_type()),
            ("/x", "application/json")
        );
        assert_eq!(inner.headers().text("sequence"), Some("7"));
        assert!(inner.time().is_some());
    }

    #[test]
    fn data_may_be_base64_or_text() {
        let with = |rest: &str| {
            let json =
                format!(r#"{{"specversion":"1.0","id":"1","source":"x","type":"t",{rest}}}"#);
            open(&Message::to(address("application/cloudevents+json"), json))
        };
        assert_eq!(
            with(r#""data_base64":"AQI=""#).unwrap().payload(),
            &[1, 2][..]
        );
        assert_eq!(
            with(r#""datacontenttype":"text/plain","data":"hi""#)
                .unwrap()
                .payload(),
            "hi"
        );
        assert!(with(r#""data":1,"data_base64":"AQI=""#).is_err());
        assert!(with(r#""data_base64":"?""#).is_err());
    }

    #[test]
    fn a_document_without_its_attributes_is_refused() {
        for json in [
            "{}",
            "[]",
            "",
            r#"{"specversion":"1.0","id":"","source":"x","type":"t"}"#,
        ] {
            let error =
                open(&Message::to(address("application/cloudevents+json"), json)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{json}");
        }
        let batch = Message::to(address("application/cloudevents-batch+json"), "[]");
        assert!(is_structured(batch.content_type()) && open(&batch).is_err());
    }
}
