//! 1. Routing.

use std::collections::{BTreeMap, BTreeSet};

use event_core::{Binding, Pattern};
use futures_util::future::try_join_all;

use crate::{
    CaseResult, Context, Failure,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, OrderSubmitted, order, raw},
};

cases!(Routing:
    routing_follows_the_vectors,
    a_star_stands_for_one_word,
    a_star_takes_an_empty_word,
    a_hash_stands_for_any_number_of_words,
    wildcards_are_whole_words,
    keys_are_compared_as_bytes,
    an_empty_key_has_no_words,
    a_key_of_255_bytes_is_routed,
    a_queue_gets_one_copy_however_many_bindings_match,
    a_queue_gets_nothing_from_exchanges_it_is_not_bound_to,
    a_queue_may_bind_several_exchanges,
    the_binding_is_independent_of_the_events_own_key,
);

/// Known answers: pattern, key, whether it matches.
const VECTORS: &str = include_str!("../../data/topic.tsv");

async fn routing_follows_the_vectors(cx: Context) -> CaseResult {
    let mut answers: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split('\t').collect();
        let [pattern, key, matches, _] = columns[..] else {
            return Err(Failure::new(format!("not four columns: {line}")));
        };
        let (pattern, key) = (serde_json::from_str(pattern)?, serde_json::from_str(key)?);
        answers
            .entry(pattern)
            .or_default()
            .push((key, matches == "1"));
    }
    let mut specs = Vec::new();
    for (at, pattern) in answers.keys().enumerate() {
        specs.push(cx.spec(&format!("pattern_{at}"), &[pattern])?);
    }
    cx.declare(&specs.iter().collect::<Vec<_>>()).await?;
    let keys: BTreeSet<&String> = answers.values().flatten().map(|(key, _)| key).collect();
    let mut batch = Vec::new();
    for key in &keys {
        batch.push(cx.message(key, "{}")?);
    }
    cx.send(batch).await?;
    let consume = specs.iter().map(|spec| {
        let cx = cx.clone();
        async move {
            let mut consumer = cx.consume(cx.bus(), spec).await?;
            let rest = consumer.rest().await?;
            let keys = rest
                .iter()
                .map(|delivery| delivery.message().key().to_string());
            let mut keys: Vec<String> = keys.collect();
            keys.sort_unstable();
            CaseResult::Ok(keys)
        }
    });
    let received = try_join_all(consume).await?;
    for ((text, answers), received) in answers.iter().zip(received) {
        for (key, matches) in answers {
            ensure_eq!(received.contains(key), *matches, "`{text}` takes `{key}`");
        }
        // What the table does not say is said by the matcher, which is checked against it elsewhere.
        let pattern = Pattern::new(text.as_str())?;
        let expected: Vec<_> = keys.iter().filter(|key| pattern.matches(key)).collect();
        ensure!(
            received.iter().eq(expected.iter().copied().copied()),
            "`{text}` let in {received:?}, expected {expected:?}"
        );
    }
    Ok(())
}

/// Publishes the keys and makes sure that a queue bound with the pattern gets just the wanted ones.
async fn lets_in(cx: &Context, pattern: &str, keys: &[&str], wanted: &[&str]) -> CaseResult {
    let spec = cx.spec("billing_order", &[pattern])?;
    cx.declare(&[&spec]).await?;
    let mut batch = Vec::new();
    for key in keys {
        batch.push(cx.message(key, "{}")?);
    }
    cx.send(batch).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let rest = consumer.rest().await?;
    let mut received: Vec<_> = rest
        .iter()
        .map(|delivery| delivery.message().key().as_str())
        .collect();
    received.sort_unstable();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    ensure_eq!(received, wanted, "what `{pattern}` let in");
    Ok(())
}

async fn a_star_stands_for_one_word(cx: Context) -> CaseResult {
    let keys = [
        "order.submit",
        "order.v1.submit",
        "order.v2.submit",
        "order.v1.eu.submit",
        "eu.order.v1.submit",
    ];
    lets_in(
        &cx,
        "order.*.submit",
        &keys,
        &["order.v1.submit", "order.v2.submit"],
    )
    .await
}

async fn a_star_takes_an_empty_word(cx: Context) -> CaseResult {
    let keys = ["order..submit", "order.submit"];
    lets_in(&cx, "order.*.submit", &keys, &["order..submit"]).await
}

async fn a_hash_stands_for_any_number_of_words(cx: Context) -> CaseResult {
    let keys = [
        "order",
        "order.v1",
        "order.v1.eu.submit",
        "orders.v1",
        "eu.order",
    ];
    lets_in(&cx, "order.#", &keys, &keys[..3]).await
}

async fn wildcards_are_whole_words(cx: Context) -> CaseResult {
    lets_in(&cx, "order.v*", &["order.v1", "order.v*"], &["order.v*"]).await
}

async fn keys_are_compared_as_bytes(cx: Context) -> CaseResult {
    let keys = [
        "order.v1.submit",
        "Order.v1.submit",
        "order.v1.submit ",
        "order.v1.submit\n",
    ];
    lets_in(&cx, "order.v1.submit", &keys, &keys[..1]).await
}

async fn an_empty_key_has_no_words(cx: Context) -> CaseResult {
    let (all, empty, one) = (
        cx.spec("all", &["#"])?,
        cx.spec("empty", &[""])?,
        cx.spec("one_word", &["*"])?,
    );
    cx.declare(&[&all, &empty, &one]).await?;
    cx.send(vec![cx.message("", "{}")?]).await?;
    for spec in [all, empty] {
        let mut consumer = cx.consume(cx.bus(), &spec).await?;
        ensure_eq!(consumer.next().await?.message().key().as_str(), "", "key");
    }
    cx.consume(cx.bus(), &one).await?.gets_nothing().await
}

async fn a_key_of_255_bytes_is_routed(cx: Context) -> CaseResult {
    let key = format!("order.{}.submit", "v".repeat(255 - "order..submit".len()));
    lets_in(&cx, "order.*.submit", &[&key], &[&key]).await
}

async fn a_queue_gets_one_copy_however_many_bindings_match(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.#", "order.*.submit", "#"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    ensure_eq!(consumer.rest().await?.len(), 1, "deliveries");
    Ok(())
}

async fn a_queue_gets_nothing_from_exchanges_it_is_not_bound_to(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let elsewhere = raw("archive", "order.v1.submit", "{}")?;
    cx.bus().publish(&elsewhere).await?;
    order(7).publish(cx.bus()).await?;
    let rest = consumer.rest().await?;
    let exchanges: Vec<_> = rest
        .iter()
        .map(|delivery| delivery.message().exchange().as_str())
        .collect();
    ensure_eq!(exchanges, ["order"], "exchanges of what came");
    Ok(())
}

async fn a_queue_may_bind_several_exchanges(cx: Context) -> CaseResult {
    let mut spec = cx.spec("billing_order", &["order.*.submit"])?;
    spec.bindings
        .push(Binding::new("archive", "order.*.refuse")?);
    cx.declare(&[&spec]).await?;
    for (exchange, key) in [
        ("order", "order.v1.submit"),
        ("archive", "order.v1.refuse"),
        ("order", "order.v1.refuse"),
        ("archive", "order.v1.submit"),
    ] {
        cx.bus().publish(&raw(exchange, key, "{}")?).await?;
    }
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let rest = consumer.rest().await?;
    let mut came: Vec<_> = rest
        .iter()
        .map(|delivery| {
            let message = delivery.message();
            (message.exchange().as_str(), message.key().as_str())
        })
        .collect();
    came.sort_unstable();
    ensure_eq!(
        came,
        [("archive", "order.v1.refuse"), ("order", "order.v1.submit")],
        "what came"
    );
    Ok(())
}

/// A8 of the shop.
async fn the_binding_is_independent_of_the_events_own_key(cx: Context) -> CaseResult {
    let (bill, note) = (cx.desk(), cx.desk());
    let queue = cx
        .new_queue("billing_order")
        .bind("order", "order.#")
        .handle(bill.takes::<OrderSubmitted>())
        .named("bill")
        .handle(note.takes::<OrderNoted>())
        .named("note");
    let _running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    OrderNoted { id: 8 }.publish(cx.bus()).await?;
    bill.finishes(1).await?;
    note.finishes(1).await?;
    bill.sees_no_more_than(1).await?;
    note.sees_no_more_than(1).await?;
    ensure_eq!(
        (bill.numbers(), note.numbers()),
        (vec![7], vec![8]),
        "orders"
    );
    Ok(())
}
