//! One event on a type.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchboard::{ErrorKind, Event, IntoOutgoing, Publish};

use super::{address, arrived, delivery, message, round_trip, text, unreadable};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OrderLine {
    id: u64,
    quantity: u32,
    price: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Order {
    #[event(partition_key)]
    id: u64,
    lines: Vec<OrderLine>,
}

fn order() -> Order {
    let line = |id, quantity, price| OrderLine {
        id,
        quantity,
        price,
    };
    Order {
        id: 1,
        lines: vec![line(1, 2, 3.0), line(2, 1, 4.5)],
    }
}

#[test]
fn a_value_knows_its_exchange_and_key() {
    let expected = ("order".to_owned(), "order.v1.submit".to_owned());
    let order = order();
    assert_eq!(address(&order), expected);
    assert_eq!(address(order.outgoing()), expected);
    assert_eq!(address(order), expected);
}

#[test]
fn the_payload_is_bare_json() {
    let expected =
        r#"{"id":1,"lines":[{"id":1,"quantity":2,"price":3.0},{"id":2,"quantity":1,"price":4.5}]}"#;
    assert_eq!(text(order()), expected);
    assert_eq!(message(order()).content_type(), "application/json");
}

#[test]
fn the_partition_key_is_the_text_of_its_field() {
    assert_eq!(message(order()).partition_key(), Some("1"));
    assert_eq!(message(&Heartbeat).partition_key(), None);
}

#[test]
fn a_nested_value_round_trips() {
    assert_eq!(round_trip(&order()), order());
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v1.measure")]
struct Measured {
    smallest: i64,
    largest: u64,
    floats: [f64; 4],
    nested: Vec<Vec<Option<i32>>>,
    by_sku: BTreeMap<String, (u8, bool)>,
}

#[test]
fn integers_floats_and_nested_sequences_round_trip() {
    let measured = Measured {
        smallest: i64::MIN,
        largest: u64::MAX,
        floats: [0.1 + 0.2, f64::MIN_POSITIVE, -0.0, 1e300],
        nested: vec![vec![], vec![Some(-1), None], vec![Some(i32::MAX)]],
        by_sku: BTreeMap::from([("größe".to_owned(), (255, true))]),
    };
    assert_eq!(round_trip(&measured), measured);
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "heartbeat", name = "beat")]
struct Heartbeat;

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.v12.create.v3")]
struct BatchCreated(#[event(partition_key)] String, u32);

#[test]
fn unit_and_tuple_structs_are_events_too() {
    assert_eq!(round_trip(&Heartbeat), Heartbeat);
    let batch = BatchCreated("batch-1".to_owned(), 10);
    assert_eq!(round_trip(&batch), batch);
    assert_eq!(message(&batch).partition_key(), Some("batch-1"));
}

#[test]
fn an_unknown_field_is_ignored() {
    let payload = r#"{"id":7,"lines":[],"coupon":{"code":"SPRING"}}"#;
    let order = Order::decode(&delivery("order", "order.v1.submit", payload)).unwrap();
    assert_eq!(order.id, 7);
}

#[test]
fn a_payload_of_another_shape_is_a_decode_error() {
    for payload in ["", "{", "null", r#"{"id":7}"#, r#"{"id":-7,"lines":[]}"#] {
        let error = unreadable::<Order>(&delivery("order", "order.v1.submit", payload));
        assert_eq!(error.kind(), ErrorKind::Decode, "{payload}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn a_payload_that_says_it_is_something_else_is_a_decode_error() {
    let message = message(order()).with_content_type("application/cbor");
    let outgoing = switchboard::Outgoing::new(message).unwrap();
    let error = unreadable::<Order>(&arrived(outgoing));
    assert_eq!(error.kind(), ErrorKind::Decode);
}

#[test]
fn routes_are_data() {
    let [route] = Order::ROUTES else {
        panic!("one event, one route")
    };
    assert_eq!((route.exchange, route.key), ("order", "order.v1.submit"));
    assert_eq!(route.pattern, route.key);
    assert_eq!((route.name, route.type_name), ("Order", "Order"));
    assert_eq!(route.version, Some("v1"));
    assert_eq!(route.content_type, "application/json");
    assert_eq!(route.to_string(), "`order.v1.submit` on exchange `order`");
}

#[test]
fn a_name_can_be_given() {
    assert_eq!(Heartbeat::ROUTES[0].name, "beat");
}

#[test]
fn the_version_is_the_first_word_of_v_and_digits() {
    assert_eq!(BatchCreated::ROUTES[0].version, Some("v12"));
    assert_eq!(Heartbeat::ROUTES[0].version, None);
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.archive")]
struct Archived<T, const SHARD: usize> {
    order: T,
}

#[test]
fn a_generic_event_needs_of_its_parameters_what_it_uses() {
    let archived = Archived::<_, 3> { order: order() };
    assert_eq!(round_trip(&archived).order, order());
    assert_eq!(
        Archived::<Order, 3>::ROUTES[0].type_name,
        "Archived<T, SHARD>"
    );
}

#[test]
fn a_value_that_has_no_form_in_json_is_an_error_of_the_publish() {
    let by_pair = BTreeMap::from([((1, 2), 3)]);
    let archived = Archived::<_, 0> { order: by_pair };
    assert_eq!(
        archived.into_outgoing().unwrap_err().kind(),
        ErrorKind::Encode
    );
}

#[test]
fn messages_of_an_event_share_their_address() {
    let (one, other) = (message(order()), message(order()));
    assert!(std::ptr::eq(one.exchange(), other.exchange()));
}

#[cfg(feature = "testing")]
#[tokio::test]
async fn publishing_is_a_method_of_the_value() {
    let broker = switchboard::testing::TestBroker::new();
    let bus = broker.bus();
    order().publish(&bus).await.unwrap();
    order().publish(&bus).header("tenant", "eu").await.unwrap();
    assert_eq!(
        broker.published_events::<Order>().unwrap(),
        [order(), order()]
    );
}

/// A type of its own module: the methods are as visible as the type.
mod common {
    use serde::{Deserialize, Serialize};
    use switchboard::Event;

    #[derive(Serialize, Deserialize, Event)]
    #[event(exchange = "order", key = "order.v1.audit", crate = "switchboard")]
    pub(crate) struct Audited;
}

#[test]
fn a_type_is_published_from_other_modules() {
    let _: fn(&common::Audited, &'static switchboard::Bus) -> _ = common::Audited::publish;
    assert_eq!(address(common::Audited).1, "order.v1.audit");
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.core", crate = "event_core")]
struct OfTheCore;

#[test]
fn generated_code_can_name_another_crate() {
    assert_eq!(round_trip(&OfTheCore), OfTheCore);
}

macro_rules! event {
    ($name:ident, $key:expr, [$($option:tt)*], $field:ident: $of:ty) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
        #[event(exchange = "order", key = $key, $($option)*)]
        struct $name {
            #[event(partition_key)]
            $field: $of,
        }
    };
}

event!(Shipped, "order.{id}.ship", [codec = Json], id: u64);
event!(Delivered, "order.{id}.deliver", [upcasts(Shipped)], id: u64);

impl From<Shipped> for Delivered {
    fn from(Shipped { id }: Shipped) -> Self {
        Self { id }
    }
}

#[test]
fn an_event_can_be_declared_by_a_macro() {
    let shipped = Shipped { id: 7 };
    assert_eq!(message(&shipped).partition_key(), Some("7"));
    assert_eq!(address(&shipped).1, "order.7.ship");
    let arrived = arrived(shipped.outgoing().unwrap());
    assert_eq!(Delivered::decode(&arrived).unwrap(), Delivered { id: 7 });
}

#[cfg(feature = "garde")]
#[test]
fn an_option_can_come_from_a_macro() {
    macro_rules! validated {
        ($name:ident, $validate:ident) => {
            #[derive(Serialize, Deserialize, garde::Validate, Event)]
            #[event(exchange = "order", key = "order.v1.check", $validate)]
            struct $name(#[garde(range(min = 1))] u64);
        };
    }
    validated!(Checked, validate);
    assert_eq!(super::refused(Checked(0)).kind(), ErrorKind::Invalid);
}
