//! Each option takes a value of its own kind.

use switchboard::Event;

const KEY: &str = "order.v1.submit";

#[derive(Event)]
#[event(exchange = 7, key = KEY, name, content_type = "json", codec = "Json", upcasts = OrderV1, validate = true)]
struct Order {
    #[event(partition_key = "id")]
    id: u64,
}

#[derive(Event)]
#[event(exchange("order"), key = "order.v1.refuse", name = "", upcasts(), crate = "no path")]
struct Refused;

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = "order.v1.submit", partition_key)]
    Submitted(Order),
    #[event(other = true)]
    Other(switchboard::RawEvent),
}

fn main() {}
