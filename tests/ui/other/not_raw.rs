//! Only a `RawEvent` can hold what nobody knows.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Order;

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = "order.v1.submit")]
    Submitted(Order),
    #[event(other)]
    Other(Order),
}

fn main() {}
