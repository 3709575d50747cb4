//! Fields of structs, of tuples, of a variant's value, and one that is named as a keyword.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.{region}.{type}.{id}")]
struct Order {
    id: u64,
    region: String,
    r#type: char,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "{1}.order.{0}")]
struct Refused(u64, String);

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = "order.{region}.{type}.{id}")]
    Submitted(Order),
    #[event(key = "{1}.order.{0}")]
    Refused(Refused),
}

fn main() {
    assert_eq!(Order::ROUTES[0].pattern, "order.*.*.*");
    assert_eq!(OrderEvent::ROUTES[1].pattern, "*.order.*");
}
