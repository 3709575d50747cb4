//! How often a delivery is tried, and who decides it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use event_core::{Error, HandlerError, Outcome, Reason, RetryPolicy, Service};

use super::{bound, rejects, soon, waited};
use crate::{
    Act, CaseResult, Context, Seen,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderSubmitted, order},
};

cases!(Failure:
    redelivers_after_handler_error [DelayedRetry],
    redelivers_after_a_panic [DelayedRetry],
    a_panic_in_a_destructor_is_contained,
    a_panic_beside_a_handler_is_contained [DelayedRetry, DeadLetters],
    the_default_policy_is_five_attempts [DelayedRetry, DeadLetters],
    an_exhausted_message_becomes_a_dead_letter [DelayedRetry, DeadLetters],
    a_failing_message_runs_exactly_the_allowed_times [DelayedRetry, DeadLetters],
    a_policy_of_one_attempt_never_tries_again [DeadLetters, DelayedRetry],
    each_queue_has_its_own_policy [DelayedRetry, DeadLetters],
    a_rejected_message_becomes_a_dead_letter_at_once [DeadLetters],
    a_permanent_error_becomes_a_dead_letter_at_once [DeadLetters],
    retry_after_sets_the_wait [DelayedRetry, DeadLetters],
    a_policy_decides_by_the_error [DelayedRetry, DeadLetters],
    retries_concern_their_queue_only [DelayedRetry],
);

async fn redelivers_after_handler_error(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(1);
    let running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(2).await?;
    ensure_eq!(seen[1].meta.attempt, 2, "attempt");
    desk.sees_no_more_than(2).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Without the panic hook, which would print it.
fn panics() -> ! {
    std::panic::resume_unwind(Box::new("a panic of the case's own"))
}

async fn redelivers_after_a_panic(cx: Context) -> CaseResult {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    // Before its future is made, in its first poll, and after it had to wait.
    let bill = move |_: OrderSubmitted| {
        let run = counted.fetch_add(1, SeqCst);
        let panics_at = move |at: usize| {
            if run == at {
                panics();
            }
        };
        panics_at(0);
        async move {
            panics_at(1);
            tokio::time::sleep(Duration::from_millis(1)).await;
            panics_at(2);
        }
    };
    let queue = bound("billing_order", &cx).retry(soon());
    let running = cx.start(cx.bus(), queue.handle(bill).named("bill")).await?;
    order(7).publish(cx.bus()).await?;
    cx.until("a run after three panics", || async {
        Ok(runs.load(SeqCst) == 4)
    })
    .await?;
    // The service goes on.
    order(8).publish(cx.bus()).await?;
    cx.until("the next order to be handled", || async {
        Ok(runs.load(SeqCst) == 5)
    })
    .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Ends well, or never, and panics when it is dropped.
struct Grudge {
    ends: bool,
}

impl Future for Grudge {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<()> {
        if self.ends {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Grudge {
    fn drop(&mut self) {
        panics();
    }
}

async fn a_panic_in_a_destructor_is_contained(cx: Context) -> CaseResult {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let bill = move |order: OrderSubmitted| {
        counted.fetch_add(1, SeqCst);
        Grudge { ends: order.id < 3 }
    };
    let queue = bound("billing_order", &cx).handle(bill).named("bill");
    let running = cx.start(cx.bus(), queue).await?;
    // Two that end, and three that are dropped when the service stops.
    for id in 1..=5 {
        order(id).publish(cx.bus()).await?;
    }
    cx.until("all to begin", || async { Ok(runs.load(SeqCst) == 5) })
        .await?;
    running.stop_now();
    running.shutdown().await?;
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let mut left: Vec<_> = desk.finishes(3).await?.iter().map(Seen::number).collect();
    left.sort_unstable();
    ensure_eq!(left, [3, 4, 5], "what went back");
    desk.sees_no_more_than(3).await?;
    Ok(())
}

async fn a_panic_beside_a_handler_is_contained(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(u32::MAX);
    let policy = soon().attempts(2).on_error(move |_| panics());
    let running = Service::new("billing")
        .queue(cx.queue("billing_order", &desk).retry(policy))
        .inspect(move |_| panics())
        .start(cx.bus())
        .await?;
    for id in 1..=2 {
        order(id).publish(cx.bus()).await?;
    }
    let letters = cx.dead_letters("billing_order", 2).await?;
    for letter in &letters {
        ensure_eq!(letter.reason(), Some(Reason::Exhausted), "reason");
        ensure_eq!(letter.error(), Some("the bank is closed"), "error");
    }
    ensure_eq!(desk.seen().len(), 4, "runs");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn the_default_policy_is_five_attempts(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(u32::MAX);
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(5).await?;
    for (pair, wait) in seen.windows(2).zip([100, 200, 400, 800]) {
        let waited = waited(&pair[0], &pair[1]);
        ensure!(
            waited >= Duration::from_millis(wait),
            "attempt {} came after {waited:?} instead of {wait} ms",
            pair[1].meta.attempt
        );
    }
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].attempts(), 5, "attempts");
    ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
    desk.sees_no_more_than(5).await?;
    Ok(())
}

async fn an_exhausted_message_becomes_a_dead_letter(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(u32::MAX);
    let queue = cx.queue("billing_order", &desk).retry(soon().attempts(2));
    let running = cx.start(cx.bus(), queue).await?;
    let receipt = order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
    ensure_eq!(letters[0].error(), Some("the bank is closed"), "error");
    ensure_eq!(letters[0].message().id(), &receipt.id, "id");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_failing_message_runs_exactly_the_allowed_times(cx: Context) -> CaseResult {
    for (name, attempts) in [("once", 1), ("twice", 2), ("three", 3), ("seven", 7)] {
        let desk = cx.desk().failing(u32::MAX);
        let queue = cx.queue(name, &desk).retry(soon().attempts(attempts));
        let running = cx.start(cx.bus(), queue).await?;
        order(7).publish(cx.bus()).await?;
        let letters = cx.dead_letters(name, 1).await?;
        ensure_eq!(letters[0].attempts(), attempts, "attempts");
        let seen = desk.sees_no_more_than(attempts as usize).await?;
        ensure_eq!(seen.len(), attempts as usize, "runs");
        running.shutdown().await?;
    }
    Ok(())
}

async fn a_policy_of_one_attempt_never_tries_again(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(u32::MAX);
    let queue = cx.queue("billing_order", &desk).retry(RetryPolicy::never());
    let _running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
    ensure_eq!(letters[0].attempts(), 1, "attempts");
    desk.sees_no_more_than(1).await?;
    Ok(())
}

async fn each_queue_has_its_own_policy(cx: Context) -> CaseResult {
    let (billing, logistic) = (cx.desk().failing(u32::MAX), cx.desk().failing(u32::MAX));
    let _running = Service::new("billing")
        .queue(
            cx.queue("billing_order", &billing)
                .retry(soon().attempts(2)),
        )
        .queue(
            cx.queue("logistic_order", &logistic)
                .retry(soon().attempts(4)),
        )
        .start(cx.bus())
        .await?;
    order(7).publish(cx.bus()).await?;
    cx.dead_letters("billing_order", 1).await?;
    cx.dead_letters("logistic_order", 1).await?;
    billing.sees_no_more_than(2).await?;
    logistic.sees_no_more_than(4).await?;
    ensure_eq!(billing.seen().len(), 2, "runs of the one queue");
    ensure_eq!(logistic.seen().len(), 4, "runs of the other queue");
    Ok(())
}

async fn a_rejected_message_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|_| rejects("no such customer"));
    let running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(letters[0].reason(), Some(Reason::Rejected), "reason");
    desk.sees_no_more_than(1).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_permanent_error_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => Act::Fail(HandlerError::permanent("no such customer")),
        2 => Act::Fail(Error::permanent("no such customer").into()),
        // As it comes out of a library that knows nothing of this.
        _ => Act::Fail(io::Error::other(Error::permanent("no such customer")).into()),
    });
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    for id in 1..=3 {
        order(id).publish(cx.bus()).await?;
    }
    for letter in cx.dead_letters("billing_order", 3).await? {
        ensure_eq!(letter.reason(), Some(Reason::Rejected), "reason");
        let error = letter.error().unwrap_or_default();
        ensure!(error.contains("no such customer"), "error: {error}");
    }
    desk.sees_no_more_than(3).await?;
    Ok(())
}

async fn retry_after_sets_the_wait(cx: Context) -> CaseResult {
    let wait = Duration::from_secs(1);
    let desk = cx.desk().doing(move |seen| match seen.number() {
        1 => Act::End(Outcome::RetryAfter(wait)),
        _ => Act::Fail(HandlerError::retry_after(wait, "the bank is closed")),
    });
    let queue = cx.queue("billing_order", &desk).retry(soon().attempts(3));
    let _running = cx.start(cx.bus(), queue).await?;
    for id in 1..=2 {
        order(id).publish(cx.bus()).await?;
    }
    let letters = cx.dead_letters("billing_order", 2).await?;
    for letter in &letters {
        ensure_eq!(letter.reason(), Some(Reason::Exhausted), "reason");
        ensure_eq!(letter.attempts(), 3, "attempts");
    }
    for id in 1..=2 {
        let seen: Vec<_> = desk
            .seen()
            .into_iter()
            .filter(|seen| seen.number() == id)
            .collect();
        ensure_eq!(seen.len(), 3, "runs");
        for pair in seen.windows(2) {
            let waited = waited(&pair[0], &pair[1]);
            ensure!(waited >= wait, "it came after {waited:?}");
        }
    }
    Ok(())
}

async fn a_policy_decides_by_the_error(cx: Context) -> CaseResult {
    let wait = Duration::from_secs(1);
    let policy = soon().attempts(2).on_error(move |error| {
        let text = error.to_string();
        match text.as_str() {
            "gone" => Outcome::Reject("no such customer".to_owned()),
            "done before" => Outcome::Ack,
            "busy" => Outcome::RetryAfter(wait),
            _ => Outcome::Retry,
        }
    });
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => Act::fail("gone"),
        2 => Act::fail("done before"),
        3 => Act::fail("busy"),
        4 => Act::fail("something else"),
        // What the handler decides itself is not asked about.
        _ => Act::Fail(HandlerError::permanent("done before")),
    });
    let queue = cx.queue("billing_order", &desk).retry(policy);
    let running = cx.start(cx.bus(), queue).await?;
    for id in 1..=5 {
        order(id).publish(cx.bus()).await?;
    }
    let letters = cx.dead_letters("billing_order", 4).await?;
    let mut ends: Vec<_> = letters
        .iter()
        .map(|letter| {
            let id = crate::desk::number(letter.message().payload());
            (id, letter.reason(), letter.attempts())
        })
        .collect();
    ends.sort_unstable_by_key(|(id, ..)| *id);
    let expected = [
        (1, Some(Reason::Rejected), 1),
        (3, Some(Reason::Exhausted), 2),
        (4, Some(Reason::Exhausted), 2),
        (5, Some(Reason::Rejected), 1),
    ];
    ensure_eq!(ends, expected, "dead letters");
    let rejected = letters
        .iter()
        .find(|letter| crate::desk::number(letter.message().payload()) == 1);
    let error = rejected
        .and_then(|letter| letter.error())
        .unwrap_or_default();
    ensure!(error.contains("no such customer"), "error: {error}");
    let seen = desk.seen();
    let busy: Vec<_> = seen.iter().filter(|seen| seen.number() == 3).collect();
    let waited = waited(busy[0], busy[1]);
    ensure!(waited >= wait, "the busy one came after {waited:?}");
    ensure_eq!(seen.len(), 7, "runs");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn retries_concern_their_queue_only(cx: Context) -> CaseResult {
    let (billing, logistic) = (cx.desk().failing(2), cx.desk());
    let mut everything = cx.spec("audit_all", &["#"])?;
    everything
        .bindings
        .extend(cx.spec("audit_all", &["order.#"])?.bindings);
    cx.declare(&[&everything]).await?;
    let mut everything = cx.consume(&cx.process().await?, &everything).await?;
    let _billing = cx
        .start(cx.bus(), cx.queue("billing_order", &billing))
        .await?;
    let _logistic = cx
        .start(&cx.process().await?, cx.queue("logistic_order", &logistic))
        .await?;
    order(7).publish(cx.bus()).await?;
    billing.finishes(3).await?;
    billing.sees_no_more_than(3).await?;
    logistic.sees_no_more_than(1).await?;
    ensure_eq!(logistic.seen().len(), 1, "runs in the other queue");
    let delivery = everything.next().await?;
    everything.ack(&delivery).await?;
    everything.gets_nothing().await
}
