use serde::{Deserialize, Serialize};
use switchboard::*;

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
pub struct OrderSubmitted {
    #[event(partition_key)]
    pub id: u64,
    pub lines: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.{id}.refuse")]
pub struct Order<T> {
    id: u64,
    extra: T,
}

#[derive(Clone, Debug, Event)]
#[event(exchange = "order")]
pub enum OrderEvent<T> {
    #[event(key = "order.{id}.a")]
    Submitted(OrderSubmitted),
    #[event(key = "order.v1.b", partition_key = "id")]
    Generic(Order<T>),
    #[event(other)]
    Other { raw: RawEvent },
}
