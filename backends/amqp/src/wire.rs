//! A message as properties, headers and a body of AMQP, and back.

use std::time::{Duration, SystemTime};

use event_core::{Address, Bytes, ExchangeName, HeaderValue, Headers, Message, RoutingKey};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use smol_str::SmolStr;

/// Where the attributes of CloudEvents stand among the headers.
const PREFIX: &str = "cloudEvents_";
/// What is read: the binding for AMQP 1.0 allows both.
const PREFIXES: [&str; 2] = [PREFIX, "cloudEvents:"];

/// The exchange that every queue is bound to by its name, as permissions call it.
pub(crate) const DEFAULT_EXCHANGE: &str = "amq.default";

/// Where a copy came from: it goes straight to its queue, through the default exchange.
const EXCHANGE: &str = "switchboard-exchange";
const KEY: &str = "switchboard-key";
/// How often a suspect began to run alone without being settled afterwards.
const ALONE: &str = "switchboard-alone";
/// Tells one record of a run alone from another.
const RUN: &str = "switchboard-run";
/// The id of a dead letter.
const LETTER: &str = "switchboard-letter";

/// How much of a frame names of headers, notes of a copy and what goes with them take.
const OVERHEAD: usize = 4_096;

/// What a copy carries beside its message.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// How often it began to run alone before; what has this is a suspect.
    pub(crate) alone: Option<u32>,
    pub(crate) run: Option<String>,
    pub(crate) letter: Option<String>,
}

/// The properties of a message that is published to its exchange.
pub(crate) fn properties(message: &Message) -> BasicProperties {
    with_headers(message, headers(message))
}

/// The properties of a copy that goes straight to a queue.
pub(crate) fn copy_properties(message: &Message, notes: &Notes) -> BasicProperties {
    let mut headers = headers(message);
    let mut note = |name: &'static str, text: &str| {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    };
    note(EXCHANGE, message.exchange());
    note(KEY, message.key());
    if let Some(alone) = notes.alone {
        note(ALONE, &alone.to_string());
    }
    if let Some(run) = &notes.run {
        note(RUN, run);
    }
    if let Some(letter) = &notes.letter {
        note(LETTER, letter);
    }
    with_headers(message, headers)
}

fn headers(message: &Message) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in message.to_wire(PREFIX) {
        // Long strings: RabbitMQ reads the other kind as a number.
        let value = AMQPValue::LongString(value.as_bytes().to_vec().into());
        headers.insert(name.as_str().into(), value);
    }
    headers
}

fn with_headers(message: &Message, headers: FieldTable) -> BasicProperties {
    let short =
        |text: &str| (text.len() <= 255 && !text.is_empty()).then(|| ShortString::from(text));
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(2);
    if let Some(content_type) = short(message.content_type()) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(id) = short(&message.id().to_string()) {
        properties = properties.with_message_id(id);
    }
    if let Some(kind) = short(message.key()) {
        properties = properties.with_type(kind);
    }
    if let Some(source) = short(message.source()) {
        properties = properties.with_app_id(source);
    }
    if let Some(correlation) = message.headers().text("correlationid").and_then(short) {
        properties = properties.with_correlation_id(correlation);
    }
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
    if let Some(since) = message.time().and_then(since) {
        properties = properties.with_timestamp(since.as_secs());
    }
    properties
}

/// Whether the properties of a message, and of a copy of it, fit into one frame, as they have to.
pub(crate) fn fits(message: &Message, frame_max: u32) -> bool {
    let id = message.id();
    let texts = [
        id.as_uuid().map_or_else(|| id.to_string().len(), |_| 36),
        message.source().len(),
        message.partition_key().map_or(0, str::len),
        message.content_type().len(),
        message.exchange().len(),
        message.key().len(),
    ];
    // Some of them stand in a property and in a header.
    let size = 2 * texts.into_iter().sum::<usize>() + size(message.headers()) + OVERHEAD;
    // None means that there is no limit.
    frame_max == 0 || size <= usize::try_from(frame_max).unwrap_or(usize::MAX)
}

/// A header that RabbitMQ would take for an instruction, and close the channel over or deliver elsewhere.
pub(crate) fn misunderstood(message: &Message) -> Option<&'static str> {
    let headers = message.headers();
    if headers.is_empty() {
        return None;
    }
    ["CC", "BCC"]
        .into_iter()
        .find(|name| headers.get(name).is_some())
}

fn size(headers: &Headers) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.len() + value.as_bytes().len() + 16)
        .sum()
}

/// A message as it was delivered, with what stands beside it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) notes: Notes,
    /// The queue's own count of returns.
    pub(crate) returns: u32,
}

/// Reads deliveries, and keeps the last address: those of one route share it.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    last: Option<Address>,
}

impl Reading {
    pub(crate) fn read(
        &mut self,
        exchange: &str,
        key: &str,
        properties: &BasicProperties,
        data: Vec<u8>,
    ) -> Received {
        let mut notes = Notes::default();
        let mut returns = 0;
        let mut from = None;
        let mut to = None;
        let mut headers: Vec<(&str, HeaderValue)> = Vec::new();
        if let Some(table) = properties.headers() {
            let straight = exchange.is_empty();
            for (name, value) in table.inner() {
                match name.as_str() {
                    "x-delivery-count" => returns = number(value),
                    EXCHANGE if straight => from = text(value),
                    KEY if straight => to = text(value),
                    ALONE if straight => {
                        notes.alone = text(value).and_then(|text| text.parse().ok());
                    }
                    RUN if straight => notes.run = text(value).map(str::to_owned),
                    LETTER if straight => notes.letter = text(value).map(str::to_owned),
                    // The broker's own, or of ours and not meant for a message from elsewhere.
                    EXCHANGE | KEY | ALONE | RUN | LETTER | "CC" | "BCC" => {}
                    other if is_brokers(other) => {}
                    other => {
                        if let Some(value) = header(value) {
                            headers.push((other, value));
                        }
                    }
                }
            }
        }
        let content_type = properties.content_type().as_ref();
        let address = self.address(
            from.unwrap_or(exchange),
            to.unwrap_or(key),
            content_type.map_or("", ShortString::as_str),
        );
        let mut message = Message::from_wire(address, Bytes::from(data), &PREFIXES, headers);
        // From programs that know no envelope.
        if message.id().as_uuid().is_some_and(|id| id.is_nil())
            && let Some(id) = properties.message_id()
        {
            message = message.with_id(id.as_str());
        }
        if message.source().is_empty()
            && let Some(source) = properties.app_id()
        {
            message = message.with_source(source.as_str());
        }
        if message.time().is_none()
            && let Some(time) = properties.timestamp()
        {
            message = message.with_time(SystemTime::UNIX_EPOCH + Duration::from_secs(*time));
        }
        if let Some(correlation) = properties.correlation_id()
            && message.headers().get("correlationid").is_none()
        {
            message = message.with_header("correlationid", correlation.as_str());
        }
        Received {
            message,
            notes,
            returns,
        }
    }

    fn address(&mut self, exchange: &str, key: &str, content_type: &str) -> Address {
        if let Some(last) = &self.last
            && last.exchange() == exchange
            && last.key() == key
            && last.content_type() == content_type
        {
            return last.clone();
        }
        let exchange = ExchangeName::new(exchange).unwrap_or_else(|_| foreign(exchange));
        // Never longer than a short string.
        let key = RoutingKey::new(key).unwrap_or_else(|_| RoutingKey::checked(""));
        let mut address = Address::new(exchange, key);
        if !content_type.is_empty() {
            address = address.with_content_type(content_type);
        }
        self.last = Some(address.clone());
        address
    }
}

/// A name that other programs gave, in the characters that ours have.
fn foreign(exchange: &str) -> ExchangeName {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = exchange
        .chars()
        .take(200)
        .map(|c| if legal(c) { c } else { '_' })
        .collect();
    ExchangeName::new(&name).unwrap_or(ExchangeName::checked(DEFAULT_EXCHANGE))
}

/// Headers that RabbitMQ adds, which would have it treat a copy as something else.
fn is_brokers(name: &str) -> bool {
    matches!(name, "x-death" | "x-acquired-count" | "x-stream-offset")
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn number(value: &AMQPValue) -> u32 {
    let number = match value {
        AMQPValue::LongLongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(*number),
        _ => None,
    };
    number.unwrap_or(0)
}

/// The value of a header of any type. What is not a text is written as people would.
fn header(value: &AMQPValue) -> Option<HeaderValue> {
    Some(match value {
        AMQPValue::LongString(text) => Bytes::copy_from_slice(text.as_bytes()).into(),
        AMQPValue::ByteArray(bytes) => Bytes::copy_from_slice(bytes.as_slice()).into(),
        AMQPValue::Void => return None,
        other => written(other).into(),
    })
}

fn written(value: &AMQPValue) -> String {
    let quoted = |text: &str| format!("{text:?}");
    match value {
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        AMQPValue::DecimalValue(value) => format!("{}e-{}", value.value, value.scale),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::LongString(text) => quoted(&String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => quoted(&String::from_utf8_lossy(bytes.as_slice())),
        AMQPValue::Void => "null".to_owned(),
        AMQPValue::FieldArray(values) => {
            let values: Vec<_> = values.as_slice().iter().map(written).collect();
            format!("[{}]", values.join(","))
        }
        AMQPValue::FieldTable(table) => {
            let entries = table.inner().iter();
            let entries: Vec<_> = entries
                .map(|(name, value)| format!("{}:{}", quoted(name.as_str()), written(value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

/// The name of a message in what the server returns: its id alone need not be unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Returned {
    id: SmolStr,
    exchange: SmolStr,
    key: SmolStr,
}

impl Returned {
    /// Of a message that was published to this exchange with this key.
    pub(crate) fn of(message: &Message, exchange: &str, key: &str) -> Self {
        let id: SmolStr = message.id().to_string().into();
        Self {
            // As its property.
            id: if id.len() <= 255 {
                id
            } else {
                SmolStr::default()
            },
            exchange: exchange.into(),
            key: key.into(),
        }
    }

    pub(crate) fn read(returned: &lapin::message::BasicReturnMessage) -> Self {
        let id = returned.delivery.properties.message_id().as_ref();
        Self {
            id: id.map_or("", ShortString::as_str).into(),
            exchange: returned.delivery.exchange.as_str().into(),
            key: returned.delivery.routing_key.as_str().into(),
        }
    }
}
