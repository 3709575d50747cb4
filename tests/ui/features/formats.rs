//! Without the features `msgpack` and `cbor`.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit", codec = MessagePack)]
struct Order;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.refuse", codec = Cbor)]
struct Refused;

fn main() {}
