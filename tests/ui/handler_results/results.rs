//! A result that a handler cannot have is named, with those that it can have.

use serde::{Deserialize, Serialize};
use switchboard::{Event, Queue};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

struct Till;

/// Neither an outcome nor an event.
async fn returns_a_till(_order: OrderSubmitted) -> Till {
    Till
}

/// The same inside of a result.
async fn may_return_a_till(_order: OrderSubmitted) -> switchboard::Result<Till> {
    Ok(Till)
}

/// An error that is none.
async fn fails_with_a_till(_order: OrderSubmitted) -> Result<(), Till> {
    Err(Till)
}

fn main() {
    let _: Queue = Queue::new("billing_order").handle(returns_a_till);
    let _: Queue = Queue::new("billing_order").handle(may_return_a_till);
    let _: Queue = Queue::new("billing_order").handle(fails_with_a_till);
}
