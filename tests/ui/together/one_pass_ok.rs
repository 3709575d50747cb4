//! The same with every mistake mended.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use switchboard::{Bus, Event, RawEvent};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order-events", key = "order.{region}.submit", codec = Json)]
struct Order<T> {
    #[event(partition_key)]
    id: String,
    region: T,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch")]
#[event(name = "create", key = "batch.v1.create")]
#[event(name = "change", key = "batch.v1.change")]
struct Batch;

#[derive(Event)]
#[event(exchange = "batch")]
enum BatchEvent {
    #[event(key = "batch.v1.create")]
    Created(Batch),
    #[event(key = "batch.v1.change")]
    Changed(Batch),
    #[event(other)]
    Other(RawEvent),
}

fn is_event<E: Event>() {}

#[allow(dead_code)]
fn uses<T>(bus: &Bus, order: Order<T>, batch: Batch, event: BatchEvent)
where
    T: std::fmt::Display + Serialize + DeserializeOwned + Send + 'static,
{
    let _ = order.publish(bus);
    let _ = bus.publish(order);
    let _ = (batch.create(bus), batch.change(bus), Batch::CREATE.of(&batch));
    let _ = event.publish(bus);
}

fn main() {
    is_event::<Order<u64>>();
    is_event::<Batch>();
    is_event::<BatchEvent>();
}
