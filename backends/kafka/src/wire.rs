//! A message as a record of Kafka, and back.

use event_core::{Address, Bytes, ExchangeName, HeaderValue, Message, RoutingKey};
use rdkafka::{
    Message as _,
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, OwnedHeaders},
};

/// Where the attributes of CloudEvents stand among the headers.
const PREFIX: &str = "ce_";
/// The routing key. First among the headers of ours, so that a consumer need not look far.
const TYPE: &str = "ce_type";
const CONTENT_TYPE: &str = "content-type";
/// Where a copy came from, which stands in a topic of its queue.
const EXCHANGE: &str = "switchboard-exchange";

/// The headers of a record that is published to its exchange.
pub(crate) fn headers(message: &Message) -> OwnedHeaders {
    with_headers(message, 0)
}

/// The headers of a copy in a topic of a queue.
pub(crate) fn copy_headers(message: &Message) -> OwnedHeaders {
    let headers = with_headers(message, 1);
    insert(headers, EXCHANGE, message.exchange().as_bytes())
}

fn with_headers(message: &Message, more: usize) -> OwnedHeaders {
    let wire = message.to_wire(PREFIX);
    let mut headers = OwnedHeaders::new_with_capacity(wire.len() + 1 + more);
    headers = insert(headers, TYPE, message.key().as_bytes());
    if !message.content_type().is_empty() {
        headers = insert(headers, CONTENT_TYPE, message.content_type().as_bytes());
    }
    for (name, value) in &wire {
        if name != TYPE {
            headers = insert(headers, name, value.as_bytes());
        }
    }
    headers
}

fn insert(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}

/// The bytes that a message takes, more or less: what a broker compares with its limit.
pub(crate) fn size(message: &Message) -> usize {
    let headers = message.headers().iter();
    let headers: usize = headers
        .map(|(name, value)| name.len() + value.as_bytes().len() + 8)
        .sum();
    // The attributes of the envelope, and what the record itself adds.
    message.payload().len() + headers + message.source().len() + message.key().len() + 256
}

/// The routing key of a record; nothing when it has none.
pub(crate) fn key<'m>(record: &'m BorrowedMessage<'_>) -> Option<&'m str> {
    let headers = record.headers()?;
    find(headers, TYPE).and_then(|value| std::str::from_utf8(value).ok())
}

fn find<'h>(headers: &'h BorrowedHeaders, name: &str) -> Option<&'h [u8]> {
    headers
        .iter()
        .find(|header| header.key == name)
        .and_then(|header| header.value)
}

/// Makes messages of records, and remembers the last address, which the next record mostly has too.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The exchange of records that do not say where they came from.
    exchange: ExchangeName,
    /// The key of records that have none.
    default_key: RoutingKey,
    last: Option<Address>,
}

impl Reading {
    pub(crate) fn new(exchange: ExchangeName, default_key: RoutingKey) -> Self {
        Self {
            exchange,
            default_key,
            last: None,
        }
    }

    /// The key that a record has or is given.
    pub(crate) fn key<'m>(&'m self, record: &'m BorrowedMessage<'_>) -> &'m str {
        key(record).unwrap_or(&self.default_key)
    }

    /// The message in a record of an exchange. Of programs that know no envelope, the record's key is what keeps an
    /// order.
    pub(crate) fn message(&mut self, record: &BorrowedMessage<'_>) -> Message {
        let message = self.copy(record);
        if message.partition_key().is_some() {
            return message;
        }
        match record.key().and_then(|key| std::str::from_utf8(key).ok()) {
            Some(key) => message.with_partition_key(key),
            None => message,
        }
    }

    /// The message in a record of a queue. What is missing stays unset: other programs send none of it.
    pub(crate) fn copy(&mut self, record: &BorrowedMessage<'_>) -> Message {
        let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
        let Some(headers) = record.headers() else {
            let key = self.default_key.clone();
            return Message::to(self.address(None, &key, ""), payload);
        };
        let (mut exchange, mut kind, mut content_type) = (None, None, "");
        for header in headers.iter() {
            let text = header
                .value
                .and_then(|value| std::str::from_utf8(value).ok());
            match header.key {
                TYPE => kind = kind.or(text),
                CONTENT_TYPE => content_type = text.unwrap_or_default(),
                EXCHANGE => exchange = text,
                _ => {}
            }
        }
        let address = match kind {
            Some(kind) => self.address(exchange, kind, content_type),
            None => {
                let key = self.default_key.clone();
                self.address(exchange, &key, content_type)
            }
        };
        let others = headers
            .iter()
            .filter(|header| !matches!(header.key, TYPE | CONTENT_TYPE | EXCHANGE))
            .map(|header| {
                let value = Bytes::copy_from_slice(header.value.unwrap_or_default());
                (header.key, HeaderValue::from(value))
            });
        Message::from_wire(address, payload, &[PREFIX], others)
    }

    fn address(&mut self, exchange: Option<&str>, key: &str, content_type: &str) -> Address {
        let exchange = exchange.unwrap_or(&self.exchange);
        if let Some(last) = &self.last
            && last.key() == key
            && last.content_type() == content_type
            && last.exchange() == exchange
        {
            return last.clone();
        }
        let exchange = match exchange == self.exchange.as_str() {
            true => self.exchange.clone(),
            false => ExchangeName::new(exchange).unwrap_or_else(|_| self.exchange.clone()),
        };
        let key = RoutingKey::new(key).unwrap_or_else(|_| self.default_key.clone());
        let address = Address::new(exchange, key).with_content_type(content_type);
        self.last = Some(address.clone());
        address
    }
}
