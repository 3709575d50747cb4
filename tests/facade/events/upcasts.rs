//! Newer types that read what older ones published.

use serde::{Deserialize, Serialize};
use switchboard::{ErrorKind, Event, Publish};

use super::{arrived, delivery, unreadable};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v1.create")]
struct BatchV1<T> {
    sku: T,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v2.create", upcasts(BatchV1<T>))]
struct BatchV2<T> {
    sku: T,
    quantity: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v3.{sku}.create", upcasts(BatchV2<T>, Import))]
struct BatchV3<T: From<u64>> {
    sku: T,
    quantity: u32,
    source: String,
}

/// From before there were versions, on an exchange of its own.
#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "import", key = "batch")]
struct Import(u64);

impl<T> From<BatchV1<T>> for BatchV2<T> {
    fn from(BatchV1 { sku }: BatchV1<T>) -> Self {
        Self { sku, quantity: 1 }
    }
}

impl<T: From<u64>> From<BatchV2<T>> for BatchV3<T> {
    fn from(BatchV2 { sku, quantity }: BatchV2<T>) -> Self {
        Self {
            sku,
            quantity,
            source: "v2".to_owned(),
        }
    }
}

impl<T: From<u64>> From<Import> for BatchV3<T> {
    fn from(Import(sku): Import) -> Self {
        Self {
            sku: sku.into(),
            quantity: 0,
            source: "import".to_owned(),
        }
    }
}

type Batch = BatchV3<u64>;

fn batch(sku: u64, quantity: u32, source: &str) -> Batch {
    Batch {
        sku,
        quantity,
        source: source.to_owned(),
    }
}

#[test]
fn a_type_reads_its_own_key() {
    let sent = batch(7, 10, "now");
    let delivery = arrived(sent.outgoing().unwrap());
    assert_eq!(delivery.message().key(), "batch.v3.7.create");
    assert_eq!(Batch::decode(&delivery).unwrap(), sent);
}

#[test]
fn a_type_reads_the_one_before() {
    let older = BatchV2 {
        sku: 7_u64,
        quantity: 10,
    };
    let delivery = arrived(older.outgoing().unwrap());
    assert_eq!(Batch::decode(&delivery).unwrap(), batch(7, 10, "v2"));
}

#[test]
fn a_chain_is_followed_to_its_end() {
    let oldest = BatchV1 { sku: 7_u64 };
    let delivery = arrived(oldest.outgoing().unwrap());
    assert_eq!(Batch::decode(&delivery).unwrap(), batch(7, 1, "v2"));
}

#[test]
fn a_type_can_read_several_older_ones() {
    let delivery = arrived(Import(7).outgoing().unwrap());
    assert_eq!(Batch::decode(&delivery).unwrap(), batch(7, 0, "import"));
}

#[test]
fn a_type_publishes_and_lists_its_own_key_only() {
    let keys: Vec<_> = Batch::ROUTES.iter().map(|route| route.key).collect();
    assert_eq!(keys, ["batch.v3.{sku}.create"]);
}

#[test]
fn an_older_payload_under_a_newer_key_is_a_decode_error() {
    let error = unreadable::<Batch>(&delivery("batch", "batch.v3.7.create", r#"{"sku":7}"#));
    assert_eq!(error.kind(), ErrorKind::Decode);
}

#[test]
fn an_address_that_no_version_has_is_named_in_the_error() {
    for (exchange, key) in [
        ("batch", "batch.v4.create"),
        ("import", "batch.v1.create"),
        ("batch", "batch"),
    ] {
        let error = unreadable::<Batch>(&delivery(
            exchange,
            key,
            r#"{"sku":7,"quantity":1,"source":""}"#,
        ));
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(
            error
                .to_string()
                .contains(&format!("`{key}` on exchange `{exchange}`")),
            "{error}"
        );
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order", upcasts(OrderV1))]
#[event(name = "submit", key = "order.v2.submit")]
#[event(name = "refuse", key = "order.v2.refuse")]
struct Order {
    id: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
struct OrderV1(u64);

impl From<OrderV1> for Order {
    fn from(OrderV1(id): OrderV1) -> Self {
        Self { id }
    }
}

#[test]
fn a_type_with_several_events_reads_older_ones_with_several() {
    for delivery in [
        arrived(Order::REFUSE.of(&Order { id: 7 }).unwrap()),
        arrived(OrderV1::SUBMIT.of(&OrderV1(7)).unwrap()),
        arrived(OrderV1::REFUSE.of(&OrderV1(7)).unwrap()),
    ] {
        assert_eq!(Order::decode(&delivery).unwrap(), Order { id: 7 });
    }
}
