//! Billing: what an order costs.

use switchboard::{HandlerError, Queue, Result, Service};

use crate::order::Order;

/// The queue of the service.
pub const QUEUE: &str = "billing_order";

/// The service, to be run on a bus.
pub fn service() -> Service {
    // Any version of the event goes in; one that no handler here knows waits for a service that does.
    let orders = Queue::new(QUEUE).bind("order", "order.*.submit");
    Service::new("billing").queue(orders.on(Order::SUBMIT, bill))
}

async fn bill(order: Order) -> Result {
    let total = order.total();
    if !total.is_finite() {
        // It will not be smaller next time: a dead letter for someone to look at.
        return Err(HandlerError::permanent(format!(
            "order {} costs more than can be billed",
            order.id
        )));
    }
    tracing::debug!(order = order.id, total, "billed");
    Ok(())
}
