//! What only the compiler can know about a field shows at the template.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.{lines}.submit")]
struct NotText {
    lines: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
}

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = "order.{region}.submit")]
    Submitted(Order),
}

fn main() {}
