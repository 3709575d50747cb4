//! A message as a record of Kafka, and back.

use std::{
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::{Buf as _, BufMut as _, BytesMut};
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
/// Records stand behind each other in pieces of memory of this size, which are kept while one of them is.
const PIECE: usize = 4_096;
/// A record whose payload is larger than this has memory of its own.
const SMALL: usize = 1_024;
/// What a record has beside its payload, mostly.
const BESIDE: usize = 512;
/// The length of a key that is not there.
const NO_KEY: u32 = u32::MAX;

/// A record as bytes: its key, its headers and its payload, one behind the other. The client lends a record for a
/// moment, to the one thread that reads; the message is made of this by whoever takes it.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    bytes: Bytes,
    /// Where the payload begins.
    payload: usize,
}

/// Packs records.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    piece: BytesMut,
}

impl Packer {
    /// A record of an exchange. Of programs that know no envelope, the record's key is what keeps an order.
    pub(crate) fn pack(&mut self, record: &BorrowedMessage<'_>) -> Packed {
        // A dead letter that somebody put back is a new message.
        self.pack_with(record, record.key(), |name| !name.starts_with(OURS))
    }

    /// A record of a queue.
    pub(crate) fn pack_copy(&mut self, record: &BorrowedMessage<'_>) -> Packed {
        self.pack_with(record, None, |_| true)
    }

    fn pack_with(
        &mut self,
        record: &BorrowedMessage<'_>,
        key: Option<&[u8]>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Packed {
        let payload = record.payload().unwrap_or_default();
        let size = payload.len() + BESIDE;
        let mut alone = BytesMut::new();
        let bytes = match payload.len() > SMALL {
            true => &mut alone,
            false => &mut self.piece,
        };
        if bytes.capacity() < size {
            *bytes = BytesMut::with_capacity(size.max(PIECE));
        }
        bytes.put_u32_ne(key.map_or(NO_KEY, length));
        bytes.extend_from_slice(key.unwrap_or_default());
        if let Some(headers) = record.headers() {
            // Each look at a header measures and checks its name, so it is looked at once.
            for header in (0..headers.count()).filter_map(|at| header(headers, at)) {
                if is_wanted(header.key) {
                    let value = header.value.unwrap_or_default();
                    bytes.put_u32_ne(length(header.key.as_bytes()));
                    bytes.put_u32_ne(length(value));
                    bytes.extend_from_slice(header.key.as_bytes());
                    bytes.extend_from_slice(value);
                }
            }
        }
        let begin = bytes.len();
        bytes.extend_from_slice(payload);
        Packed {
            bytes: bytes.split().freeze(),
            payload: begin,
        }
    }
}

/// No part of a record has 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(NO_KEY - 1)
}

impl Packed {
    /// A record with a payload and nothing else.
    #[cfg(test)]
    pub(crate) fn of(payload: &[u8]) -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_u32_ne(NO_KEY);
        let begin = bytes.len();
        bytes.extend_from_slice(payload);
        Self {
            bytes: bytes.freeze(),
            payload: begin,
        }
    }

    #[cfg(test)]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[self.payload..]
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Its key, and its headers.
    fn parts(&self) -> (Option<&str>, impl Iterator<Item = (&str, &[u8])>) {
        let mut rest = &self.bytes[..self.payload];
        let length = rest.get_u32_ne();
        let key = (length != NO_KEY).then(|| split(&mut rest, length));
        let headers = iter::from_fn(move || {
            if rest.len() < 8 {
                return None;
            }
            let (name, value) = (rest.get_u32_ne(), rest.get_u32_ne());
            let name = std::str::from_utf8(split(&mut rest, name)).unwrap_or_default();
            Some((name, split(&mut rest, value)))
        });
        let key = key.and_then(|key| std::str::from_utf8(key).ok());
        (key, headers)
    }
}

fn split<'b>(rest: &mut &'b [u8], length: u32) -> &'b [u8] {
    let (first, others) = rest.split_at((length as usize).min(rest.len()));
    *rest = others;
    first
}

/// Makes messages of records, and remembers the last address, which the next record mostly has too.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The key of records that have none.
    default_key: RoutingKey,
    last: Option<Address>,
    /// How many messages more may have it.
    left: u32,
}

impl Reading {
    pub(crate) fn new(default_key: RoutingKey) -> Self {
        Self {
            default_key,
            last: None,
            left: 0,
        }
    }

    /// The message in a record. The exchange is that of records that do not say where they came from. What is missing
    /// stays unset: other programs send none of it.
    pub(crate) fn message(&mut self, exchange: &ExchangeName, record: &Packed) -> Message {
        let (record_key, headers) = record.parts();
        let mut others = Vec::with_capacity(ATTRIBUTES);
        let (mut from, mut kind, mut content_type) = (None, None, "");
        for (name, value) in headers {
            let text = || std::str::from_utf8(value).ok();
            match name {
                TYPE => kind = kind.or_else(text),
                CONTENT_TYPE => content_type = text().unwrap_or_default(),
                EXCHANGE => from = text(),
                name => others.push((name, value)),
            }
        }
        let default_key = self.default_key.clone();
        let from = from.unwrap_or(exchange);
        let address = self.address(exchange, from, kind.unwrap_or(&default_key), content_type);
        let payload = record.bytes.slice(record.payload..);
        let message = Message::from_wire(address, payload, &[PREFIX], others);
        match record_key {
            Some(key) if message.partition_key().is_none() => message.with_partition_key(key),
            _ => message,
        }
    }

    fn address(
        &mut self,
        default: &ExchangeName,
        exchange: &str,
        key: &str,
        content_type: &str,
    ) -> Address {
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
        let exchange = match exchange == default.as_str() {
            true => default.clone(),
            false => ExchangeName::new(exchange).unwrap_or_else(|_| default.clone()),
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
