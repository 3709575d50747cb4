//! Several events on one type: a name and a key each, and one exchange.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(key = "order.v1.refuse")]
#[event(name = "chargeback")]
struct Incomplete;

#[derive(Event)]
#[event(exchange = "order")]
#[event(name = "Submit", key = "order.v1.submit")]
#[event(name = "", key = "order.v1.refuse")]
#[event(name = "type", key = "order.v1.type")]
#[event(name = "charge-back", key = "order.v1.chargeback")]
struct NotMethods;

#[derive(Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "submit", key = "order.v2.submit")]
#[event(name = "refuse", key = "order.v1.submit")]
#[event(name = "by_region", key = "order.{region}.submit")]
#[event(name = "by_country", key = "order.{country}.submit")]
struct Twice {
    region: String,
    country: String,
}

#[derive(Event)]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse", exchange = "refused")]
struct NoExchange;

#[derive(Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse", exchange = "refused")]
struct TwoExchanges;

fn main() {}
