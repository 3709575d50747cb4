//! One event, published and handled.
//!
//! `cargo run --example quickstart` needs no broker. With another one, only the URL differs: build with its
//! feature and set `SWITCHBOARD_URL`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use switchboard::{Event, Metadata, Queue, Result, Service, State};
use tokio::sync::Notify;

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    #[event(partition_key)] // events with one id are handled in order
    id: u64,
    lines: Vec<OrderLine>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OrderLine {
    id: u64,
    quantity: u32,
    price: f64,
}

/// Takes the event by value, then whatever else it needs. An error is tried again, then a dead letter.
async fn bill(order: OrderSubmitted, State(billed): State<Arc<Notify>>, meta: Metadata) -> Result {
    let total: f64 = order
        .lines
        .iter()
        .map(|line| f64::from(line.quantity) * line.price)
        .sum();
    println!(
        "order {} costs {total:.2} (message {}, attempt {})",
        order.id, meta.id, meta.attempt
    );
    billed.notify_one();
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = switchboard::connect_from_env().await?;
    let billed = Arc::new(Notify::new());

    // From here on the queue gets what is published.
    let billing = Service::new("billing")
        .with_state(billed.clone())
        .queue(
            Queue::new("billing_order")
                .bind("order", "order.*.submit")
                .handle(bill),
        )
        .start(&bus)
        .await?;

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
    let order = OrderSubmitted { id: 1, lines };
    // `Ok` means that the broker has it; `mandatory` asks that a queue has it, too.
    order.publish(&bus).mandatory().await?;

    billed.notified().await;
    // Finishes what is being handled.
    billing.shutdown().await?;
    bus.close().await?;
    Ok(())
}
