//! The shop as separate processes on a real broker, one of which is killed, and the broker too.

// Part of tests, but clippy sees that only of functions that are tests themselves.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    thread,
};

use event_conformance::Broker;

use crate::{
    Row, generate,
    process::{Program, Rows, Running},
    rows,
};

const ORDERS: u64 = 10_000;

/// The most that a process holds of a queue.
const PREFETCH: usize = 256;
/// The most publishes that are on their way.
const WINDOW: usize = 1_000;

fn start(program: Program, url: &str, into: &Rows) -> Running {
    let arguments = ["--url", url, "--format", "json"];
    let mut service = program.with("RUST_LOG", "info").start(&arguments);
    service.wait_for_log("handling deliveries");
    service.follow(into);
    service
}

/// The orders in rows, some of which may be halves.
fn orders(rows: &[String]) -> HashSet<u64> {
    rows.iter()
        .filter_map(|row| serde_json::from_str::<Row>(row).ok()?.order)
        .collect()
}

#[cfg(feature = "amqp")]
#[tokio::test]
async fn a07_every_order_is_billed_and_shipped_though_a_service_and_rabbitmq_are_killed() {
    every_order_is_billed_and_shipped_though_a_service_and_the_broker_are_killed("rabbitmq").await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a07_every_order_is_billed_and_shipped_though_a_service_and_redis_are_killed() {
    every_order_is_billed_and_shipped_though_a_service_and_the_broker_are_killed("redis").await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn a07_every_order_is_billed_and_shipped_though_a_service_and_kafka_are_killed() {
    every_order_is_billed_and_shipped_though_a_service_and_the_broker_are_killed("kafka").await;
}

async fn every_order_is_billed_and_shipped_though_a_service_and_the_broker_are_killed(
    name: &'static str,
) {
    let broker = Broker::start(name).await.unwrap();
    let (billed, shipped) = (Rows::default(), Rows::default());
    let first = start(Program::BILLING, broker.url(), &billed);
    let second = start(Program::BILLING, broker.url(), &billed);
    let logistic = start(Program::LOGISTIC, broker.url(), &shipped);

    let mut printed = Vec::new();
    generate::print(ORDERS, &mut printed).unwrap();
    let expected: HashSet<u64> = String::from_utf8(printed.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<shop::Order>(line).unwrap().id)
        .collect();
    assert_eq!(expected.len() as u64, ORDERS);
    let half = printed.len() / 2;

    let mut order = Program::ORDER.start(&["--url", broker.url(), "--orders", "-"]);
    let mut input = order.input();
    let second_half = printed.split_off(half);
    let feeding = thread::spawn(move || {
        input.write_all(&printed).unwrap();
        input
    });
    let seen = |count: usize| move |rows: &[String]| (rows.len() >= count).then_some(());
    billed.wait("some bills", seen(500));
    first.signal("KILL");
    shipped.wait("more parcels", seen(1_500));
    let mut input = feeding.join().unwrap();
    // What is published now has nowhere to go for a while.
    let feeding = thread::spawn(move || input.write_all(&second_half).unwrap());
    broker.kill().await.unwrap();
    broker.restart().await.unwrap();
    feeding.join().unwrap();

    let ended = order.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for (what, rows) in [("bills", &billed), ("parcels", &shipped)] {
        rows.wait(what, |rows| {
            // Looked at closely only when there are enough of them.
            let enough = rows.len() as u64 >= ORDERS;
            (enough && orders(rows).is_superset(&expected)).then_some(())
        });
    }
    assert_eq!(first.finish().code, None);
    for service in [second, logistic] {
        service.signal("TERM");
        let ended = service.finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    // One billing was killed; the broker, with what one more of each held, and with publishes on their way.
    for (rows_of, processes) in [(billed, 2), (shipped, 1)] {
        let mut count: HashMap<u64, usize> = HashMap::new();
        let whole: Vec<String> = rows_of.all();
        let whole = whole.iter().filter(|row| row.ends_with('}'));
        for row in rows(&whole.map(String::as_str).collect::<Vec<_>>().join("\n")) {
            assert_eq!(row.outcome, "ack");
            *count.entry(row.order.unwrap()).or_default() += 1;
        }
        let duplicates: usize = count.values().map(|count| count - 1).sum();
        assert!(duplicates <= processes * PREFETCH + WINDOW, "{duplicates}");
        println!("{duplicates} duplicates in {ORDERS} orders on {name}");
    }
}
