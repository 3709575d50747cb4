//! `validate` calls rules that have to be there.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit", validate)]
struct Order {
    id: u64,
}

fn main() {}
