//! Everything that the grammar allows.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "Order-2.eu_west", key = "order.v1.submit")]
struct Order;

fn main() {
    assert_eq!(Order::ROUTES[0].exchange, "Order-2.eu_west");
}
