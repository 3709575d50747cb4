//! Enums: one event for each variant.

use serde::{Deserialize, Serialize};
use switchboard::{ErrorKind, Event, IntoOutgoing, Publish, RawEvent};

use super::{address, arrived, delivery, message, refused, round_trip, text, unreadable};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "somewhere", key = "else")]
struct Order {
    id: u64,
    region: String,
}

fn order() -> Order {
    Order {
        id: 1,
        region: "eu".to_owned(),
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Refused {
    reason: String,
}

/// Has no serde of its own.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(exchange = "order")]
enum OrderEvent {
    #[event(key = "order.{region}.submit", partition_key = "id")]
    Submitted(Order),
    #[event(key = "order.v1.submit", name = "submitted_by_hand")]
    SubmittedByHand { order: Order },
    #[event(
        key = "order.v1.refuse",
        content_type = "application/vnd.shop.refused+json"
    )]
    Refused(Refused),
    #[event(other)]
    Other(RawEvent),
}

#[test]
fn each_variant_is_published_under_its_key() {
    let key = |event: OrderEvent| address(event).1;
    assert_eq!(key(OrderEvent::Submitted(order())), "order.eu.submit");
    assert_eq!(
        key(OrderEvent::SubmittedByHand { order: order() }),
        "order.v1.submit"
    );
    assert_eq!(address(OrderEvent::Submitted(order())).0, "order");
}

#[test]
fn the_payload_is_the_value_of_the_variant() {
    assert_eq!(
        text(OrderEvent::Submitted(order())),
        r#"{"id":1,"region":"eu"}"#
    );
}

#[test]
fn the_key_says_which_variant_arrived() {
    let refused = OrderEvent::Refused(Refused {
        reason: "no stock".to_owned(),
    });
    let by_hand = OrderEvent::SubmittedByHand { order: order() };
    for event in [OrderEvent::Submitted(order()), by_hand, refused] {
        assert_eq!(round_trip(&event), event);
    }
}

#[test]
fn a_constant_key_goes_before_a_filled_in_one() {
    let payload = r#"{"id":1,"region":"eu"}"#;
    let read = |key| OrderEvent::decode(&delivery("order", key, payload)).unwrap();
    assert_eq!(
        read("order.v1.submit"),
        OrderEvent::SubmittedByHand { order: order() }
    );
    assert_eq!(read("order.v2.submit"), OrderEvent::Submitted(order()));
}

#[test]
fn a_partition_key_is_a_field_of_the_value() {
    assert_eq!(
        message(OrderEvent::Submitted(order())).partition_key(),
        Some("1")
    );
    assert_eq!(
        message(OrderEvent::SubmittedByHand { order: order() }).partition_key(),
        None
    );
}

#[test]
fn other_takes_what_the_enum_does_not_know() {
    let unknown = delivery("order", "order.v7.cancel.now", "whatever");
    let OrderEvent::Other(raw) = OrderEvent::decode(&unknown).unwrap() else {
        panic!("a variant took it")
    };
    assert_eq!(
        (&*raw.exchange, &*raw.key),
        ("order", "order.v7.cancel.now")
    );
    assert_eq!(&raw.payload[..], b"whatever");
}

#[test]
fn publishing_other_repeats_its_address() {
    let raw = RawEvent::new("elsewhere", "order.v7.cancel", "whatever").unwrap();
    let event = OrderEvent::Other(raw);
    assert_eq!(
        address(&event),
        ("elsewhere".to_owned(), "order.v7.cancel".to_owned())
    );
    assert_eq!(round_trip(&event), event);
}

#[test]
fn a_known_key_with_a_broken_payload_is_not_other() {
    let error = unreadable::<OrderEvent>(&delivery("order", "order.v1.refuse", "{}"));
    assert_eq!(error.kind(), ErrorKind::Decode);
}

#[test]
fn routes_are_those_of_the_variants() {
    let routes: Vec<_> = OrderEvent::ROUTES
        .iter()
        .map(|route| (route.name, route.pattern, route.type_name, route.version))
        .collect();
    let expected = [
        ("Submitted", "order.*.submit", "Order", None),
        ("submitted_by_hand", "order.v1.submit", "Order", Some("v1")),
        ("Refused", "order.v1.refuse", "Refused", Some("v1")),
        ("Other", "#", "RawEvent", None),
    ];
    assert_eq!(routes, expected);
    assert!(
        OrderEvent::ROUTES
            .iter()
            .all(|route| route.exchange == "order")
    );
}

#[test]
fn a_variant_can_have_a_content_type_of_its_own() {
    let refused = OrderEvent::Refused(Refused {
        reason: String::new(),
    });
    assert_eq!(
        message(&refused).content_type(),
        "application/vnd.shop.refused+json"
    );
    assert_eq!(
        OrderEvent::ROUTES[2].content_type,
        "application/vnd.shop.refused+json"
    );
    assert_eq!(round_trip(&refused), refused);
}

#[derive(Clone, Debug, PartialEq, Event)]
#[event(exchange = "count")]
enum Counted<T> {
    #[event(key = "count.one")]
    One(T),
    #[event(key = "count.many")]
    Many(Vec<T>),
    #[event(key = "count.{0}.of")]
    Of((u8, u64)),
}

#[test]
fn a_generic_enum_is_an_event_where_its_values_can_be_encoded() {
    for event in [
        Counted::One(1.5),
        Counted::Many(vec![0.5, 2.0]),
        Counted::Of((3, 4)),
    ] {
        assert_eq!(round_trip(&event), event);
    }
    assert_eq!(address(Counted::<u8>::Of((3, 4))).1, "count.3.of");
    assert_eq!(Counted::<u8>::ROUTES[1].type_name, "Vec<T>");
}

#[test]
fn a_key_that_an_enum_without_other_does_not_know_is_named_in_the_error() {
    let error = unreadable::<Counted<u8>>(&delivery("count", "count.none", "1"));
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("`count.none`"), "{error}");
}

#[test]
fn a_variant_refuses_a_value_that_is_no_word_of_its_key() {
    let mut order = order();
    order.region = "eu.west".to_owned();
    let error = refused(OrderEvent::Submitted(order.clone()));
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(
        OrderEvent::SubmittedByHand { order }
            .into_outgoing()
            .is_ok()
    );
}

#[test]
fn an_enum_reads_what_another_type_published() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(exchange = "order", key = "order.v1.refuse")]
    struct OrderRefused {
        reason: String,
        by: String,
    }
    let sent = OrderRefused {
        reason: "no stock".to_owned(),
        by: "logistic".to_owned(),
    };
    let read = OrderEvent::decode(&arrived(sent.outgoing().unwrap())).unwrap();
    let reason = "no stock".to_owned();
    assert_eq!(read, OrderEvent::Refused(Refused { reason }));
}

#[cfg(feature = "testing")]
#[tokio::test]
async fn publishing_is_a_method_of_the_enum() {
    let broker = switchboard::testing::TestBroker::new();
    let bus = broker.bus();
    let events = [
        OrderEvent::SubmittedByHand { order: order() },
        OrderEvent::Submitted(order()),
    ];
    for event in &events {
        event.publish(&bus).await.unwrap();
    }
    assert_eq!(broker.published_events::<OrderEvent>().unwrap(), events);
}
