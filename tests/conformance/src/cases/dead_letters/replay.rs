//! Replaying dead letters.

use std::sync::{Arc, Mutex, PoisonError};

use event_core::{Headers, Queue, Reason, Selection};

use super::{QUEUE, bury, number, rejecting_once, rejects, soon};
use crate::{
    Act, CaseResult, Context, Desk, Seen,
    case::cases,
    ensure_eq,
    orders::{OrderSubmitted, order},
};

cases!(DeadLetters:
    replay_puts_a_dead_letter_back_into_its_queue_only [DeadLetters],
    what_is_replayed_without_a_service_waits_for_one [DeadLetters],
    a_replayed_message_begins_anew [DeadLetters, DelayedRetry],
    replay_runs_only_the_handlers_that_failed [DeadLetters, DelayedRetry],
    replay_of_a_killer_runs_only_the_handlers_that_were_left [DeadLetters, DelayedRetry, Isolation],
    replay_concerns_the_selected_only [DeadLetters],
    a_replayed_message_may_fail_again [DeadLetters],
);

async fn what_is_replayed_without_a_service_waits_for_one(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects());
    let running = cx
        .start(&cx.process().await?, cx.queue(QUEUE, &desk))
        .await?;
    bury(&cx, 1..=3).await?;
    running.shutdown().await?;
    let letters = cx.bus().dead_letters(QUEUE).await?;
    ensure_eq!(letters.replay(Selection::All).await?, 3, "replayed");
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue(QUEUE, &desk))
        .await?;
    desk.finishes(3).await?;
    desk.sees_no_more_than(3).await?;
    Ok(())
}

async fn replay_puts_a_dead_letter_back_into_its_queue_only(cx: Context) -> CaseResult {
    let (billing, logistic) = (rejecting_once(&cx), rejecting_once(&cx));
    let running = cx.start(cx.bus(), cx.queue(QUEUE, &billing)).await?;
    let _logistic = cx
        .start(&cx.process().await?, cx.queue("logistic_order", &logistic))
        .await?;
    let letters = bury(&cx, [7]).await?;
    cx.dead_letters("logistic_order", 1).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    ensure_eq!(queue.replay(&letters[0]).await?, 1, "replayed");
    let seen = billing.finishes(2).await?;
    ensure_eq!(seen[1].meta.id, seen[0].meta.id, "id");
    ensure_eq!(queue.list(1).await?.len(), 0, "dead letters afterwards");
    billing.sees_no_more_than(2).await?;
    logistic.sees_no_more_than(1).await?;
    let others = cx.bus().dead_letters("logistic_order").await?;
    ensure_eq!(others.list(9).await?.len(), 1, "dead letters of the other");
    running.shutdown().await?;
    cx.nothing_is_left(QUEUE).await
}

async fn a_replayed_message_begins_anew(cx: Context) -> CaseResult {
    let given: Arc<Mutex<Vec<Headers>>> = Arc::default();
    let desk = {
        let given = given.clone();
        cx.desk().doing(move |seen| {
            let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
            given.push(seen.delivery.message().headers().clone());
            match seen.nth {
                // Two attempts, and two after it was replayed.
                0..=2 => Act::fail("the bank is closed"),
                _ => Act::DONE,
            }
        })
    };
    let queue = cx.queue(QUEUE, &desk).retry(soon().attempts(2));
    let _running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).header("tenant", "eu").await?;
    let letters = cx.dead_letters(QUEUE, 1).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    queue.replay(&letters[0]).await?;
    let seen = desk.finishes(4).await?;
    let attempts: Vec<_> = seen.iter().map(|seen| seen.meta.attempt).collect();
    ensure_eq!(attempts, [1, 2, 1, 2], "attempts");
    ensure_eq!(seen[2].meta.first_failure, None, "first failure");
    let (sent, again) = (seen[0].delivery.message(), seen[2].delivery.message());
    ensure_eq!(again.payload(), sent.payload(), "bytes");
    ensure_eq!(again.id(), sent.id(), "id");
    ensure_eq!(again.time(), sent.time(), "time");
    ensure_eq!(again.source(), sent.source(), "source");
    ensure_eq!(again.partition_key(), sent.partition_key(), "partition key");
    let mut headers = given.lock().unwrap_or_else(PoisonError::into_inner)[2].clone();
    // Which handlers to run is all that may be left of ours.
    headers.remove("switchboard-handlers");
    ensure_eq!(headers, *sent.headers(), "headers");
    Ok(())
}

/// A queue with several handlers, in this order.
fn with_handlers<const N: usize>(cx: &Context, handlers: [(&'static str, &Desk); N]) -> Queue {
    let queue = cx
        .new_queue(QUEUE)
        .bind("order", "order.*.submit")
        .lease(cx.lease())
        .retry(soon().attempts(2));
    handlers.into_iter().fold(queue, |queue, (name, desk)| {
        queue.handle(desk.takes::<OrderSubmitted>()).named(name)
    })
}

async fn replay_runs_only_the_handlers_that_failed(cx: Context) -> CaseResult {
    // One is done, one rejects, one is done at its second attempt, and one is never.
    let (done, rejecting) = (cx.desk(), rejecting_once(&cx));
    let (failing_once, failing) = (
        cx.desk().failing(1),
        cx.desk().doing(|seen| match seen.nth {
            0 | 1 => Act::fail("the bank is closed"),
            _ => Act::DONE,
        }),
    );
    let queue = with_handlers(
        &cx,
        [
            ("done", &done),
            ("rejecting", &rejecting),
            ("failing_once", &failing_once),
            ("failing", &failing),
        ],
    );
    let running = cx.start(cx.bus(), queue).await?;
    let letters = bury(&cx, [7]).await?;
    ensure_eq!(letters[0].handlers(), ["rejecting", "failing"], "handlers");
    let queue = cx.bus().dead_letters(QUEUE).await?;
    queue.replay(&letters[0]).await?;
    rejecting.finishes(2).await?;
    failing.finishes(3).await?;
    failing.sees_no_more_than(3).await?;
    ensure_eq!(done.seen().len(), 1, "runs of the one that was done");
    ensure_eq!(
        failing_once.seen().len(),
        2,
        "runs of the one that failed once"
    );
    ensure_eq!(rejecting.seen().len(), 2, "runs of the one that rejected");
    ensure_eq!(queue.list(1).await?.len(), 0, "dead letters afterwards");
    running.shutdown().await?;
    cx.nothing_is_left(QUEUE).await
}

async fn replay_of_a_killer_runs_only_the_handlers_that_were_left(cx: Context) -> CaseResult {
    // At the first attempt one is done, one rejects and one fails, which ends every process afterwards.
    let (done, rejecting) = (cx.desk(), rejecting_once(&cx));
    let killing = cx.desk().doing(|seen| match seen.meta.attempt {
        1 => Act::fail("the bank is closed"),
        _ => Act::Hold,
    });
    let queue = |killing: &Desk| {
        let handlers = [
            ("done", &done),
            ("rejecting", &rejecting),
            ("killing", killing),
        ];
        with_handlers(&cx, handlers)
    };
    let spec = cx.spec(QUEUE, &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    let held = |seen: &[Seen]| seen.iter().filter(|seen| seen.meta.attempt > 1).count();
    let mut given_up = None;
    for crashes in 0..20 {
        let running = cx.start(&cx.process().await?, queue(&killing)).await?;
        tokio::select! {
            seen = killing.until("a process to end", move |seen| held(seen) > crashes) => {
                seen?;
                drop(running);
            }
            letters = cx.dead_letters(QUEUE, 1) => {
                running.shutdown().await?;
                given_up = Some(letters?.remove(0));
                break;
            }
        }
    }
    let letter = given_up.ok_or("it ended 20 processes and is no dead letter")?;
    ensure_eq!(letter.reason(), Some(Reason::Crashed), "reason");
    let mut handlers = letter.handlers();
    handlers.sort_unstable();
    ensure_eq!(handlers, ["killing", "rejecting"], "handlers");
    let mended = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&mended)).await?;
    let letters = cx.bus().dead_letters(QUEUE).await?;
    letters.replay(&letter).await?;
    mended.finishes(1).await?;
    rejecting.finishes(2).await?;
    ensure_eq!(done.seen().len(), 1, "runs of the one that was done");
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters afterwards");
    Ok(())
}

async fn replay_concerns_the_selected_only(cx: Context) -> CaseResult {
    let desk = rejecting_once(&cx);
    let _running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    let letters = bury(&cx, 1..=4).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    ensure_eq!(queue.purge(&letters[0]).await?, 1, "purged");
    // The first is not there any more.
    let selected: Selection = [&letters[0], &letters[2]]
        .into_iter()
        .map(|letter| letter.id().clone())
        .collect();
    ensure_eq!(queue.replay(selected.clone()).await?, 1, "replayed");
    let seen = desk.finishes(5).await?;
    ensure_eq!(seen[4].number(), 3, "what was replayed");
    let left: Vec<_> = queue.list(10).await?.iter().map(number).collect();
    ensure_eq!(left, [2, 4], "dead letters afterwards");
    ensure_eq!(queue.replay(selected).await?, 0, "replayed once more");
    desk.sees_no_more_than(5).await?;
    ensure_eq!(
        queue.replay(Selection::All).await?,
        2,
        "replayed in the end"
    );
    desk.finishes(7).await?;
    ensure_eq!(queue.list(1).await?.len(), 0, "dead letters in the end");
    Ok(())
}

async fn a_replayed_message_may_fail_again(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects());
    let running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    let mut letters = bury(&cx, [7]).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    for round in 2..=3 {
        ensure_eq!(queue.replay(&letters[0]).await?, 1, "replayed");
        desk.finishes(round).await?;
        letters = cx.dead_letters(QUEUE, 1).await?;
        ensure_eq!(letters.len(), 1, "dead letters");
        ensure_eq!(letters[0].attempts(), 1, "attempts");
        ensure_eq!(letters[0].reason(), Some(Reason::Rejected), "reason");
        ensure_eq!(letters[0].handlers(), ["bill"], "handlers");
    }
    running.shutdown().await?;
    cx.nothing_is_left(QUEUE).await
}
