//! A field fills a whole word, and has to be there.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "order.{regoin}.{kind}.submit")]
struct Named {
    id: u64,
    region: String,
}

#[derive(Event)]
#[event(exchange = "order", key = "order.{2}.submit")]
struct Tuple(u64, String);

#[derive(Event)]
#[event(exchange = "order", key = "order.{region}.submit")]
struct Unit;

#[derive(Event)]
#[event(exchange = "order", key = "order.{}.submit")]
struct NoName;

#[derive(Event)]
#[event(exchange = "order", key = "order.{region.submit")]
struct Open;

#[derive(Event)]
#[event(exchange = "order", key = "order.v{version}.submit")]
struct PartOfAWord {
    version: u32,
}

#[derive(Event)]
#[event(exchange = "order", key = "order.{address.city}.submit")]
struct Nested {
    address: (),
}

#[derive(Event)]
#[event(exchange = "order", key = "order.{id:04}.submit")]
struct Formatted {
    id: u64,
}

fn main() {}
