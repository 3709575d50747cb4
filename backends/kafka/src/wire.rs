//! A message as a record of Kafka, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// The routing key of a record, and at which of its headers it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind<'m> {
    pub(crate) key: &'m str,
    at: usize,
}

/// The routing key of a record; nothing when it has none that is legal.
pub(crate) fn kind<'m>(record: &'m BorrowedMessage<'_>) -> Option<Kind<'m>> {
    let headers = record.headers()?;
    let (at, value) = (0..headers.count())
        .filter_map(|at| Some((at, header(headers, at)?)))
        .find(|(_, header)| header.key == TYPE)
        .map(|(at, header)| (at, header.value))?;
    let key = std::str::from_utf8(value?).ok()?;
    (key.len() <= LONGEST_KEY).then_some(Kind { key, at })
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
/// Records that are read together stand behind each other in pieces of memory of this size, which are kept while one
/// of them is.
const PIECE: usize = 16_384;
/// A record whose payload is larger than this has memory of its own.
const SMALL: usize = 1_024;
/// What a record has beside its payload, mostly.
const BESIDE: usize = 256;
/// The length of a key that is not there.
const NO_KEY: u32 = u32::MAX;
/// The names that our own records have, in their order: each is packed as its place here.
const NAMES: [&str; 7] = [
    TYPE,
    CONTENT_TYPE,
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_time",
    "ce_partitionkey",
];
/// Instead of a place: the name follows.
const OTHER: u8 = u8::MAX;

/// A record as bytes: its key, its headers and its payload, one behind the other. The client lends a record for a
/// moment, to the one thread that reads; the message is made of this by whoever takes it.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    bytes: Bytes,
    /// Where the payload begins.
    payload: usize,
}

/// Where a record stands among those that were packed with it.
#[derive(Debug)]
pub(crate) struct Spot {
    piece: usize,
    from: usize,
    payload: usize,
    to: usize,
}

/// Packs records that are read together.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    full: Vec<Bytes>,
    piece: Vec<u8>,
}

/// The records that were packed together.
#[derive(Debug)]
pub(crate) struct Pieces(Vec<Bytes>);

impl Packer {
    /// A record of an exchange, whose routing key was looked for. Of programs that know no envelope, the record's key
    /// is what keeps an order.
    pub(crate) fn pack(&mut self, record: &BorrowedMessage<'_>, kind: Option<Kind<'_>>) -> Spot {
        // A dead letter that somebody put back is a new message.
        self.pack_with(record, record.key(), kind, |name| !name.starts_with(OURS))
    }

    /// A record of a queue.
    pub(crate) fn pack_copy(&mut self, record: &BorrowedMessage<'_>) -> Spot {
        self.pack_with(record, None, None, |_| true)
    }

    /// A record that was packed before.
    pub(crate) fn put(&mut self, packed: Packed) -> Spot {
        self.seal();
        let spot = Spot {
            piece: self.full.len(),
            from: 0,
            payload: packed.payload,
            to: packed.bytes.len(),
        };
        self.full.push(packed.bytes);
        spot
    }

    fn pack_with(
        &mut self,
        record: &BorrowedMessage<'_>,
        key: Option<&[u8]>,
        kind: Option<Kind<'_>>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Spot {
        let payload = record.payload().unwrap_or_default();
        let size = payload.len() + BESIDE;
        let is_large = payload.len() > SMALL;
        if is_large || self.piece.len() + size > PIECE {
            self.seal();
        }
        let bytes = &mut self.piece;
        let least = bytes.len() + size;
        if bytes.capacity() < least {
            // The first grows with what it gets: mostly there is either little, or much.
            let wanted = match (is_large, self.full.is_empty()) {
                (true, _) => least,
                (false, true) => 2 * bytes.len(),
                (false, false) => PIECE,
            };
            bytes.reserve_exact(wanted.clamp(least, PIECE.max(least)) - bytes.len());
        }
        let from = bytes.len();
        bytes.extend_from_slice(&key.map_or(NO_KEY, length).to_ne_bytes());
        bytes.extend_from_slice(key.unwrap_or_default());
        let mut next = 0;
        if let Some(kind) = kind {
            put_known(bytes, next, kind.key.as_bytes());
            next += 1;
        }
        let headers = record.headers();
        let rest = headers.into_iter().flat_map(|headers| {
            let others = (0..headers.count()).filter(|at| kind.is_none_or(|kind| kind.at != *at));
            // Each look at a header measures and checks its name, so it is looked at once.
            others.filter_map(|at| header(headers, at))
        });
        for header in rest {
            let (name, value) = (header.key, header.value.unwrap_or_default());
            let place = match NAMES.get(next) == Some(&name) {
                true => Some(next),
                false => NAMES.iter().position(|known| *known == name),
            };
            if let Some(place) = place {
                put_known(bytes, place, value);
                next = place + 1;
            } else if is_wanted(name) {
                bytes.push(OTHER);
                bytes.extend_from_slice(&length(value).to_ne_bytes());
                bytes.extend_from_slice(&length(name.as_bytes()).to_ne_bytes());
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(value);
            }
        }
        let begin = bytes.len();
        bytes.extend_from_slice(payload);
        let spot = Spot {
            piece: self.full.len(),
            from,
            payload: begin,
            to: bytes.len(),
        };
        if is_large {
            self.seal();
        }
        spot
    }

    /// What is packed from here on stands elsewhere.
    fn seal(&mut self) {
        if !self.piece.is_empty() {
            self.full.push(std::mem::take(&mut self.piece).into());
        }
    }

    /// What was packed since the last time.
    pub(crate) fn finish(&mut self) -> Pieces {
        self.seal();
        Pieces(std::mem::take(&mut self.full))
    }
}

impl Pieces {
    /// A record that was packed together with these.
    pub(crate) fn packed(&self, spot: &Spot) -> Packed {
        Packed {
            bytes: self.0[spot.piece].slice(spot.from..spot.to),
            payload: spot.payload - spot.from,
        }
    }
}

/// A header whose name is the one at this place.
fn put_known(bytes: &mut Vec<u8>, place: usize, value: &[u8]) {
    let [a, b, c, d] = length(value).to_ne_bytes();
    bytes.extend_from_slice(&[place as u8, a, b, c, d]);
    bytes.extend_from_slice(value);
}

/// No part of a record has 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(NO_KEY - 1)
}

impl Packed {
    /// A record of a queue by itself.
    pub(crate) fn copy(record: &BorrowedMessage<'_>) -> Self {
        let mut packer = Packer::default();
        let spot = packer.pack_copy(record);
        packer.finish().packed(&spot)
    }

    /// A record with a payload and nothing else.
    #[cfg(test)]
    pub(crate) fn of(payload: &[u8]) -> Self {
        let mut bytes = NO_KEY.to_ne_bytes().to_vec();
        let begin = bytes.len();
        bytes.extend_from_slice(payload);
        Self {
            bytes: bytes.into(),
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
    fn parts(&self) -> (Option<&str>, Parts<'_>) {
        let mut rest = Parts(&self.bytes[..self.payload]);
        let length = rest.length().unwrap_or(NO_KEY);
        let key = (length != NO_KEY).then(|| rest.split(length));
        let key = key.and_then(|key| std::str::from_utf8(key).ok());
        (key, rest)
    }
}

/// What is left of the headers of a record.
#[derive(Clone)]
struct Parts<'b>(&'b [u8]);

impl<'b> Parts<'b> {
    fn length(&mut self) -> Option<u32> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*length))
    }

    fn split(&mut self, length: u32) -> &'b [u8] {
        let (first, rest) = self.0.split_at((length as usize).min(self.0.len()));
        self.0 = rest;
        first
    }
}

impl<'b> Iterator for Parts<'b> {
    type Item = (&'b str, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (place, rest) = self.0.split_first()?;
        self.0 = rest;
        let size = self.length()?;
        let name = match NAMES.get(usize::from(*place)) {
            Some(name) => name,
            None => {
                let length = self.length()?;
                std::str::from_utf8(self.split(length)).unwrap_or_default()
            }
        };
        Some((name, self.split(size)))
    }
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
        let (mut from, mut kind, mut content_type) = (None, None, &b""[..]);
        for (name, value) in headers.clone() {
            match name {
                TYPE => kind = kind.or(Some(value)),
                CONTENT_TYPE => content_type = value,
                EXCHANGE => from = Some(value),
                _ => {}
            }
        }
        let address = self.address(exchange, from, kind, content_type);
        let others = headers.filter(|(name, _)| !matches!(*name, TYPE | CONTENT_TYPE | EXCHANGE));
        let payload = record.bytes.slice(record.payload..);
        let message = Message::from_wire(address, payload, &[PREFIX], others);
        match record_key {
            Some(key) if message.partition_key().is_none() => message.with_partition_key(key),
            _ => message,
        }
    }

    /// What is no legal text counts as missing.
    fn address(
        &mut self,
        default: &ExchangeName,
        from: Option<&[u8]>,
        kind: Option<&[u8]>,
        content_type: &[u8],
    ) -> Address {
        let exchange = from.unwrap_or(default.as_bytes());
        let key = kind.unwrap_or(self.default_key.as_bytes());
        if let Some(last) = &self.last
            && last.key().as_bytes() == key
            && last.content_type().as_bytes() == content_type
            && last.exchange().as_bytes() == exchange
        {
            if self.left > 0 {
                self.left -= 1;
                return last.clone();
            }
            let anew = last.with_content_type(last.content_type());
            self.keep(&anew);
            return anew;
        }
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let exchange = from.and_then(|from| ExchangeName::new(text(from)?).ok());
        let key = kind.and_then(|kind| RoutingKey::new(text(kind)?).ok());
        let address = Address::new(
            exchange.unwrap_or_else(|| default.clone()),
            key.unwrap_or_else(|| self.default_key.clone()),
        );
        let address = address.with_content_type(text(content_type).unwrap_or_default());
        self.keep(&address);
        address
    }

    fn keep(&mut self, address: &Address) {
        self.last = Some(address.clone());
        self.left = SHARED;
    }
}
