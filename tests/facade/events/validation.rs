//! Rules that a value keeps, on both sides.

use garde::Validate;
use serde::{Deserialize, Serialize};
use switchboard::{ErrorKind, Event, Publish};

use super::{arrived, delivery, refused, round_trip, unreadable};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate, Event)]
#[event(exchange = "order", key = "order.{region}.submit", validate)]
struct Order {
    #[garde(length(min = 2))]
    region: String,
    #[garde(dive)]
    lines: Vec<OrderLine>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
struct OrderLine {
    #[garde(range(min = 1))]
    quantity: u32,
}

fn order(region: &str, quantity: u32) -> Order {
    Order {
        region: region.to_owned(),
        lines: vec![OrderLine { quantity: 1 }, OrderLine { quantity }],
    }
}

#[test]
fn a_value_that_keeps_its_rules_round_trips() {
    assert_eq!(round_trip(&order("eu", 2)), order("eu", 2));
}

#[test]
fn a_value_that_breaks_its_rules_is_not_published() {
    let error = refused(order("eu", 0));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`lines[1].quantity`"), "{error}");
}

#[test]
fn all_fields_that_break_a_rule_are_named() {
    let text = refused(order("x", 0)).to_string();
    assert!(
        text.contains("`region`") && text.contains("`lines[1].quantity`"),
        "{text}"
    );
}

#[test]
fn rules_go_before_the_key() {
    // An empty region could not be a word of the key either.
    assert_eq!(refused(order("", 1)).kind(), ErrorKind::Invalid);
}

#[test]
fn a_payload_that_breaks_the_rules_is_invalid_and_names_the_field() {
    let payload = r#"{"region":"eu","lines":[{"quantity":0}]}"#;
    let error = unreadable::<Order>(&delivery("order", "order.eu.submit", payload));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`lines[0].quantity`"), "{error}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderV1 {
    quantity: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Validate, Event)]
#[event(
    exchange = "order",
    key = "order.v2.submit",
    validate,
    upcasts(OrderV1)
)]
struct OrderV2 {
    #[garde(range(min = 1))]
    quantity: u32,
}

impl From<OrderV1> for OrderV2 {
    fn from(OrderV1 { quantity }: OrderV1) -> Self {
        Self { quantity }
    }
}

#[test]
fn a_value_made_from_an_older_one_keeps_the_rules_of_the_newer() {
    let older = |quantity| arrived(OrderV1 { quantity }.outgoing().unwrap());
    assert_eq!(OrderV2::decode(&older(1)).unwrap(), OrderV2 { quantity: 1 });
    assert_eq!(unreadable::<OrderV2>(&older(0)).kind(), ErrorKind::Invalid);
}

#[derive(Clone, Debug, PartialEq, Event)]
#[event(exchange = "order", validate)]
enum Strict {
    #[event(key = "order.v1.line")]
    Line(OrderLine),
    #[event(other)]
    Other(switchboard::RawEvent),
}

#[derive(Clone, Debug, PartialEq, Event)]
#[event(exchange = "order")]
enum Partly {
    #[event(key = "order.v1.line", validate)]
    Line(OrderLine),
    #[event(key = "order.v1.gift")]
    Gift(OrderLine),
}

#[test]
fn an_enum_validates_the_values_of_all_variants_or_of_some() {
    let nothing = OrderLine { quantity: 0 };
    assert_eq!(
        refused(Strict::Line(nothing.clone())).kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(Partly::Line(nothing.clone())).kind(),
        ErrorKind::Invalid
    );
    assert!(Partly::Gift(nothing).outgoing().is_ok());
    let arrived = delivery("order", "order.v1.line", r#"{"quantity":0}"#);
    assert_eq!(unreadable::<Strict>(&arrived).kind(), ErrorKind::Invalid);
    assert_eq!(unreadable::<Partly>(&arrived).kind(), ErrorKind::Invalid);
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Validate, Event)]
#[event(exchange = "order", validate)]
#[event(name = "submit", key = "order.v3.submit")]
#[event(name = "refuse", key = "order.v3.refuse")]
struct Generic<T: Validate<Context = ()>> {
    #[garde(dive)]
    line: T,
}

#[test]
fn each_of_several_events_keeps_the_rules() {
    let generic = |quantity| Generic {
        line: OrderLine { quantity },
    };
    assert!(Generic::SUBMIT.of(&generic(1)).is_ok());
    assert_eq!(
        refused(Generic::REFUSE.of(&generic(0))).kind(),
        ErrorKind::Invalid
    );
}
