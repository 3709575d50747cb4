//! What this version of a service does not know another may.

use std::time::Duration;

use event_core::{Bus, Queue, Reason, RetryPolicy};
use tokio::time::Instant;

use super::{soon, with_handlers};
use crate::{
    CaseResult, Context, Desk, Seen,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, OrderSubmitted, order},
};

cases!(Failure:
    an_unknown_key_uses_no_attempt [DelayedRetry],
    an_unknown_key_becomes_a_dead_letter_in_the_end [DelayedRetry, DeadLetters],
    a_newer_version_handles_what_an_older_one_does_not_know [DelayedRetry, DeadLetters],
    a_retry_waits_for_its_handler [DelayedRetry],
);

/// A queue that lets in all that concerns orders, and knows submitted ones only.
fn older(cx: &Context, desk: &Desk) -> Queue {
    cx.new_queue("billing_order")
        .bind("order", "order.#")
        .lease(cx.lease())
        .handle(desk.takes::<OrderSubmitted>())
        .named("bill")
}

/// The same queue, which knows notes as well.
fn newer(cx: &Context, desk: &Desk) -> Queue {
    older(cx, desk)
        .handle(desk.takes::<OrderNoted>())
        .named("note")
}

async fn note(bus: &Bus, id: u64) -> CaseResult {
    OrderNoted { id }.publish(bus).await?;
    Ok(())
}

async fn an_unknown_key_uses_no_attempt(cx: Context) -> CaseResult {
    let (old, new) = (cx.desk(), cx.desk());
    let process = cx.process().await?;
    let running = cx.start(&process, older(&cx, &old)).await?;
    note(cx.bus(), 7).await?;
    cx.until("it to be passed over twice", || async {
        Ok(process.counters().skipped >= 2)
    })
    .await?;
    ensure_eq!(process.counters().retried, 0, "retries that were counted");
    running.shutdown().await?;
    let _running = cx.start(&cx.process().await?, newer(&cx, &new)).await?;
    let seen = new.finishes(1).await?;
    ensure_eq!(seen[0].meta.attempt, 1, "attempt");
    ensure_eq!(seen[0].meta.first_failure, None, "first failure");
    ensure_eq!(old.seen().len(), 0, "runs of a handler for something else");
    Ok(())
}

async fn an_unknown_key_becomes_a_dead_letter_in_the_end(cx: Context) -> CaseResult {
    let limit = Duration::from_secs(4);
    let desk = cx.desk();
    let queue = older(&cx, &desk).retry(soon().unknown(limit));
    let running = cx.start(cx.bus(), queue).await?;
    let begun = Instant::now();
    note(cx.bus(), 7).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    let waited = begun.elapsed();
    ensure!(waited >= limit, "it was given up after {waited:?}");
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(letters[0].reason(), Some(Reason::Unknown), "reason");
    ensure_eq!(letters[0].attempts(), 1, "attempts");
    ensure_eq!(letters[0].consumer(), Some("billing"), "consumer");
    ensure_eq!(desk.seen().len(), 0, "runs");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_newer_version_handles_what_an_older_one_does_not_know(cx: Context) -> CaseResult {
    let (old, new) = (cx.desk(), cx.desk());
    let mut process = cx.process().await?;
    let mut running = cx.start(&process, older(&cx, &old)).await?;
    let _newer = cx.start(&cx.process().await?, newer(&cx, &new)).await?;
    for round in 0..3 {
        for id in 1..=5 {
            note(cx.bus(), round * 5 + id).await?;
            order(100 + round * 5 + id).publish(cx.bus()).await?;
        }
        // The older version is deployed again.
        running.shutdown().await?;
        process = cx.process().await?;
        running = cx.start(&process, older(&cx, &old)).await?;
    }
    // Sooner or later the older one goes; until then a note may come to it again and again.
    running.shutdown().await?;
    let ended = |desk: &Desk, notes: bool| -> Vec<u64> {
        let mut ids: Vec<_> = desk
            .seen()
            .iter()
            .filter(|seen| seen.ended.is_some() && (seen.number() < 100) == notes)
            .map(Seen::number)
            .collect();
        ids.sort_unstable();
        ids
    };
    cx.until("all notes and orders to be handled", || async {
        let orders = ended(&old, false).len() + ended(&new, false).len();
        Ok(ended(&new, true).len() >= 15 && orders >= 15)
    })
    .await?;
    ensure_eq!(ended(&new, true), (1..=15).collect::<Vec<_>>(), "notes");
    ensure!(
        new.seen().iter().all(|seen| seen.meta.attempt == 1),
        "a note paid with an attempt for what the older version does not know"
    );
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    Ok(())
}

async fn a_retry_waits_for_its_handler(cx: Context) -> CaseResult {
    let (bill, pack) = (cx.desk(), cx.desk().failing(1));
    // Long enough for this process to end before it is due.
    let policy = || RetryPolicy::fixed(Duration::from_secs(1)).attempts(2);
    let both = || with_handlers(&cx, [("bill", &bill), ("pack", &pack)]).retry(policy());
    let process = cx.process().await?;
    let running = cx.start(&process, both()).await?;
    order(7).publish(cx.bus()).await?;
    cx.until("the failure to be settled", || async {
        Ok(process.counters().retried == 1)
    })
    .await?;
    // Not `shutdown`: the retry may come to this process too, which would handle it.
    drop(running);

    let process = cx.process().await?;
    let queue = with_handlers(&cx, [("bill", &bill)]).retry(policy());
    let running = cx.start(&process, queue).await?;
    cx.until("it to be passed over", || async {
        Ok(process.counters().skipped >= 1)
    })
    .await?;
    running.shutdown().await?;
    let _running = cx.start(&cx.process().await?, both()).await?;
    let seen = pack.finishes(2).await?;
    ensure_eq!(seen[1].meta.attempt, 2, "attempt");
    ensure_eq!(bill.seen().len(), 1, "runs of the handler that was done");
    Ok(())
}
