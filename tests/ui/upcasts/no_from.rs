//! A conversion that is missing shows at the older type, also when the types are generic.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderV1;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v2.submit", upcasts(OrderV1))]
struct OrderV2;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v1.create")]
struct BatchV1<T> {
    sku: T,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v2.create", upcasts(BatchV1<T>))]
struct BatchV2<T> {
    sku: T,
}

struct NotAnEvent;

impl From<NotAnEvent> for OrderV3 {
    fn from(_: NotAnEvent) -> Self {
        Self
    }
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v3.submit", upcasts(NotAnEvent))]
struct OrderV3;

fn main() {}
