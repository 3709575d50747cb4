//! Anything with `Display`, also of a generic type.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use switchboard::{Event, Publish};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Order<T> {
    #[event(partition_key)]
    id: T,
}

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent<T: Display> {
    #[event(key = "order.v1.submit", partition_key = "id")]
    Submitted(Order<T>),
}

fn main() {
    let event = OrderEvent::Submitted(Order { id: "one" .to_owned() });
    assert_eq!(event.outgoing().unwrap().message().partition_key(), Some("one"));
}
