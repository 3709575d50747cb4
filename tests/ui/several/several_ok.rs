//! Several events on one type, also generic; one that will have more; exchanges for all or for each.

use serde::{Deserialize, Serialize};
use switchboard::{Bus, Event, Route};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "publish", key = "order.v1.publish")]
#[event(name = "for_region", key = "order.{region}.v1")]
struct Order<T> {
    region: T,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "first", key = "order.v1.first")]
struct OneSoFar;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "submit", exchange = "order", key = "submit")]
#[event(name = "archive", exchange = "archive", key = "submit")]
struct OnTwoExchanges;

#[allow(dead_code)]
fn methods(bus: &Bus, order: &Order<String>) {
    let _ = (order.submit(bus), order.publish(bus), order.for_region(bus), OneSoFar.first(bus));
    let _: [Route<Order<String>>; 3] = [Order::SUBMIT, Order::PUBLISH, Order::FOR_REGION];
    let _ = bus.publish(Order::SUBMIT.of(order)).mandatory();
}

fn main() {
    assert_eq!(OnTwoExchanges::ARCHIVE.info().exchange, "archive");
}
