//! A message as a record of Kafka, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use event_core::{Address, Bytes, ExchangeName, Message, RoutingKey};
use rdkafka::{
    Message as _,
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, OwnedHeaders},
};

/// Where the attributes of CloudEvents stand among the headers.
const PREFIX: &str = "ce_";
/// The routing key. First among the headers of ours, so that a consumer need not look far.
const TYPE: &str = "ce_type";
const CONTENT_TYPE: &str = "content-type";
/// How many attributes there are beside the headers, at most.
const ATTRIBUTES: usize = 8;
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
    let count = ATTRIBUTES + message.headers().len() + more;
    let mut headers = OwnedHeaders::new_with_capacity(count);
    headers = insert(headers, TYPE, message.key().as_bytes());
    if !message.content_type().is_empty() {
        headers = insert(headers, CONTENT_TYPE, message.content_type().as_bytes());
    }
    // What is inserted into is given back by value.
    let mut slot = Some(headers);
    message.write_wire(PREFIX, |name, value| {
        if name != TYPE {
            slot = slot.take().map(|headers| insert(headers, name, value));
        }
    });
    slot.unwrap_or_default()
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
    let id = message.id();
    let id = id.as_uuid().map_or_else(|| id.to_string().len(), |_| 36);
    // It is the record's key as well.
    let partition_key = 2 * message.partition_key().map_or(0, str::len);
    let attributes = id + message.source().len() + message.key().len() + partition_key;
    // And what the names of the attributes and the record itself add.
    message.payload().len() + headers + attributes + 256
}

/// The routing key of a record; nothing when it has none that is legal.
pub(crate) fn key<'m>(record: &'m BorrowedMessage<'_>) -> Option<&'m str> {
    let headers = record.headers()?;
    let key = find(headers, TYPE).and_then(|value| std::str::from_utf8(value).ok());
    key.filter(|key| key.len() <= LONGEST_KEY)
}

fn find<'h>(headers: &'h BorrowedHeaders, name: &str) -> Option<&'h [u8]> {
    let mut headers = (0..headers.count()).filter_map(|at| header(headers, at));
    headers
        .find(|header| header.key == name)
        .and_then(|header| header.value)
}

/// A header whose name is text. At any other the client panics, and programs in other languages may write them.
fn header(headers: &BorrowedHeaders, at: usize) -> Option<Header<'_, &[u8]>> {
    let look = AssertUnwindSafe(|| headers.try_get(at));
    catch_unwind(look).unwrap_or(None)
}

/// How many bytes a routing key has at most.
const LONGEST_KEY: usize = 255;
/// What is said of a message within its queue, which no other program can say.
const OURS: &str = "switchboard-";

/// Of so many messages in a row that have one address, it is the same in memory. Its count is written to by whoever
/// makes a message and by whoever drops one, who would be in each other's way with every message.
const SHARED: u32 = 256;
/// Payloads stand behind each other in pieces of memory of this size, which are kept while one of them is.
const PIECE: usize = 4_096;
/// A payload that is larger than this has memory of its own.
const SMALL: usize = 1_024;

/// Makes messages of records, and remembers the last address, which the next record mostly has too.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The exchange of records that do not say where they came from.
    exchange: ExchangeName,
    /// The key of records that have none.
    default_key: RoutingKey,
    last: Option<Address>,
    /// How many messages more may have it.
    left: u32,
    piece: BytesMut,
}

impl Reading {
    pub(crate) fn new(exchange: ExchangeName, default_key: RoutingKey) -> Self {
        Self {
            exchange,
            default_key,
            last: None,
            left: 0,
            piece: BytesMut::new(),
        }
    }

    fn payload(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > SMALL {
            return Bytes::copy_from_slice(bytes);
        }
        if self.piece.capacity() < bytes.len() {
            self.piece = BytesMut::with_capacity(PIECE);
        }
        self.piece.extend_from_slice(bytes);
        self.piece.split().freeze()
    }

    /// The key that a record has or is given.
    pub(crate) fn key<'m>(&'m self, record: &'m BorrowedMessage<'_>) -> &'m str {
        key(record).unwrap_or(&self.default_key)
    }

    /// The message in a record of an exchange. Of programs that know no envelope, the record's key is what keeps an
    /// order.
    pub(crate) fn message(&mut self, record: &BorrowedMessage<'_>) -> Message {
        let message = self.read(record, false);
        if message.partition_key().is_some() {
            return message;
        }
        match record.key().and_then(|key| std::str::from_utf8(key).ok()) {
            Some(key) => message.with_partition_key(key),
            None => message,
        }
    }

    /// The message in a record of a queue.
    pub(crate) fn copy(&mut self, record: &BorrowedMessage<'_>) -> Message {
        self.read(record, true)
    }

    /// What is missing stays unset: other programs send none of it.
    fn read(&mut self, record: &BorrowedMessage<'_>, is_copy: bool) -> Message {
        let payload = self.payload(record.payload().unwrap_or_default());
        let Some(headers) = record.headers() else {
            let key = self.default_key.clone();
            return Message::to(self.address(None, &key, ""), payload);
        };
        // Each look at a header measures and checks its name, so it is looked at once.
        let count = headers.count();
        let mut others = Vec::with_capacity(count);
        let (mut exchange, mut kind, mut content_type) = (None, None, "");
        for header in (0..count).filter_map(|at| header(headers, at)) {
            let text = || {
                header
                    .value
                    .and_then(|value| std::str::from_utf8(value).ok())
            };
            match header.key {
                TYPE => kind = kind.or_else(text),
                CONTENT_TYPE => content_type = text().unwrap_or_default(),
                // A dead letter that somebody put back is a new message.
                name if name.starts_with(OURS) && !is_copy => {}
                EXCHANGE => exchange = text(),
                name => others.push((name, header.value.unwrap_or_default())),
            }
        }
        let address = match kind {
            Some(kind) => self.address(exchange, kind, content_type),
            None => {
                let key = self.default_key.clone();
                self.address(exchange, &key, content_type)
            }
        };
        Message::from_wire(address, payload, &[PREFIX], others)
    }

    fn address(&mut self, exchange: Option<&str>, key: &str, content_type: &str) -> Address {
        let exchange = exchange.unwrap_or(&self.exchange);
        if let Some(last) = &self.last
            && last.key() == key
            && last.content_type() == content_type
            && last.exchange() == exchange
        {
            if self.left > 0 {
                self.left -= 1;
                return last.clone();
            }
            let anew = last.with_content_type(content_type);
            self.keep(&anew);
            return anew;
        }
        let exchange = match exchange == self.exchange.as_str() {
            true => self.exchange.clone(),
            false => ExchangeName::new(exchange).unwrap_or_else(|_| self.exchange.clone()),
        };
        let key = RoutingKey::new(key).unwrap_or_else(|_| self.default_key.clone());
        let address = Address::new(exchange, key).with_content_type(content_type);
        self.keep(&address);
        address
    }

    fn keep(&mut self, address: &Address) {
        self.last = Some(address.clone());
        self.left = SHARED;
    }
}
