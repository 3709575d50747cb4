//! What a queue has committed, and what it was to read, is gone.

use std::time::Duration;

use event_conformance::{CaseResult, Consumer, Stage, done, ensure, ensure_eq, publish};

use crate::{
    said,
    stage::{Admin, on_kafka_with},
};

/// One partition, so that offsets are those of the orders.
const OPTIONS: &str = "partitions=1&drain=3000";

/// The lines about lost records of a stage, each with what is said of `lost`.
fn lost(at: &Stage) -> Vec<String> {
    said::lines("they are lost", &at.name("billing_order"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_retention_removed_are_said_to_be_lost() -> CaseResult {
    said::listen();
    on_kafka_with("retention", OPTIONS, async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        publish(at.direct.bus(), 1..=20).await?;
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        admin.remove(&topic, 0, 7).await?;
        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let seen = desk.finishes(13).await?;
        ensure_eq!(done(&seen), (8..=20).collect::<Vec<_>>(), "orders");
        let said = lost(at);
        ensure_eq!(said.len(), 1, "lines: {said:?}");
        ensure!(said[0].contains("ERROR"), "it is no error: {}", said[0]);
        ensure!(said[0].contains("lost=7"), "no number: {}", said[0]);
        publish(at.direct.bus(), 21..=30).await?;
        desk.finishes(23).await?;
        desk.sees_no_more_than(23).await?;
        ensure_eq!(lost(at).len(), 1, "lines in the end");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_removed_under_a_full_consumer_are_said_to_be_lost() -> CaseResult {
    /// More than is read ahead.
    const ORDERS: u64 = 40_000;
    const HELD: usize = 10;
    said::listen();
    let options = format!("{OPTIONS}&queued.min.messages=1000&queued.max.messages.kbytes=100");
    on_kafka_with("retention_full", &options, async |at| {
        let desk = at.direct.desk().holding();
        let queue = at.direct.queue("billing_order", &desk).prefetch(HELD);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let ledger = publish(at.direct.bus(), 1..=ORDERS).await?;
        desk.sees(HELD).await?;
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        let removed = i64::try_from(ORDERS)? - 100;
        admin.remove(&topic, 0, removed).await?;
        desk.open();
        // The last hundred are there, and what was read before.
        let last = desk.until("those that are left", |seen| {
            let left = seen.iter().filter(|seen| seen.number() > ORDERS - 100);
            left.count() >= 100
        });
        let seen = last.await?;
        let missing = ledger.balance(&seen).lost;
        let said = lost(at);
        eprintln!("retention_full: {missing} are missing, said: {said:?}");
        ensure!(missing > 0, "nothing was removed");
        let numbers = said.iter().filter_map(|line| {
            let number = line.split("lost=").nth(1)?.split(' ').next()?;
            number.parse::<usize>().ok()
        });
        let told: usize = numbers.sum();
        // What it had in its hands then was removed as well.
        let might = missing..=missing + HELD;
        ensure!(
            might.contains(&told),
            "{told} were said to be lost, {missing} are"
        );
        let before = desk.seen().len();
        publish(at.direct.bus(), 100_001..=100_010).await?;
        desk.finishes(before + 10).await.map(drop)
    })
    .await
}

/// What a queue committed is gone, after its consumer ended like this. It comes back and handles so many again of the
/// ten orders that it did.
async fn without_commits(
    name: &str,
    end: impl AsyncFnOnce(&Stage, Consumer) -> CaseResult,
    again: usize,
) -> CaseResult {
    on_kafka_with(name, OPTIONS, async |at| {
        // What is before it was declared is not the queue's.
        publish(at.direct.bus(), 1..=5).await?;
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        publish(at.direct.bus(), 6..=15).await?;
        let process = at.direct.process().await?;
        let mut consumer = at.direct.consume(&process, &spec).await?;
        for delivery in consumer.take(10).await? {
            consumer.ack(&delivery).await?;
        }
        let (admin, group, topic) = (Admin::of(at)?, at.name("billing_order"), at.name("order"));
        let told = || async { Ok(admin.committed(&group, &topic).await?[0].0 == Some(15)) };
        at.direct.until("it to be committed", told).await?;
        end(at, consumer).await?;
        publish(at.direct.bus(), 17..=20).await?;
        // The broker takes a moment to see that nobody is in it.
        let deleted = || async { Ok(admin.delete_group(&group).await.is_ok()) };
        at.direct.until("its commits to be gone", deleted).await?;
        let committed = admin.committed(&group, &topic).await?;
        ensure_eq!(committed[0].0, None, "what is committed");

        let desk = at.direct.desk();
        let queue = at.direct.queue("billing_order", &desk);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let seen = desk.finishes(5 + again).await?;
        let first = 16 - u64::try_from(again)?;
        ensure_eq!(done(&seen), (first..=20).collect::<Vec<_>>(), "orders");
        desk.sees_no_more_than_for(5 + again, Duration::from_secs(1))
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_commits_are_gone_goes_on_from_what_it_noted_when_it_stopped() -> CaseResult {
    let stop = async |at: &Stage, mut consumer: Consumer| {
        ensure!(consumer.stop().await?.is_empty(), "it had more");
        publish(at.direct.bus(), 16..=16).await.map(drop)
    };
    without_commits("commits_noted", stop, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_commits_are_gone_and_that_noted_nothing_begins_where_it_was_declared()
-> CaseResult {
    let crash = async |at: &Stage, mut consumer: Consumer| {
        // With something in its hands it is not taken for one that stopped.
        publish(at.direct.bus(), 16..=16).await?;
        consumer.next().await?;
        consumer.crash().await;
        Ok(())
    };
    without_commits("commits_gone", crash, 10).await
}

/// The topic of a queue that is down is deleted and made again. So many orders were published before it was declared, and
/// so many are in the new topic when it is back; it read five.
async fn another_topic_meanwhile(name: &str, before: u64, after: u64) -> CaseResult {
    on_kafka_with(name, OPTIONS, async |at| {
        if before > 0 {
            let first = at.direct.spec("audit_order", &["order.*.submit"])?;
            at.direct.declare(&[&first]).await?;
            publish(at.direct.bus(), 1..=before).await?;
        }
        let desk = at.direct.desk();
        let queue = || at.direct.queue("billing_order", &desk);
        let process = at.direct.process().await?;
        let running = at.direct.start(&process, queue()).await?;
        publish(at.direct.bus(), 1_001..=1_005).await?;
        desk.finishes(5).await?;
        running.shutdown().await?;
        let (admin, topic) = (Admin::of(at)?, at.name("order"));
        admin.delete_topic_for_good(at, &topic).await?;
        let ledger = publish(at.direct.bus(), 2_001..=2_000 + after).await?;
        let stored = || async { Ok(admin.stored(&topic).await? >= i64::try_from(after)?) };
        at.direct.until("all of it to be stored", stored).await?;
        let process = at.direct.process().await?;
        let _running = at.direct.start(&process, queue()).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        desk.until("all of the new topic", all).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_down_misses_nothing_of_a_topic_that_is_made_anew() -> CaseResult {
    another_topic_meanwhile("anew", 0, 50).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_declared_late_misses_nothing_of_a_topic_that_is_made_anew() -> CaseResult
{
    another_topic_meanwhile("anew_late", 20, 70).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_anew_and_shorter_is_read_from_its_beginning() -> CaseResult {
    // It ends behind where the queue was declared, and before what the queue had read.
    another_topic_meanwhile("anew_shorter", 20, 22).await
}
