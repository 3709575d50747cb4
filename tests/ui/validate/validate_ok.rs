//! Rules by `garde`: on a struct, on all variants, on one variant.

use garde::Validate;
use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Validate, Event)]
#[event(exchange = "order", key = "order.v1.submit", validate)]
struct Order<T: Validate<Context = ()>> {
    #[garde(range(min = 1))]
    quantity: u32,
    #[garde(dive)]
    extra: T,
}

#[derive(Serialize, Deserialize, Validate)]
struct Refused {
    #[garde(length(min = 1))]
    reason: String,
}

#[derive(Event)]
#[event(exchange = "order", validate)]
enum Strict {
    #[event(key = "order.v1.refuse")]
    Refused(Refused),
}

#[derive(Event)]
#[event(exchange = "order")]
enum Mixed {
    #[event(key = "order.v1.refuse", validate)]
    Refused(Refused),
    #[event(key = "order.v1.count")]
    Count(u64),
}

fn main() {
    assert_eq!(Strict::ROUTES[0].key, Mixed::ROUTES[0].key);
    let _ = |_: Order<Refused>| ();
}
