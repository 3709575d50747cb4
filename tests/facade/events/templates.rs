//! Keys that fields fill in.

use serde::{Deserialize, Serialize};
use switchboard::{ErrorKind, Event};

use super::{address, refused, round_trip};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order", key = "order.{region}.{type}.v1.{id}")]
struct Order {
    id: u64,
    region: String,
    r#type: char,
}

fn order(region: &str) -> Order {
    Order {
        id: 17,
        region: region.to_owned(),
        r#type: 'x',
    }
}

#[test]
fn fields_fill_in_their_words() {
    assert_eq!(address(order("eu-west")).1, "order.eu-west.x.v1.17");
    assert_eq!(round_trip(&order("größe")), order("größe"));
}

#[test]
fn a_filled_in_word_is_a_star_for_a_binding() {
    let route = &Order::ROUTES[0];
    assert_eq!(route.key, "order.{region}.{type}.v1.{id}");
    assert_eq!(route.pattern, "order.*.*.v1.*");
    assert_eq!(route.version, Some("v1"));
    assert!(route.takes("order", &address(order("eu")).1));
}

#[test]
fn a_value_that_is_no_word_is_an_error_that_names_the_field() {
    for region in ["", "eu.west", "*", "eu#1", "."] {
        let error = refused(order(region));
        assert_eq!(error.kind(), ErrorKind::Encode, "{region}");
        let text = error.to_string();
        assert!(
            text.contains("`region`") && text.contains(&format!("`{region}`")),
            "{text}"
        );
    }
}

#[test]
fn a_key_that_becomes_too_long_is_an_error() {
    let fits = "x".repeat(255 - "order..x.v1.17".len());
    assert_eq!(address(order(&fits)).1.len(), 255);
    let error = refused(order(&format!("{fits}x")));
    assert_eq!(error.kind(), ErrorKind::InvalidName);
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "{1}.{0}")]
struct Batch(u8, String);

#[test]
fn a_tuple_is_filled_in_by_index() {
    assert_eq!(address(Batch(7, "lamp".to_owned())).1, "lamp.7");
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "batch", key = "batch.{sku}.create")]
struct Generic<T> {
    sku: T,
}

#[test]
fn a_generic_field_fills_in_too() {
    assert_eq!(address(Generic { sku: 7 }).1, "batch.7.create");
    assert_eq!(address(Generic { sku: true }).1, "batch.true.create");
}
