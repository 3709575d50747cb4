//! The events that the cases publish: orders, as a shop has them.

use event_core::{FromHeader, RawEvent};
use event_derive::Event;
use serde::{Deserialize, Serialize};

/// An order was submitted. Orders of one customer are handled in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(
    crate = "event_core",
    exchange = "order",
    key = "order.v1.submit",
    name = "submit"
)]
pub struct OrderSubmitted {
    /// Its number.
    pub id: u64,
    /// Who ordered.
    #[event(partition_key)]
    pub customer: String,
    /// What was ordered.
    pub lines: Vec<OrderLine>,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderLine {
    /// The article.
    pub id: u64,
    /// How many.
    pub quantity: u32,
    /// The price of one.
    pub price: f64,
}

/// Somebody wrote something about an order. Notes have no order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = "event_core", exchange = "order", key = "order.v1.note")]
pub struct OrderNoted {
    /// The order's number.
    pub id: u64,
}

/// An order was billed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = "event_core", exchange = "billing", key = "billing.v1.bill")]
pub struct OrderBilled {
    /// The order's number.
    pub id: u64,
}

/// A header that says who the customer of a system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant(pub String);

impl FromHeader for Tenant {
    const NAME: &'static str = "tenant";

    fn from_header(text: &str) -> Result<Self, event_core::BoxError> {
        Ok(Self(text.to_owned()))
    }
}

/// An order of a customer of its own, so that it waits for no other.
pub fn order(id: u64) -> OrderSubmitted {
    order_of(&format!("customer-{id}"), id)
}

/// An order of this customer.
pub fn order_of(customer: &str, id: u64) -> OrderSubmitted {
    let lines = vec![
        OrderLine {
            id: 1,
            quantity: 2,
            price: 3.0,
        },
        OrderLine {
            id: 2,
            quantity: 1,
            price: 4.5,
        },
    ];
    OrderSubmitted {
        id,
        customer: customer.to_owned(),
        lines,
    }
}

/// Bytes for an address, as another program would send them.
///
/// # Errors
/// The address is not legal.
pub fn raw(
    exchange: &str,
    key: &str,
    payload: impl Into<event_core::Bytes>,
) -> event_core::Result<RawEvent> {
    RawEvent::new(exchange, key, payload)
}
