//! Several events on one type.

use serde::{Deserialize, Serialize};
use switchboard::{Event, Route};

use super::{address, arrived, delivery, message};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
#[event(name = "charge_back", key = "order.v2.{region}.chargeback")]
struct Order {
    #[event(partition_key)]
    id: u64,
    region: String,
}

fn order() -> Order {
    Order {
        id: 1,
        region: "eu".to_owned(),
    }
}

#[test]
fn each_event_has_its_own_key_and_the_exchange_of_all() {
    let keys: Vec<_> = Order::ROUTES.iter().map(|route| route.key).collect();
    let expected = [
        "order.v1.submit",
        "order.v1.refuse",
        "order.v2.{region}.chargeback",
    ];
    assert_eq!(keys, expected);
    assert!(Order::ROUTES.iter().all(|route| route.exchange == "order"));
}

#[test]
fn a_constant_is_the_route_of_its_event() {
    let info = Order::CHARGE_BACK.info();
    assert_eq!(info.name, "charge_back");
    assert_eq!(info.pattern, "order.v2.*.chargeback");
    assert_eq!(info.version, Some("v2"));
    assert_eq!(info.type_name, "Order");
    assert_eq!(Order::REFUSE.info(), &Order::ROUTES[1]);
}

#[test]
fn a_value_is_published_as_one_of_them() {
    assert_eq!(address(Order::SUBMIT.of(&order())).1, "order.v1.submit");
    assert_eq!(address(Order::REFUSE.of(&order())).1, "order.v1.refuse");
    let charged_back = message(Order::CHARGE_BACK.of(&order()));
    assert_eq!(charged_back.key(), "order.v2.eu.chargeback");
    assert_eq!(charged_back.partition_key(), Some("1"));
}

#[test]
fn all_of_them_are_read_as_the_one_type() {
    for route in [Order::SUBMIT, Order::REFUSE, Order::CHARGE_BACK] {
        let delivery = arrived(route.of(&order()).unwrap());
        assert_eq!(Order::decode(&delivery).unwrap(), order());
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
struct Generic<T> {
    extra: T,
}

#[test]
fn a_generic_type_has_its_routes_for_each_of_its_types() {
    let generic = Generic { extra: vec![1] };
    let delivery = arrived(Generic::REFUSE.of(&generic).unwrap());
    assert_eq!(Generic::<Vec<u8>>::decode(&delivery).unwrap(), generic);
    let _: Route<Generic<String>> = Generic::SUBMIT;
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[allow(
    clippy::duplicated_attributes,
    reason = "one key on two exchanges is no repetition"
)]
#[event(name = "submit", exchange = "order", key = "order.submit")]
#[event(name = "archive", exchange = "archive", key = "order.submit.{0}")]
#[event(name = "restore", exchange = "restore", key = "order.submit.{0}")]
struct OnExchanges(u64);

#[test]
fn each_event_can_have_an_exchange_of_its_own() {
    let address = |route: Route<OnExchanges>| address(route.of(&OnExchanges(7)));
    let expected = |exchange: &str, key: &str| (exchange.to_owned(), key.to_owned());
    assert_eq!(
        address(OnExchanges::SUBMIT),
        expected("order", "order.submit")
    );
    assert_eq!(
        address(OnExchanges::ARCHIVE),
        expected("archive", "order.submit.7")
    );
    assert_eq!(
        address(OnExchanges::RESTORE),
        expected("restore", "order.submit.7")
    );
    let archived = delivery("archive", "order.submit.7", "7");
    assert_eq!(OnExchanges::decode(&archived).unwrap(), OnExchanges(7));
}

#[test]
fn the_routes_say_what_the_type_takes() {
    let takes =
        |exchange: &str, key: &str| Order::ROUTES.iter().any(|route| route.takes(exchange, key));
    assert!(takes("order", "order.v1.refuse"));
    assert!(takes("order", "order.v2.us.chargeback"));
    assert!(!takes("orders", "order.v1.refuse"));
    assert!(!takes("order", "order.v2.chargeback"));
}

#[cfg(feature = "testing")]
#[tokio::test]
async fn each_event_is_a_method_of_the_value() {
    let broker = switchboard::testing::TestBroker::new();
    let bus = broker.bus();
    order().submit(&bus).await.unwrap();
    order().charge_back(&bus).await.unwrap();
    assert_eq!(
        broker.published_events::<Order>().unwrap(),
        [order(), order()]
    );
    let unroutable = order().refuse(&bus).mandatory().await.unwrap_err();
    assert_eq!(unroutable.kind(), switchboard::ErrorKind::Unroutable);
}
