//! Logistic: what has to be packed for an order.

use switchboard::{Queue, Service};

use crate::order::Order;

/// The queue of the service.
pub const QUEUE: &str = "logistic_order";

/// The service, to be run on a bus.
pub fn service() -> Service {
    // Any version of the event goes in; one that no handler here knows waits for a service that does.
    let orders = Queue::new(QUEUE).bind("order", "order.*.submit");
    Service::new("logistic").queue(orders.on(Order::SUBMIT, pack))
}

async fn pack(order: Order) {
    tracing::debug!(order = order.id, parts = order.parts(), "packed");
}
