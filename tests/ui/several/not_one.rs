//! A type with several events does not publish as itself.

use serde::{Deserialize, Serialize};
use switchboard::{Bus, Event};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
struct Order;

fn publish(bus: &Bus, order: &Order) {
    let _ = bus.publish(order);
}

fn main() {}
