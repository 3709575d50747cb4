//! The grammar of published keys: words, at most 255 bytes, no wildcards.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "")]
struct Empty;

#[derive(Event)]
#[event(exchange = "order", key = "order..submit")]
struct EmptyWord;

#[derive(Event)]
#[event(exchange = "order", key = "order.*.submit")]
struct Star;

#[derive(Event)]
#[event(exchange = "order", key = "order.no#1")]
struct HashInAWord;

#[derive(Event)]
#[event(exchange = "order", key = "order.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]
struct Long;

#[derive(Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit.")]
#[event(name = "refuse", key = "#.refuse")]
struct Several;

#[derive(Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = ".order.*")]
    Two(Several),
}

fn main() {}
