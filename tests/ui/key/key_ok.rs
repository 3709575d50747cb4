//! Any words will do, in any alphabet.

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order")]
struct OneWord;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "Größe.1.a-b_c/d e")]
struct Letters;

fn main() {
    assert_eq!(Letters::ROUTES[0].pattern, Letters::ROUTES[0].key);
}
