//! What a handler can return.

use serde::{Deserialize, Serialize};
use switchboard::{Event, Outcome, Queue, Service};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.bill")]
struct OrderBilled {
    id: u64,
}

async fn nothing(_order: OrderSubmitted) {}

async fn an_outcome(_order: OrderSubmitted) -> Outcome {
    Outcome::Ack
}

async fn an_event(order: OrderSubmitted) -> OrderBilled {
    OrderBilled { id: order.id }
}

async fn events(order: OrderSubmitted) -> Vec<OrderBilled> {
    vec![OrderBilled { id: order.id }]
}

async fn a_result(_order: OrderSubmitted) -> switchboard::Result {
    Ok(())
}

async fn an_error_of_its_own(order: OrderSubmitted) -> Result<OrderBilled, std::io::Error> {
    Ok(OrderBilled { id: order.id })
}

fn main() {
    let queue = Queue::new("billing_order")
        .bind("order", "order.*.submit")
        .handle(nothing)
        .handle(an_outcome)
        .handle(an_event)
        .handle(events)
        .handle(a_result)
        .handle(an_error_of_its_own);
    let _: Service = Service::new("billing").queue(queue);
}
