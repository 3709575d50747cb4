//! Each variant has a key of its own and holds one value.

use switchboard::{Event, RawEvent};

struct Order;

#[derive(Event)]
#[event(exchange = "order")]
enum Shapes {
    #[event(key = "order.v1.unit")]
    Unit,
    #[event(key = "order.v1.two")]
    Two(Order, Order),
    #[event(key = "order.v1.fields")]
    Fields { id: u64, region: String },
    Nothing(Order),
    #[event(name = "named")]
    Named(Order),
    #[event()]
    Empty(Order),
}

#[derive(Event)]
#[event(exchange = "order")]
enum Repetitions {
    #[event(key = "order.v1.submit")]
    Submitted(Order),
    #[event(key = "order.v1.submit")]
    Again(Order),
    #[event(key = "order.{region}.refuse")]
    ByRegion(Order),
    #[event(key = "order.{country}.refuse")]
    ByCountry(Order),
    #[event(key = "order.v2.submit", name = "Submitted")]
    Renamed(Order),
}

#[derive(Event)]
enum NoExchange {
    #[event(key = "order.v1.submit")]
    Submitted(Order),
}

#[derive(Event)]
#[event(exchange = "order")]
enum NoVariants {}

#[derive(Event)]
#[event(exchange = "order")]
enum Keys {
    #[event(key = "order.v1.submit", partition_key = "the id")]
    Submitted(Order),
    #[event(other, key = "order.#", codec = Json, validate)]
    Other(RawEvent),
    #[event(other)]
    AnotherOther(RawEvent),
}

fn main() {}
