//! The shop as people run it: processes, with rows on standard output and everything else on standard error.

#[cfg(all(unix, any(feature = "amqp", feature = "redis", feature = "kafka")))]
mod brokers;
#[path = "../examples/orders.rs"]
#[allow(dead_code)]
mod generate;
mod process;

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use process::Program;
use serde::Deserialize;
use shop::Order;

const ORDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/orders.jsonl");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    service: String,
    event: String,
    id: String,
    order: Option<u64>,
    attempt: u32,
    outcome: String,
    ms: f64,
}

fn rows(text: &str) -> Vec<Row> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

fn outcomes(rows: &[Row]) -> Vec<(&str, Option<u64>, &str)> {
    let mut outcomes: Vec<_> = rows
        .iter()
        .map(|row| (&*row.service, row.order, &*row.outcome))
        .collect();
    outcomes.sort_unstable();
    outcomes
}

#[test]
fn a18_one_order_gives_two_rows() {
    let ended = Program::SHOP.run(&[], "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut rows: Vec<_> = ended.stdout.lines().collect();
    rows.sort_unstable();
    let [billing, logistic] = rows[..] else {
        panic!("{rows:?}")
    };
    assert!(billing.starts_with("billing ") && logistic.starts_with("logistic "));
    assert!(rows.iter().all(|row| row.contains("order 1 ")));
    assert!(ended.stderr.contains("1 published"), "{}", ended.stderr);
}

#[test]
fn a13_a_row_has_the_event_the_id_and_the_duration() {
    let ended = Program::SHOP.run(&["--format", "json"], "");
    let rows = rows(&ended.stdout);
    assert_eq!(
        outcomes(&rows),
        [("billing", Some(1), "ack"), ("logistic", Some(1), "ack")]
    );
    for row in &rows {
        assert_eq!((&*row.event, row.attempt), ("order.v1.submit", 1));
        assert!(row.ms >= 0.0 && row.ms < 1_000.0, "{}", row.ms);
    }
    assert_eq!(rows[0].id, rows[1].id);
    assert_eq!(rows[0].id.len(), 36);
    let fields: Vec<_> = ended.stdout.lines().next().map_or(Vec::new(), |line| {
        line.split('"')
            .filter(|word| line.contains(&format!("\"{word}\":")))
            .collect()
    });
    assert_eq!(
        fields,
        [
            "service", "event", "id", "order", "attempt", "outcome", "ms"
        ]
    );
}

#[test]
fn a06_each_service_handles_every_order_once() {
    let ended = Program::SHOP.run(&["--format", "json", "--orders", ORDERS], "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut seen: HashMap<(String, u64), u32> = HashMap::new();
    for row in rows(&ended.stdout) {
        *seen.entry((row.service, row.order.unwrap())).or_default() += 1;
    }
    for line in fs::read_to_string(ORDERS).unwrap().lines() {
        let order: Order = serde_json::from_str(line).unwrap();
        for service in ["billing", "logistic"] {
            assert_eq!(seen.remove(&(service.to_owned(), order.id)), Some(1));
        }
    }
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn the_orders_are_those_that_the_example_prints() {
    let mut printed = Vec::new();
    generate::print(1_000, &mut printed).unwrap();
    let text = fs::read_to_string(ORDERS).unwrap();
    assert!(text.as_bytes() == printed);
    let orders: Vec<Order> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers: HashSet<_> = orders.iter().map(|order| order.id).collect();
    assert_eq!((orders.len(), numbers.len()), (1_000, 1_000));
}

#[test]
fn s12_a_bad_line_is_reported_and_the_others_go_on() {
    let lines = [
        r#"{"id": 1, "lines": [{"id": 1, "quantity": 2, "price": 3}], "tenant": "eu"}"#,
        "",
        "{nonsense",
        r#"{"id": 2, "lines": [{"id": 1, "quantity": 0, "price": 3}]}"#,
        r#"{"id": 3}"#,
        r#"{"id": 4, "lines": [{"id": 1, "quantity": 1, "price": 3}]}"#,
    ];
    let ended = Program::SHOP.run(&["--format", "json", "--orders", "-"], &lines.join("\n"));
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        outcomes(&rows(&ended.stdout)),
        [
            ("billing", Some(1), "ack"),
            ("billing", Some(4), "ack"),
            ("logistic", Some(1), "ack"),
            ("logistic", Some(4), "ack"),
        ]
    );
    for said in [
        "line 3: key must be a string at column 2",
        "line 4: order 2 is not valid: `lines[0].quantity`: lower than 1",
        "line 5: missing field `lines` at column 9",
        "2 published, 3 refused",
    ] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("line 1") && !ended.stderr.contains("line 6"));
}

#[test]
fn a_dead_letter_ends_the_order_and_shows_in_the_exit_code() {
    let lines = r#"{"id": 7, "lines": [{"id": 1, "quantity": 4, "price": 1e308}]}"#;
    let ended = Program::SHOP.run(&["--format", "json", "--orders", "-"], lines);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        outcomes(&rows(&ended.stdout)),
        [("billing", Some(7), "reject"), ("logistic", Some(7), "ack")]
    );
    assert!(
        ended.stderr.contains("order 7 costs more"),
        "{}",
        ended.stderr
    );
}

#[test]
fn without_an_order_there_is_nothing_to_wait_for() {
    let ended = Program::SHOP.run(&["--orders", "-"], "\n\n");
    assert_eq!((ended.code, &*ended.stdout), (Some(0), ""));
    let ended = Program::SHOP.run(&["--orders", "-"], "nonsense");
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    for (program, path) in [
        (Program::SHOP, "/nowhere/orders.jsonl"),
        (Program::ORDER, env!("CARGO_MANIFEST_DIR")),
    ] {
        let ended = program.run(&["--orders", path], "");
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(path), "{}", ended.stderr);
    }
}

#[test]
fn s01_s02_an_order_that_nobody_takes_is_an_error() {
    let ended = Program::ORDER.run(&[], "");
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
    assert!(
        ended.stderr.contains("order 1 was not published"),
        "{}",
        ended.stderr
    );

    let ended = Program::ORDER.run(&["--orders", ORDERS], "");
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.stderr.matches("was not published").count(), 1_000);
    assert!(
        ended
            .stderr
            .contains("line 1: order 100005 was not published")
    );
}

#[test]
fn a_url_that_leads_nowhere_says_why() {
    for program in [
        Program::ORDER,
        Program::BILLING,
        Program::LOGISTIC,
        Program::SHOP,
    ] {
        let ended = program.run(&["--url", "pigeon://clerk:secret@loft"], "");
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.stderr.contains("`pigeon` is not a known scheme"),
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("secret"));
    }
    let ended = Program::BILLING
        .with("SWITCHBOARD_URL", "pigeon://loft")
        .run(&[], "");
    assert!(
        ended.stderr.contains("`pigeon` is not a known scheme"),
        "{}",
        ended.stderr
    );
}

#[test]
fn rows_that_nobody_reads_end_the_shop_quietly() {
    let mut shop = Program::SHOP
        .with("RUST_LOG", "off")
        .start(&["--orders", ORDERS]);
    shop.read_row();
    shop.close_stdout();
    let ended = shop.finish();
    assert_eq!((ended.code, &*ended.stderr), (Some(141), ""));
}

#[cfg(unix)]
#[test]
fn services_end_cleanly_when_they_are_told_to() {
    for (program, signal) in [(Program::BILLING, "TERM"), (Program::LOGISTIC, "INT")] {
        let mut service = program.with("RUST_LOG", "info").start(&[]);
        service.wait_for_log("handling deliveries");
        service.signal(signal);
        let ended = service.finish();
        assert_eq!(
            (ended.code, &*ended.stdout),
            (Some(0), ""),
            "{}",
            ended.stderr
        );
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_shop_ends_cleanly() {
    let order = r#"{"id": 1, "lines": [{"id": 1, "quantity": 2, "price": 3}]}"#;
    let mut shop = Program::SHOP.start(&["--orders", "-"]);
    shop.write(&format!("{order}\n"));
    // The order does not wait for the end of the input.
    shop.read_row();
    shop.read_row();
    shop.signal("INT");
    let ended = shop.finish();
    assert_eq!(ended.code, Some(130));
    assert!(ended.stderr.contains("1 published"), "{}", ended.stderr);
}
