//! What is written and what is tried are the same.

use std::{collections::BTreeSet, fs, path::Path};

use event_conformance::{all_cases, capability_table, check, shop::SHOP};
use event_core::Transport;
use event_memory::MemoryBroker;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new("../..").join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in bullets such as "- `name`", each with the heading above it.
fn bullets<'t>(text: &'t str, lead: &str) -> Vec<(&'t str, &'t str)> {
    let mut heading = "";
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        }
        if let Some((name, _)) = line
            .strip_prefix(lead)
            .and_then(|rest| rest.split_once('`'))
        {
            found.push((heading, name));
        }
    }
    found
}

#[test]
fn each_fact_of_the_contract_is_a_case_and_each_case_a_fact() {
    let text = read("docs/semantics.md");
    let facts = bullets(&text, "- `");
    let cases = all_cases();
    let tried: Vec<_> = cases
        .iter()
        .map(|case| (case.point.title(), case.name))
        .collect();
    let missing: Vec<_> = facts.iter().filter(|fact| !tried.contains(fact)).collect();
    let unwritten: Vec<_> = tried.iter().filter(|case| !facts.contains(case)).collect();
    assert!(
        missing.is_empty(),
        "facts without a case under their heading: {missing:#?}"
    );
    assert!(
        unwritten.is_empty(),
        "cases that docs/semantics.md does not have under their heading: {unwritten:#?}"
    );
    let names: BTreeSet<_> = facts.iter().map(|(_, name)| name).collect();
    assert_eq!(names.len(), facts.len(), "a name occurs twice");
}

#[test]
fn each_bullet_of_the_transport_is_a_case() {
    let text = read("event-core/src/transport.rs");
    let bullets = bullets(&text, "/// - `");
    assert!(bullets.len() > 20, "{bullets:?}");
    let cases = all_cases();
    for (_, name) in bullets {
        assert!(
            cases.iter().any(|case| case.name == name),
            "`{name}` is no case"
        );
    }
}

#[test]
fn each_behaviour_of_the_shop_has_its_cases() {
    let cases = all_cases();
    for behaviour in SHOP {
        assert!(!behaviour.cases.is_empty(), "{}", behaviour.number);
        for name in behaviour.cases {
            assert!(
                cases.iter().any(|case| case.name == *name),
                "{}: `{name}` is no case",
                behaviour.number
            );
        }
    }
    let numbers: Vec<_> = SHOP.iter().map(|behaviour| behaviour.number).collect();
    let wanted = (1..=17).map(|number| format!("A{number}"));
    let failures = [1, 2, 3, 4, 5, 6, 7, 10, 12].map(|number| format!("S{number}"));
    assert!(wanted.chain(failures).eq(numbers), "a number is missing");
}

#[test]
fn the_table_of_capabilities_is_up_to_date() {
    let memory = MemoryBroker::new().connect();
    let table = capability_table(&[
        memory.capabilities(),
        &event_amqp::CAPABILITIES,
        &event_redis::CAPABILITIES,
        &event_kafka::CAPABILITIES,
    ]);
    assert_eq!(
        check(Path::new("../../docs/capabilities.md"), &table).err(),
        None
    );
}

#[test]
fn the_known_answers_are_those_of_the_matcher() {
    let ours = read("tests/conformance/data/topic.tsv");
    assert_eq!(ours, read("event-core/tests/data/topic.tsv"));
}
