//! What is gone before the next `await` may be of any type.

use std::{rc::Rc, sync::Arc};

use serde::{Deserialize, Serialize};
use switchboard::{Event, Queue, Service};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

async fn other() {}

async fn drops_it_before(order: OrderSubmitted) {
    {
        let _id = Rc::new(order.id);
    }
    other().await;
}

async fn holds_an_arc(order: OrderSubmitted) {
    let id = Arc::new(order.id);
    other().await;
    drop(id);
}

fn main() {
    let queue = Queue::new("billing_order")
        .bind("order", "order.*.submit")
        .handle(drops_it_before)
        .handle(holds_an_arc);
    let _: Service = Service::new("billing").queue(queue);
}
