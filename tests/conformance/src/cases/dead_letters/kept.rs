//! What stands in a dead letter, and how long it is kept.

use std::{
    collections::BTreeSet,
    error::Error as StdError,
    fmt, io,
    time::{Duration, SystemTime},
};

use event_core::{
    Bytes, DeadLetter, ErrorKind, HandlerError, Outcome, Reason, RetryPolicy, Selection,
};

use super::{QUEUE, bury, number, rejecting_once, rejects, soon};
use crate::{
    Act, CaseResult, Context, Failure,
    case::cases,
    ensure, ensure_eq,
    orders::{order, raw},
};

cases!(DeadLetters:
    a_dead_letter_keeps_its_message [DeadLetters],
    a_dead_letter_says_what_happened [DeadLetters],
    an_error_of_any_text_makes_a_dead_letter [DeadLetters],
    a_dead_letter_counts_its_attempts [DeadLetters, DelayedRetry],
    a_dead_letter_knows_its_first_and_last_failure [DeadLetters, DelayedRetry],
    dead_letters_are_listed_in_pages [DeadLetters],
    dead_letters_never_reach_other_queues [DeadLetters],
    dead_letters_are_kept_without_a_service [DeadLetters],
    purge_removes_dead_letters [DeadLetters],
    a_queue_without_dead_letters_lists_none [DeadLetters],
    dead_letters_of_an_unknown_queue_are_not_found [DeadLetters],
);

async fn a_dead_letter_keeps_its_message(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects());
    let _running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    order(7)
        .publish(cx.bus())
        .id("order-7")
        .header("tenant", "eu")
        .header("trace", Bytes::from_static(b"\x00\xff"))
        .await?;
    let seen = desk.finishes(1).await?;
    let sent = seen[0].delivery.message();
    let letters = cx.dead_letters(QUEUE, 1).await?;
    let kept = letters[0].message();
    ensure_eq!(kept.payload(), sent.payload(), "bytes");
    ensure_eq!(kept.exchange(), sent.exchange(), "exchange");
    ensure_eq!(kept.exchange().as_str(), "order", "exchange");
    ensure_eq!(kept.key(), sent.key(), "key");
    ensure_eq!(kept.id().to_string(), "order-7", "id");
    ensure_eq!(kept.time(), sent.time(), "time");
    ensure!(kept.time().is_some(), "it has no time");
    ensure_eq!(kept.source(), sent.source(), "source");
    ensure_eq!(kept.content_type(), "application/json", "content type");
    ensure_eq!(kept.partition_key(), Some("customer-7"), "partition key");
    ensure_eq!(kept.headers().text("tenant"), Some("eu"), "header");
    let trace = kept
        .headers()
        .get("trace")
        .map(|trace| trace.as_bytes().to_vec());
    ensure_eq!(trace, Some(vec![0, 0xff]), "header of bytes");
    // Bytes that no event has.
    let bytes: &[u8] = b"\xff\x00{";
    cx.bus()
        .publish(&raw("order", "order.v1.submit", bytes)?)
        .await?;
    let letters = cx.dead_letters(QUEUE, 2).await?;
    ensure_eq!(letters[1].message().payload(), bytes, "bytes of no event");
    Ok(())
}

/// An error with a cause.
#[derive(Debug)]
struct Declined(io::Error);

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the card was declined")
    }
}

impl StdError for Declined {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

async fn a_dead_letter_says_what_happened(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => rejects(),
        _ => Act::Fail(HandlerError::permanent(Declined(io::Error::other(
            "limit of 500 exceeded",
        )))),
    });
    let _running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    let letters = bury(&cx, 1..=2).await?;
    ensure_eq!(letters.len(), 2, "dead letters");
    for letter in &letters {
        ensure_eq!(letter.reason(), Some(Reason::Rejected), "reason");
        ensure_eq!(letter.handlers(), ["bill"], "handlers");
        ensure_eq!(letter.consumer(), Some("billing"), "consumer");
    }
    ensure_eq!(letters[0].error(), Some("no such customer"), "error");
    let error = letters[1].error().unwrap_or_default();
    ensure_eq!(
        error,
        "the card was declined: limit of 500 exceeded",
        "error with its cause"
    );
    Ok(())
}

async fn an_error_of_any_text_makes_a_dead_letter(cx: Context) -> CaseResult {
    let texts = || {
        [
            String::new(),
            "two\nlines\r\nand a \"quote\", a \\ and a tab\t".to_owned(),
            "Überweisung abgelehnt: Ну вот, 残高不足 🧾".to_owned(),
            "zero \0 and escape \u{1b}[0m".to_owned(),
            format!("long: {}", "ü".repeat(500_000)),
        ]
    };
    let desk = cx.desk().doing(move |seen| {
        let text = usize::try_from(seen.number())
            .ok()
            .and_then(|at| texts().get(at).cloned());
        Act::End(Outcome::Reject(text.unwrap_or_default()))
    });
    let running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    let letters = bury(&cx, 0..5).await?;
    for (letter, text) in letters.iter().zip(texts()) {
        let error = letter.error().unwrap_or_default();
        // A long one may be cut.
        let begin: String = text.chars().take(100).collect();
        ensure!(
            error.starts_with(&begin) && (text.len() > 1_000 || error == text),
            "the text `{}…` was kept as `{}…`",
            begin.escape_debug(),
            error.chars().take(200).collect::<String>().escape_debug()
        );
    }
    running.shutdown().await?;
    cx.nothing_is_left(QUEUE).await
}

async fn a_dead_letter_counts_its_attempts(cx: Context) -> CaseResult {
    let desk = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, _) | (2, 2) => rejects(),
            _ => Act::fail("the bank is closed"),
        });
    let queue = cx.queue(QUEUE, &desk).retry(soon().attempts(3));
    let _running = cx.start(cx.bus(), queue).await?;
    let letters = bury(&cx, 1..=3).await?;
    for letter in &letters {
        let runs = desk
            .numbers()
            .iter()
            .filter(|id| **id == number(letter))
            .count();
        ensure_eq!(letter.attempts() as usize, runs, "attempts and runs");
    }
    let attempts: Vec<_> = letters.iter().map(DeadLetter::attempts).collect();
    ensure_eq!(attempts, [1, 2, 3], "attempts");
    Ok(())
}

async fn a_dead_letter_knows_its_first_and_last_failure(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(u32::MAX);
    let wait = Duration::from_secs(1);
    let queue = cx.queue(QUEUE, &desk);
    let queue = queue.retry(RetryPolicy::fixed(wait).attempts(3));
    let _running = cx.start(cx.bus(), queue).await?;
    // Kept to the microsecond.
    let begun = SystemTime::now() - Duration::from_millis(1);
    let letters = bury(&cx, [7]).await?;
    let ended = SystemTime::now() + Duration::from_millis(1);
    let (first, last) = (letters[0].first_failure(), letters[0].last_failure());
    let (Some(first), Some(last)) = (first, last) else {
        return Err(Failure::new(format!(
            "first failure {first:?}, last failure {last:?}"
        )));
    };
    let seen = desk.seen();
    for attempt in &seen[1..] {
        let visible = attempt.meta.first_failure;
        ensure_eq!(visible, Some(first), "first failure as handlers saw it");
    }
    ensure!(
        begun <= first && first <= last && last <= ended,
        "first failure {first:?} and last failure {last:?} of what began at {begun:?}"
    );
    // On a paused clock no time passes that people see.
    if ended.duration_since(begun)? > wait * 2 {
        ensure!(
            last.duration_since(first)? >= wait * 2,
            "first failure {first:?}, last failure {last:?}"
        );
    }
    Ok(())
}

async fn dead_letters_are_listed_in_pages(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects());
    let _running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    bury(&cx, 1..=7).await?;
    let letters = cx.bus().dead_letters(QUEUE).await?;
    let mut page = letters.list(3).await?;
    let mut listed = Vec::new();
    while let Some(last) = page.last() {
        ensure!(page.len() <= 3, "a page of {}", page.len());
        let last = last.id().clone();
        listed.extend(page);
        page = letters.list_after(&last, 3).await?;
    }
    let numbers: Vec<_> = listed.iter().map(number).collect();
    ensure_eq!(numbers, (1..=7).collect::<Vec<_>>(), "oldest first");
    let ids: BTreeSet<_> = listed.iter().map(|letter| letter.id()).collect();
    ensure_eq!(ids.len(), 7, "different ids");
    Ok(())
}

async fn dead_letters_never_reach_other_queues(cx: Context) -> CaseResult {
    let (billing, logistic) = (rejecting_once(&cx), cx.desk());
    let everything = cx.spec("audit_all", &["#"])?;
    cx.declare(&[&everything]).await?;
    let mut everything = cx.consume(&cx.process().await?, &everything).await?;
    let _billing = cx.start(cx.bus(), cx.queue(QUEUE, &billing)).await?;
    let _logistic = cx
        .start(&cx.process().await?, cx.queue("logistic_order", &logistic))
        .await?;
    let letters = bury(&cx, [7]).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    ensure_eq!(queue.replay(&letters[0]).await?, 1, "replayed");
    billing.finishes(2).await?;
    logistic.sees_no_more_than(1).await?;
    ensure_eq!(logistic.seen().len(), 1, "runs in the other queue");
    let delivery = everything.next().await?;
    everything.ack(&delivery).await?;
    everything.gets_nothing().await?;
    let others = cx.bus().dead_letters("logistic_order").await?;
    ensure_eq!(others.list(1).await?.len(), 0, "dead letters of the other");
    Ok(())
}

async fn dead_letters_are_kept_without_a_service(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects());
    let process = cx.process().await?;
    let running = cx.start(&process, cx.queue(QUEUE, &desk)).await?;
    bury(&cx, 1..=2).await?;
    running.shutdown().await?;
    process.close().await?;
    let elsewhere = cx.process().await?.dead_letters(QUEUE).await?;
    let numbers: Vec<_> = elsewhere.list(10).await?.iter().map(number).collect();
    ensure_eq!(numbers, [1, 2], "dead letters");
    // They are not in the way of what comes afterwards either.
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue(QUEUE, &desk))
        .await?;
    order(3).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    desk.sees_no_more_than(1).await?;
    ensure_eq!(
        elsewhere.list(10).await?.len(),
        2,
        "dead letters afterwards"
    );
    Ok(())
}

async fn purge_removes_dead_letters(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects());
    let _running = cx.start(cx.bus(), cx.queue(QUEUE, &desk)).await?;
    let letters = bury(&cx, 1..=4).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    let selected: Selection = [&letters[0], &letters[2]]
        .into_iter()
        .map(|letter| letter.id().clone())
        .collect();
    ensure_eq!(queue.purge(selected.clone()).await?, 2, "purged");
    let left: Vec<_> = queue.list(10).await?.iter().map(number).collect();
    ensure_eq!(left, [2, 4], "dead letters afterwards");
    ensure_eq!(queue.purge(selected).await?, 0, "purged once more");
    ensure_eq!(queue.purge(Selection::All).await?, 2, "purged in the end");
    ensure_eq!(queue.list(10).await?.len(), 0, "dead letters in the end");
    desk.sees_no_more_than(4).await?;
    Ok(())
}

async fn a_queue_without_dead_letters_lists_none(cx: Context) -> CaseResult {
    let spec = cx.spec(QUEUE, &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    // What is ready is no dead letter.
    order(7).publish(cx.bus()).await?;
    let queue = cx.bus().dead_letters(QUEUE).await?;
    ensure_eq!(queue.list(10).await?.len(), 0, "dead letters");
    ensure_eq!(queue.replay(Selection::All).await?, 0, "replayed");
    ensure_eq!(queue.purge(Selection::All).await?, 0, "purged");
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let delivery = consumer.next().await?;
    consumer.ack(&delivery).await?;
    Ok(())
}

async fn dead_letters_of_an_unknown_queue_are_not_found(cx: Context) -> CaseResult {
    let result = cx.bus().dead_letters("nobody_knows_it").await;
    let Err(error) = result else {
        return Err(Failure::new("an unknown queue has dead letters"));
    };
    ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of `{error}`");
    ensure!(
        error.to_string().contains("nobody_knows_it"),
        "it does not name the queue: {error}"
    );
    Ok(())
}
