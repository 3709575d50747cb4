//! A partition key is text, and a field of the value.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Order {
    #[event(partition_key)]
    lines: Vec<u64>,
}

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = "order.v1.submit", partition_key = "id")]
    Submitted(Order),
}

fn main() {}
