//! A type that its codec cannot encode: the error shows at the type, or at the codec that was chosen.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Order {
    id: u64,
}

fn main() {}
