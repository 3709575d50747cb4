//! Records of other programs, which know nothing of the framework and its limits.

use std::time::Duration;

use event_conformance::{
    Act, CaseResult, Stage, done, ensure, ensure_eq,
    orders::{OrderSubmitted, order},
    publish,
};
use event_core::RetryPolicy;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::Producer as _,
};
use tokio::task::spawn_blocking;

use crate::stage::{Admin, on_kafka, on_kafka_with};

/// Stores an order as another program does.
async fn produce(at: &Stage, id: u64, key: &str, headers: OwnedHeaders) -> CaseResult {
    let payload = serde_json::to_vec(&order(id))?;
    let record = (Some(key.to_owned()), payload, Some(headers));
    Admin::of(at)?
        .produce(&at.name("order"), vec![record])
        .await
}

fn header<'h>(key: &'h str, value: &'h str) -> Header<'h, &'h str> {
    let value = Some(value);
    Header { key, value }
}

fn typed() -> OwnedHeaders {
    OwnedHeaders::new().insert(header("ce_type", "order.v1.submit"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_other_programs_have_the_default_key() -> CaseResult {
    let options = "partitions=3&default_key=order.v1.submit";
    on_kafka_with("others", options, async |at| {
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let records = (1..=20).map(|id| {
            let payload = serde_json::to_vec(&order(id))?;
            Ok((Some(format!("customer-{id}")), payload, None))
        });
        let records = records.collect::<CaseResult<Vec<_>>>()?;
        Admin::of(at)?.produce(&at.name("order"), records).await?;
        let seen = desk.finishes(20).await?;
        ensure_eq!(done(&seen), (1..=20).collect::<Vec<_>>(), "orders");
        for seen in &seen {
            let message = seen.delivery.message();
            ensure_eq!(message.key().as_str(), "order.v1.submit", "key");
            let customer = format!("customer-{}", seen.number());
            ensure_eq!(message.partition_key(), Some(&*customer), "partition key");
        }
        desk.sees_no_more_than(20).await?;
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_with_a_long_key_becomes_a_dead_letter() -> CaseResult {
    on_kafka("long_key", async |at| {
        let desk = at.direct.desk().doing(|seen| match seen.number() {
            1 | 2 => Act::fail("the bank is closed"),
            _ => Act::DONE,
        });
        let policy = RetryPolicy::fixed(Duration::from_millis(10)).attempts(3);
        let queue = at.direct.queue("billing_order", &desk).retry(policy);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        // In a copy it stands twice, and of the id a dead letter's key has a part.
        produce(at, 1, &"k".repeat(700_000), typed()).await?;
        let id = "i".repeat(700_000);
        produce(at, 2, "customer-2", typed().insert(header("ce_id", &id))).await?;
        let letters = at.direct.dead_letters("billing_order", 2).await?;
        for letter in &letters {
            ensure_eq!(letter.attempts(), 3, "attempts");
        }
        ensure_eq!(desk.seen().len(), 6, "runs");
        drop(_running);
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_with_many_headers_holds_nobody_up() -> CaseResult {
    on_kafka("many_headers", async |at| {
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let mut headers = typed();
        for number in 0..50_000 {
            let key = &format!("h{number}");
            let value = None::<&str>;
            headers = headers.insert(Header { key, value });
        }
        produce(at, 1, "customer-1", headers).await?;
        produce(at, 2, "customer-1", typed()).await?;
        let seen = desk.finishes(2).await?;
        let counts = seen
            .iter()
            .map(|seen| seen.delivery.message().headers().len());
        ensure!(counts.eq([50_000, 0]), "headers that were lost");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_say_of_a_delivery_is_not_believed() -> CaseResult {
    on_kafka("believed", async |at| {
        let desk = at.direct.desk().failing(1);
        let policy = RetryPolicy::fixed(Duration::from_millis(10)).attempts(2);
        let queue = at.direct.queue("billing_order", &desk).retry(policy);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let mut headers = typed();
        for (name, value) in [
            ("switchboard-exchange", "elsewhere"),
            ("switchboard-attempt", "4294967295"),
            ("switchboard-handlers", "nobody"),
            ("switchboard-unknown-waited-ms", "18446744073709551615"),
        ] {
            headers = headers.insert(header(name, value));
        }
        produce(at, 1, "customer-1", headers).await?;
        let seen = desk.finishes(2).await?;
        let attempts = seen.iter().map(|seen| seen.meta.attempt);
        ensure!(attempts.eq([1, 2]), "other attempts");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_is_too_long_for_a_key_is_none() -> CaseResult {
    let options = "partitions=1&default_key=order.v1.submit";
    on_kafka_with("long_type", options, async |at| {
        let spec = at.direct.spec("billing_order", &["#"])?;
        at.direct.declare(&[&spec]).await?;
        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        let long = "x".repeat(256);
        let headers = OwnedHeaders::new().insert(header("ce_type", &long));
        produce(at, 1, "customer-1", headers).await?;
        let delivery = consumer.next().await?;
        let message = delivery.message();
        ensure_eq!(message.key().as_str(), "order.v1.submit", "key");
        let read: OrderSubmitted = serde_json::from_slice(message.payload())?;
        ensure_eq!(read, order(1), "order");
        consumer.ack(&delivery).await?;
        Ok(())
    })
    .await
}

/// What another program publishes in a transaction, and what is published behind it.
async fn transaction(name: &str, options: &str, waits: bool) -> CaseResult {
    let options = format!("partitions=1&default_key=order.v1.submit&{options}");
    on_kafka_with(name, &options, async |at| {
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let topic = at.name("order");
        let payload = serde_json::to_vec(&order(1))?;
        let open = Admin::of(at)?.begin(&topic, payload).await?;
        publish(at.direct.bus(), 2..=2).await?;
        let at_once: &[u64] = if waits { &[] } else { &[1, 2] };
        desk.finishes(at_once.len()).await?;
        let seen = desk.sees_no_more_than(at_once.len()).await?;
        ensure_eq!(done(&seen), at_once, "orders");
        spawn_blocking(move || open.abort_transaction(Duration::from_secs(10))).await??;
        // Without waiting, what was aborted was handled already.
        let count = if waits { 1 } else { 2 };
        let seen = desk.finishes(count).await?;
        ensure!(done(&seen).contains(&2), "the order behind it");
        desk.sees_no_more_than(count).await?;
        drop(_running);
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_hides_what_comes_behind_it() -> CaseResult {
    transaction("transaction", "isolation.level=read_committed", true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_hides_nothing_from_who_reads_uncommitted() -> CaseResult {
    transaction("uncommitted", "isolation.level=read_uncommitted", false).await
}
