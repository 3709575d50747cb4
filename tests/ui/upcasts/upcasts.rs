//! An older type is listed once, on a struct.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "order.v2.submit", upcasts(OrderV1, OrderV1))]
struct OrderV2;

#[derive(Event)]
#[event(exchange = "order", key = "order.v2.submit", upcasts("OrderV1"))]
struct Quoted;

fn main() {}
