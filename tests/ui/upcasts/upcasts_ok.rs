//! A chain, with generic types, and several older ones at once.

#![deny(warnings)]

use serde::{Deserialize, Serialize};
use switchboard::Event;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v1.create")]
struct BatchV1<T> {
    sku: T,
}

#[deprecated]
#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.import")]
struct Import;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v2.create", upcasts(BatchV1<T>))]
struct BatchV2<T> {
    sku: T,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v3.create", upcasts(BatchV2<T>, Import))]
pub struct BatchV3<T>
where
    T: Default,
{
    sku: T,
}

impl<T> From<BatchV1<T>> for BatchV2<T> {
    fn from(BatchV1 { sku }: BatchV1<T>) -> Self {
        Self { sku }
    }
}

impl<T: Default> From<BatchV2<T>> for BatchV3<T> {
    fn from(BatchV2 { sku }: BatchV2<T>) -> Self {
        Self { sku }
    }
}

#[allow(deprecated)]
impl<T: Default> From<Import> for BatchV3<T> {
    fn from(_: Import) -> Self {
        Self { sku: T::default() }
    }
}

fn main() {
    assert_eq!(BatchV3::<String>::ROUTES.len(), 1);
}
