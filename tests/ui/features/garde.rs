//! Without the feature `garde`.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit", validate)]
struct Order;

fn main() {}
