//! An argument that is no extractor is named, with those that there are.

use serde::{Deserialize, Serialize};
use switchboard::{Event, Queue, State};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

struct Till;

#[derive(Clone)]
struct Prices;

async fn takes_a_till(_order: OrderSubmitted, _till: Till) {}

/// What the service does not have.
async fn takes_prices(_order: OrderSubmitted, _prices: State<Prices>) {}

fn main() {
    let _: Queue = Queue::new("billing_order").handle(takes_a_till);
    let _: Queue = Queue::new("billing_order").handle(takes_prices);
}
