//! A variant holds any value that its codec can encode, in either form of variant.

use serde::{Deserialize, Serialize};
use switchboard::{Bus, Bytes, Event, RawEvent};

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
}

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent<T> {
    #[event(key = "order.v1.submit", partition_key = "id")]
    Submitted(Order),
    #[event(key = "order.v1.extra")]
    Extra { value: Vec<T> },
    #[event(key = "order.v1.photo", codec = Raw)]
    Photo(Bytes),
    #[event(other, name = "unknown")]
    Other(RawEvent),
}

#[allow(dead_code)]
fn publish(bus: &Bus, event: &OrderEvent<u8>) {
    let _ = event.publish(bus);
    let _ = bus.publish(event);
    let _ = bus.publish_all([event]);
    let _ = bus.publish(OrderEvent::<u8>::Submitted(Order { id: 1 }));
}

fn main() {
    assert_eq!(OrderEvent::<u8>::ROUTES.len(), 4);
}
