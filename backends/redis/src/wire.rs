//! A message as fields of a stream's entry, and back.

use event_core::{Address, Bytes, ExchangeName, HeaderValue, Message, RoutingKey};
use redis::{RedisWrite, ToRedisArgs, Value};
use smol_str::SmolStr;

use crate::scripts::Call;

/// Where the attributes of CloudEvents stand among the fields.
const PREFIX: &str = "ce_";
const DATA: &str = "data";
const CONTENT_TYPE: &str = "content-type";
/// A header of this name would be taken for one of the above.
const ESCAPE: &str = "h:";
/// An entry that only wakes somebody.
const WAKE: &str = "switchboard-wake";

/// How many fields a message has at most that are no headers, its payload among them.
const MOST_ATTRIBUTES: usize = 8;

/// The most headers that a message may have: the server's scripts pass no more fields at once.
pub(crate) const MOST_HEADERS: usize = 3_000;

/// An entry's id: when it came, and which of that millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId {
    pub(crate) millis: u64,
    pub(crate) number: u64,
}

impl EntryId {
    pub(crate) fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::BulkString(bytes) => Self::from_text(std::str::from_utf8(bytes).ok()?),
            Value::SimpleString(text) => Self::from_text(text),
            _ => None,
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (millis, number) = text.split_once('-')?;
        Some(Self {
            millis: millis.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl ToRedisArgs for EntryId {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

/// Writes how many fields and values a message has, and those.
pub(crate) fn push_fields(call: &mut Call, message: &Message) {
    let fields = fields(message);
    call.push(2 * fields.len());
    for (name, value) in &fields {
        call.push(name.as_bytes());
        call.push(&value.as_bytes()[..]);
    }
}

/// The most arguments that a message is in a request, besides where it goes.
pub(crate) fn most_args(message: &Message) -> usize {
    2 + 2 * (MOST_ATTRIBUTES + message.headers().len())
}

/// The fields of a message with their values.
pub(crate) fn fields(message: &Message) -> Vec<(SmolStr, HeaderValue)> {
    let mut fields = message.to_wire(PREFIX);
    for (name, _) in &mut fields {
        if matches!(name.as_str(), DATA | CONTENT_TYPE | WAKE) || name.starts_with(ESCAPE) {
            *name = [ESCAPE, name].concat().into();
        }
    }
    if !message.content_type().is_empty() {
        fields.push((
            SmolStr::new_static(CONTENT_TYPE),
            message.content_type().into(),
        ));
    }
    fields.push((
        SmolStr::new_static(DATA),
        HeaderValue::from(message.payload().clone()),
    ));
    fields
}

/// About as many bytes as a message takes in a request.
pub(crate) fn weight(message: &Message) -> usize {
    let headers = message.headers().iter();
    let headers: usize = headers
        .map(|(name, value)| name.len() + value.as_bytes().len() + 16)
        .sum();
    message.payload().len() + headers + 256
}

/// What stands in an entry.
#[derive(Debug)]
pub(crate) enum Entry {
    Message(Message),
    /// Something was given back, and somebody should look.
    Wake,
}

/// Reads the entries of one exchange, and keeps the last address: those of one route share it.
#[derive(Debug)]
pub(crate) struct Reading {
    exchange: ExchangeName,
    last: Option<Address>,
}

impl Reading {
    pub(crate) fn new(exchange: ExchangeName) -> Self {
        Self {
            exchange,
            last: None,
        }
    }

    /// Reads an entry's fields.
    pub(crate) fn read(&mut self, fields: Vec<Value>) -> Entry {
        let mut payload = Bytes::new();
        let mut content_type = Bytes::new();
        let mut key = Bytes::new();
        let mut headers: Vec<(Vec<u8>, HeaderValue)> = Vec::with_capacity(fields.len() / 2);
        let mut fields = fields.into_iter();
        while let (Some(Value::BulkString(name)), Some(value)) = (fields.next(), fields.next()) {
            let value = match value {
                Value::BulkString(bytes) => Bytes::from(bytes),
                _ => continue,
            };
            match name.as_slice() {
                b"data" => payload = value,
                b"content-type" => content_type = value,
                b"ce_type" => key = value,
                b"switchboard-wake" => return Entry::Wake,
                _ => headers.push((name, value.into())),
            }
        }
        let address = self.address(&key, &content_type);
        let headers = headers.iter_mut().filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).ok()?;
            let name = name.strip_prefix(ESCAPE).unwrap_or(name);
            // Moved: the first clone of bytes from a vector allocates.
            let value = std::mem::replace(value, HeaderValue::from(Bytes::new()));
            Some((name, value))
        });
        let message = Message::from_wire(address, payload, &[PREFIX], headers);
        Entry::Message(message)
    }

    fn address(&mut self, key: &[u8], content_type: &[u8]) -> Address {
        if let Some(last) = &self.last
            && last.key().as_bytes() == key
            && last.content_type().as_bytes() == content_type
        {
            return last.clone();
        }
        let key = String::from_utf8_lossy(key);
        let key = RoutingKey::new(&key).unwrap_or_else(|_| RoutingKey::checked(""));
        let mut address = Address::new(self.exchange.clone(), key);
        if !content_type.is_empty() {
            address = address.with_content_type(&*String::from_utf8_lossy(content_type));
        }
        self.last = Some(address.clone());
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(message: &Message) -> Vec<Value> {
        let fields = fields(message).into_iter();
        fields
            .flat_map(|(name, value)| {
                [
                    Value::BulkString(name.as_bytes().to_vec()),
                    Value::BulkString(value.as_bytes().to_vec()),
                ]
            })
            .collect()
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let exchange = ExchangeName::checked("order");
        let key = RoutingKey::checked("order.v1.submit");
        let message = Message::new(exchange.clone(), key, &b"\x00\xff"[..])
            .with_content_type("application/json")
            .with_source("shop")
            .with_id("an id")
            .with_partition_key("7")
            .with_header("data", "a header")
            .with_header("content-type", "another")
            .with_header("h:x", "1")
            .with_header("x", event_core::Bytes::from_static(b"\xfe"));
        let Entry::Message(read) = Reading::new(exchange).read(written(&message)) else {
            panic!("not a message")
        };
        assert_eq!(read.payload(), message.payload());
        assert_eq!(read.address(), message.address());
        assert_eq!(read.id(), message.id());
        assert_eq!(read.source(), "shop");
        assert_eq!(read.partition_key(), Some("7"));
        let headers = |m: &Message| {
            let mut all: Vec<_> = m
                .headers()
                .iter()
                .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
                .collect();
            all.sort();
            all
        };
        assert_eq!(headers(&read), headers(&message));
    }

    #[test]
    fn ids_are_in_the_order_of_the_stream() {
        let id = |text| EntryId::from_text(text).unwrap();
        assert!(id("9-10") < id("10-2") && id("10-2") < id("10-10"));
        assert_eq!(id("17-3").to_string(), "17-3");
        assert_eq!(EntryId::from_text("17"), None);
    }
}
