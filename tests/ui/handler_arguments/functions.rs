//! What is no async function of an event is no handler.

use switchboard::Queue;

async fn takes_nothing() {}

fn main() {
    let _: Queue = Queue::new("billing_order").handle(takes_nothing);
    let _: Queue = Queue::new("billing_order").handle("bill");
}
