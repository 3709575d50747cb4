//! A handler's future may move to another thread.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use switchboard::{Event, Queue};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

async fn other() {}

async fn holds_an_rc(order: OrderSubmitted) {
    let id = Rc::new(order.id);
    other().await;
    drop(id);
}

fn main() {
    let _: Queue = Queue::new("billing_order").handle(holds_an_rc);
}
