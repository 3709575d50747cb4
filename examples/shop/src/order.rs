//! What a customer orders, and the events of an order.

use garde::Validate;
use serde::{Deserialize, Serialize};
use switchboard::Event;

/// An order of a customer.
///
/// ```
/// use shop::Order;
///
/// let order = Order::new(1, [(1, 2, 3.0), (2, 1, 4.5)]);
/// assert_eq!((order.parts(), order.total()), (3, 10.5));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate, Event)]
#[event(exchange = "order", validate)]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
#[event(name = "chargeback", key = "order.v1.chargeback")]
pub struct Order {
    /// The number of the order. Events with one number are handled in the order of their publishing.
    #[event(partition_key)]
    #[garde(range(min = 1))]
    pub id: u64,
    /// What is ordered.
    #[garde(length(min = 1), dive)]
    pub lines: Vec<OrderLine>,
}

/// One item of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
pub struct OrderLine {
    /// The number of the item.
    #[garde(range(min = 1))]
    pub id: u64,
    /// How many.
    #[garde(range(min = 1))]
    pub quantity: u32,
    /// The price of one.
    #[garde(custom(finite), range(min = 0.0))]
    pub price: f64,
}

impl Order {
    /// An order with these lines: `(id, quantity, price)`.
    pub fn new(id: u64, lines: impl IntoIterator<Item = impl Into<OrderLine>>) -> Self {
        Self {
            id,
            lines: lines.into_iter().map(Into::into).collect(),
        }
    }

    /// What it costs. Infinite when it is more than an `f64` holds.
    pub fn total(&self) -> f64 {
        self.lines.iter().map(OrderLine::total).sum()
    }

    /// How many parts are in the parcel.
    pub fn parts(&self) -> u64 {
        self.lines.iter().map(|line| u64::from(line.quantity)).sum()
    }
}

impl OrderLine {
    /// What the line costs.
    pub fn total(&self) -> f64 {
        f64::from(self.quantity) * self.price
    }
}

impl From<(u64, u32, f64)> for OrderLine {
    fn from((id, quantity, price): (u64, u32, f64)) -> Self {
        Self {
            id,
            quantity,
            price,
        }
    }
}

/// JSON has no way to write what is not finite, and a minimum lets "not a number" pass.
fn finite(price: &f64, _: &()) -> garde::Result {
    if price.is_finite() {
        Ok(())
    } else {
        Err(garde::Error::new("not a finite number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(order: Order) -> String {
        order.validate().unwrap_err().to_string()
    }

    #[test]
    fn an_order_has_a_number_and_lines() {
        assert!(Order::new(1, [(1, 2, 3.0), (2, 1, 0.0)]).validate().is_ok());
        assert!(complaint(Order::new(0, [(1, 2, 3.0)])).starts_with("id: "));
        assert!(complaint(Order::new(1, [] as [OrderLine; 0])).starts_with("lines: "));
    }

    #[test]
    fn a_line_has_a_quantity_and_a_price() {
        assert!(
            complaint(Order::new(1, [(1, 1, 3.0), (2, 0, 3.0)])).starts_with("lines[1].quantity: ")
        );
        for price in [-0.01, f64::NAN, f64::INFINITY] {
            assert!(complaint(Order::new(1, [(1, 1, price)])).starts_with("lines[0].price: "));
        }
    }
}
