//! An unknown option lists the known ones of its place, and one that is misplaced says where it goes.

use switchboard::{Event, RawEvent};

#[derive(Event)]
#[event(exchnage = "order", key = "order.v1.submit", queue = "billing", partition_key = "id", other)]
struct Order {
    #[event(partition)]
    id: u64,
    #[event(key = "order.v1.submit")]
    region: String,
}

#[derive(Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit", codec = Json)]
#[event(name = "refuse", key = "order.v1.refuse", kez = "refuse")]
struct Several;

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.submit", upcasts(OrderV1), routes = "all")]
enum OrderEvent {
    #[event(key = "order.v1.submit", exchange = "order", rename = "submit")]
    Submitted(Order),
    #[event(key = "order.v1.refuse", upcasts(OrderV1))]
    Refused(#[event(partition_key)] Order),
    #[event(other)]
    Other(#[event(anything)] RawEvent),
}

fn main() {}
