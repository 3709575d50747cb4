//! What has to be there, and how an attribute is written.

use switchboard::Event;

#[derive(Event)]
struct NoAttribute;

#[derive(Event)]
enum NoAttributes {}

#[derive(Event)]
#[event]
struct NoParentheses;

#[derive(Event)]
#[event = "order"]
struct Assigned;

#[derive(Event)]
#[event()]
struct Empty;

#[derive(Event)]
#[event(codec = Json)]
struct NeitherExchangeNorKey;

#[derive(Event)]
#[event(exchange = "order")]
struct NoKey;

#[derive(Event)]
#[event(key = "order.v1.submit")]
struct NoExchange;

#[derive(Event)]
#[event("order.v1.submit")]
struct NoName;

#[derive(Event)]
#[event(exchange = "order" key = "order.v1.submit")]
struct NoComma;

#[derive(Event)]
#[event(exchange = , key = "order.v1.submit")]
struct NoValue;

fn main() {}
