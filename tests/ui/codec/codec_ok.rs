//! Ours by their bare names, others as they are written.

use serde::{Deserialize, Serialize};
use switchboard::{Bytes, Codec, Error, Event};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit", codec = MessagePack)]
struct Order;

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.photo", codec = Raw)]
struct Photo {
    bytes: Vec<u8>,
}

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.note", codec = Raw)]
struct Note<T>(T);

/// Reads by itself what `Raw` gives.
#[derive(Event)]
#[event(exchange = "order", key = "order.v1.count", codec = switchboard::Raw)]
struct Count(u64);

impl switchboard::RawPayload for Count {
    fn to_payload(&self) -> Bytes {
        self.0.to_string().into()
    }

    fn from_payload(payload: &Bytes) -> Result<Self, switchboard::BoxError> {
        Ok(Self(std::str::from_utf8(payload)?.parse()?))
    }
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.refuse", codec = formats::Pretty<2, u8>)]
struct Refused;

mod formats {
    pub struct Pretty<const N: usize, T>(T);
}

impl<T, const N: usize> Codec<Refused> for formats::Pretty<N, T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode(_: &Refused) -> Result<Bytes, Error> {
        Ok(" ".repeat(N).into())
    }

    fn decode(_: &Bytes) -> Result<Refused, Error> {
        Ok(Refused)
    }
}

fn main() {
    assert_eq!(Order::ROUTES[0].content_type, "application/msgpack");
    assert_eq!(Note::<String>::ROUTES[0].type_name, "Note<T>");
}
