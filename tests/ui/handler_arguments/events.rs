//! The first argument is an event, by value.

use serde::{Deserialize, Serialize};
use switchboard::{Event, Queue};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

struct Till;

async fn takes_no_event(_till: Till) {}

async fn borrows_it(_order: &OrderSubmitted) {}

fn main() {
    let _: Queue = Queue::new("billing_order").handle(takes_no_event);
    let _: Queue = Queue::new("billing_order").handle(borrows_it);
}
