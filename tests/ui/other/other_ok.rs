//! Under whatever name it is known.

use switchboard::{Event, RawEvent};

type Unknown = RawEvent;

#[derive(Event)]
#[event(exchange = "order", validate, codec = MessagePack)]
enum OrderEvent {
    #[event(other)]
    Other(Unknown),
}

#[derive(Event)]
#[event(exchange = "order")]
enum BillingEvent {
    #[event(other)]
    Other(switchboard::RawEvent),
}

fn main() {
    assert_eq!(OrderEvent::ROUTES[0].pattern, BillingEvent::ROUTES[0].pattern);
}
