//! The grammar of exchanges: 1 to 200 of `A-Z a-z 0-9 . _ -`.

use switchboard::{Event, RawEvent};

#[derive(Event)]
#[event(exchange = "", key = "order.v1.submit")]
struct Empty;

#[derive(Event)]
#[event(exchange = "order events", key = "order.v1.submit")]
struct Space;

#[derive(Event)]
#[event(exchange = "größe")]
enum Letters {
    #[event(other)]
    Other(RawEvent),
}

#[derive(Event)]
#[event(exchange = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", key = "order.v1.submit")]
struct Long;

#[derive(Event)]
#[event(name = "submit", exchange = "order/eu", key = "order.v1.submit")]
#[event(name = "refuse", exchange = "order#eu", key = "order.v1.refuse")]
struct OnEach;

fn main() {}
