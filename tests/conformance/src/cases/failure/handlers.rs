//! Several handlers of one queue: run in sequence, and settled once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use event_core::{Header, Outcome, Reason, RetryPolicy};

use super::{bound, fails, rejects, soon, waited, with_handlers};
use crate::{
    Act, CaseResult, Context, Desk,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderSubmitted, Tenant, order, order_of},
};

cases!(Failure:
    handlers_run_in_the_order_of_registration,
    a_failing_handler_does_not_stop_the_next [DelayedRetry],
    only_failed_handlers_run_again [DelayedRetry],
    the_earliest_wait_of_several_handlers_counts [DelayedRetry],
    a_rejection_waits_for_the_retries_of_others [DelayedRetry, DeadLetters],
    rejections_of_one_message_make_one_dead_letter [DeadLetters],
    handlers_with_mixed_ends_settle_once [DelayedRetry, DeadLetters],
);

/// What handlers wrote, in the order in which they did. Clones are one diary.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn write(&self, line: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn handlers_run_in_the_order_of_registration(cx: Context) -> CaseResult {
    let diary = Diary::default();
    let handler = |name: &'static str, takes: u64| {
        let diary = diary.clone();
        move |order: OrderSubmitted| {
            let diary = diary.clone();
            async move {
                diary.write(format!("{} {name} begins", order.id));
                if takes > 0 {
                    tokio::time::sleep(Duration::from_millis(takes)).await;
                }
                diary.write(format!("{} {name} ends", order.id));
            }
        }
    };
    let queue = bound("billing_order", &cx)
        .handle(handler("one", 30))
        .named("one")
        .handle(handler("two", 0))
        .named("two")
        .handle(handler("three", 10))
        .named("three");
    let running = cx.start(cx.bus(), queue).await?;
    // Two of one customer, one after the other, and one of another, beside them.
    for (customer, id) in [("anna", 1), ("anna", 2), ("ben", 3)] {
        order_of(customer, id).publish(cx.bus()).await?;
    }
    cx.until("three handlers of three orders to end", || async {
        Ok(diary.lines().len() >= 18)
    })
    .await?;
    for id in 1..=3 {
        let of_order = |line: &String| line.starts_with(&format!("{id} "));
        let lines: Vec<_> = diary.lines().into_iter().filter(of_order).collect();
        let expected: Vec<_> = ["one", "two", "three"]
            .iter()
            .flat_map(|name| [format!("{id} {name} begins"), format!("{id} {name} ends")])
            .collect();
        ensure_eq!(lines, expected, "what was written");
    }
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_failing_handler_does_not_stop_the_next(cx: Context) -> CaseResult {
    let (one, two, three) = (
        cx.desk().failing(1),
        cx.desk().doing(|_| Act::Panic("a panic of the case's own")),
        cx.desk(),
    );
    let queue = with_handlers(&cx, [("one", &one), ("two", &two), ("three", &three)]);
    // Long, so that the last one cannot have waited for it.
    let queue = queue.retry(RetryPolicy::fixed(Duration::from_secs(3_600)));
    let _running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    let seen = three.finishes(1).await?;
    ensure_eq!(seen[0].meta.attempt, 1, "attempt");
    ensure_eq!(one.seen().len() + two.seen().len(), 2, "runs before it");
    Ok(())
}

async fn only_failed_handlers_run_again(cx: Context) -> CaseResult {
    let (one, two, three) = (cx.desk(), cx.desk().failing(1), cx.desk().failing(2));
    let queue = with_handlers(&cx, [("one", &one), ("two", &two), ("three", &three)]);
    let running = cx.start(cx.bus(), queue.retry(soon())).await?;
    order(7).publish(cx.bus()).await?;
    three.finishes(3).await?;
    three.sees_no_more_than(3).await?;
    let attempts =
        |desk: &Desk| -> Vec<u32> { desk.seen().iter().map(|seen| seen.meta.attempt).collect() };
    ensure_eq!(attempts(&one), [1], "attempts of the one that was done");
    ensure_eq!(
        attempts(&two),
        [1, 2],
        "attempts of the one that failed once"
    );
    ensure_eq!(attempts(&three), [1, 2, 3], "attempts of the last");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn the_earliest_wait_of_several_handlers_counts(cx: Context) -> CaseResult {
    let fails_for = |wait: u64| {
        cx.desk().doing(move |seen| match seen.meta.attempt {
            1 => Act::End(Outcome::RetryAfter(Duration::from_secs(wait))),
            _ => Act::DONE,
        })
    };
    let (one, two) = (fails_for(3_600), fails_for(1));
    let queue = with_handlers(&cx, [("one", &one), ("two", &two)]);
    let _running = cx.start(cx.bus(), queue.retry(soon())).await?;
    order(7).publish(cx.bus()).await?;
    for desk in [&one, &two] {
        let seen = desk.finishes(2).await?;
        let waited = waited(&seen[0], &seen[1]);
        ensure!(
            (1..60).contains(&waited.as_secs()),
            "it came after {waited:?}"
        );
    }
    Ok(())
}

async fn a_rejection_waits_for_the_retries_of_others(cx: Context) -> CaseResult {
    let one = cx.desk().doing(|_| rejects("no such customer"));
    // Of the first order it is done in the end, of the second it never is.
    let two = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, 3) => Act::DONE,
            _ => fails(),
        });
    let queue = with_handlers(&cx, [("one", &one), ("two", &two)]);
    let running = cx.start(cx.bus(), queue.retry(soon().attempts(3))).await?;
    order(1).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(two.seen().len(), 3, "runs before the dead letter");
    ensure_eq!(letters[0].handlers(), ["one"], "handlers");
    ensure_eq!(letters[0].reason(), Some(Reason::Rejected), "reason");
    ensure_eq!(letters[0].error(), Some("no such customer"), "error");

    order(2).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 2).await?;
    ensure_eq!(letters.len(), 2, "dead letters");
    ensure_eq!(letters[1].handlers(), ["one", "two"], "handlers");
    ensure_eq!(one.seen().len(), 2, "runs of the one that rejected");
    ensure_eq!(two.seen().len(), 6, "runs of the other");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn rejections_of_one_message_make_one_dead_letter(cx: Context) -> CaseResult {
    let (one, two, three) = (
        cx.desk().doing(|_| rejects("no such customer")),
        cx.desk(),
        cx.desk().doing(|_| rejects("no such article")),
    );
    let queue = with_handlers(&cx, [("one", &one), ("two", &two), ("three", &three)]);
    let running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    three.finishes(1).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].handlers(), ["one", "three"], "handlers");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    Ok(())
}

async fn handlers_with_mixed_ends_settle_once(cx: Context) -> CaseResult {
    let (done, fails_once) = (cx.desk(), cx.desk().failing(1));
    let (rejecting, panicking) = (
        cx.desk().doing(|_| rejects("no such customer")),
        cx.desk().doing(|_| Act::Panic("a panic of the case's own")),
    );
    let needs_tenant = |_: OrderSubmitted, _: Header<Tenant>| async {};
    let handlers = [
        ("done", &done),
        ("fails_once", &fails_once),
        ("rejecting", &rejecting),
        ("panicking", &panicking),
    ];
    let queue = with_handlers(&cx, handlers)
        .handle(needs_tenant)
        .named("needs_tenant")
        .retry(soon().attempts(3));
    let running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    let mut handlers = letters[0].handlers();
    handlers.sort_unstable();
    let expected = ["needs_tenant", "panicking", "rejecting"];
    ensure_eq!(handlers, expected, "handlers");
    ensure_eq!(letters[0].attempts(), 3, "attempts");
    for (desk, runs) in [(done, 1), (fails_once, 2), (rejecting, 1), (panicking, 3)] {
        ensure_eq!(desk.seen().len(), runs, "runs");
    }
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    Ok(())
}
