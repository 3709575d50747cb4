//! A codec that does not fit shows where it was chosen.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.photo", codec = Raw)]
struct TwoFields {
    id: u64,
    photo: Vec<u8>,
}

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.count", codec = Raw)]
struct NotBytes(u64);

/// With a path, the struct says itself how it is read.
#[derive(Event)]
#[event(exchange = "order", key = "order.v1.note", codec = switchboard::Raw)]
struct Note(String);

struct NoCodec;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit", codec = NoCodec)]
struct Order;

fn main() {}
