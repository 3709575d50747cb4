//! Every mistake is reported in one pass, each at its own token, and none as a consequence of another: the
//! types are events all the same.

use switchboard::{Bus, Event, RawEvent};

#[derive(Event)]
#[event(exchange = "order events", key = "order..{regoin}.*", codec = "Json", quueue = "billing")]
struct Order<'a, T> {
    #[event(partition_key)]
    id: &'a str,
    #[event(partition_key, key = "id")]
    region: T,
}

#[derive(Event)]
#[event(exchange = "batch")]
#[event(name = "create", key = "batch.*.create")]
#[event(name = "change", kye = "batch.v1.change")]
struct Batch;

#[derive(Event)]
#[event(exchange = "")]
enum BatchEvent {
    #[event(key = "batch.v1.create")]
    Created(Batch, Batch),
    Changed(Batch),
    #[event(other, key = "#")]
    Other(RawEvent),
}

fn is_event<E: Event>() {}

fn uses(bus: &Bus, order: Order<'static, u64>, batch: Batch, event: BatchEvent) {
    let _ = order.publish(bus);
    let _ = bus.publish(order);
    let _ = (batch.create(bus), batch.change(bus), Batch::CREATE.of(&batch));
    let _ = bus.publish(Batch::CHANGE.of(&batch));
    let _ = event.publish(bus);
    is_event::<Order<'static, u64>>();
    is_event::<Batch>();
    is_event::<BatchEvent>();
}

fn main() {}
