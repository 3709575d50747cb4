//! At most one field, whose values are text.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Several {
    #[event(partition_key)]
    id: u64,
    #[event(partition_key)]
    region: String,
    #[event(partition_key)]
    customer: u64,
}

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.refuse")]
struct SeveralInATuple(#[event(partition_key)] u64, #[event(partition_key)] u64);

fn main() {}
