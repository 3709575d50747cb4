//! A generated name that meets a method of the type shows at the name.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
struct Order;

impl Order {
    const REFUSE: bool = true;

    fn submit(&self) {}
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted;

impl OrderSubmitted {
    fn publish(&self) {}
}

fn main() {}
