//! What a handler can take.

use serde::{Deserialize, Serialize};
use switchboard::{
    Bytes, Delivery, Event, FromRef, Headers, Metadata, Queue, Service, State,
};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

#[derive(Clone)]
struct Prices;

#[derive(Clone)]
struct App {
    prices: Prices,
}

impl FromRef<App> for Prices {
    fn from_ref(app: &App) -> Self {
        app.prices.clone()
    }
}

async fn takes_the_event(_order: OrderSubmitted) {}

async fn takes_extractors(
    _order: OrderSubmitted,
    _app: State<App>,
    _prices: State<Prices>,
    _meta: Metadata,
    _headers: Headers,
    _payload: Bytes,
    _delivery: Delivery,
) {
}

fn main() {
    let queue = Queue::new("billing_order")
        .bind("order", "order.*.submit")
        .handle(takes_the_event)
        .handle(takes_extractors);
    let _ = Service::new("billing")
        .with_state(App { prices: Prices })
        .queue(queue);
}
