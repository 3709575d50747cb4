//! An option is given once, also when the attributes are several.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", exchange = "orders", key = "order.v1.submit")]
#[event(validate, validate)]
struct Order {
    #[event(partition_key)]
    #[event(partition_key)]
    id: u64,
}

#[derive(Event)]
#[event(exchange = "order")]
#[event(exchange = "orders")]
enum OrderEvent {
    #[event(key = "order.v1.submit")]
    #[event(key = "order.v2.submit")]
    Submitted(Order),
}

fn main() {}
