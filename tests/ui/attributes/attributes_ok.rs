//! Options stand in one attribute or in several, with or without a comma at the end.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit",)]
struct Order {
    #[event(partition_key)]
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(key = "order.v1.refuse")]
#[event(codec = Json, content_type = "application/vnd.shop.refused+json; version=1")]
#[event(crate = switchboard)]
struct Refused;

/// Attributes of others stay theirs.
#[derive(Event)]
#[event(exchange = "order", crate = "::switchboard")]
#[non_exhaustive]
enum OrderEvent {
    #[event(key = "order.v1.submit")]
    #[event(name = "submit")]
    Submitted(Order),
}

fn main() {
    assert_eq!(Refused::ROUTES[0].name, "Refused");
    assert_eq!(OrderEvent::ROUTES[0].name, "submit");
}
