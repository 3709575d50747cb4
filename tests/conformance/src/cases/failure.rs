//! 5. Failure.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Bus, Delivery, Error, ErrorKind, Event, HandlerError, HandlerResult, Header, Message, Outcome,
    Queue, QueueSpec, Reason, Receipt, Result, RetryPolicy, RouteInfo, Selection, Service, Settle,
    Settled, Settlement, Transport,
};
use tokio::time::Instant;

use crate::{
    Act, CaseResult, Context, Desk, Intercept, Intercepted, Seen,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderBilled, OrderNoted, OrderSubmitted, Tenant, order, order_of, raw},
};

cases!(Failure:
    redelivers_after_handler_error [DelayedRetry],
    redelivers_after_a_panic [DelayedRetry],
    a_panic_in_a_destructor_is_contained,
    a_panic_beside_a_handler_is_contained [DelayedRetry, DeadLetters],
    the_default_policy_is_five_attempts [DelayedRetry, DeadLetters],
    a_retry_waits_for_its_delay [DelayedRetry],
    waits_are_exact [DelayedRetry, ExactDelay],
    waits_keep_their_own_order [DelayedRetry],
    a_waiting_message_holds_no_place [DelayedRetry],
    a_waiting_message_survives_a_crash [DelayedRetry],
    the_copy_is_stored_before_the_original_is_removed [DelayedRetry, DeadLetters],
    a_copy_that_cannot_be_stored_leaves_the_original [DelayedRetry, DeadLetters],
    an_exhausted_message_becomes_a_dead_letter [DelayedRetry, DeadLetters],
    a_failing_message_runs_exactly_the_allowed_times [DelayedRetry, DeadLetters],
    a_policy_of_one_attempt_never_tries_again [DeadLetters],
    each_queue_has_its_own_policy [DelayedRetry, DeadLetters],
    a_rejected_message_becomes_a_dead_letter_at_once [DeadLetters],
    a_permanent_error_becomes_a_dead_letter_at_once [DeadLetters],
    retry_after_sets_the_wait [DelayedRetry, DeadLetters],
    a_policy_decides_by_the_error [DelayedRetry, DeadLetters],
    handlers_run_in_the_order_of_registration,
    a_failing_handler_does_not_stop_the_next [DelayedRetry],
    only_failed_handlers_run_again [DelayedRetry],
    the_earliest_wait_of_several_handlers_counts [DelayedRetry],
    a_rejection_waits_for_the_retries_of_others [DelayedRetry, DeadLetters],
    rejections_of_one_message_make_one_dead_letter [DeadLetters],
    handlers_with_mixed_ends_settle_once [DelayedRetry, DeadLetters],
    an_undecodable_payload_becomes_a_dead_letter_at_once [DeadLetters],
    an_invalid_event_becomes_a_dead_letter_at_once [DeadLetters],
    a_missing_header_becomes_a_dead_letter_at_once [DeadLetters],
    an_unknown_key_uses_no_attempt [DelayedRetry],
    an_unknown_key_becomes_a_dead_letter_in_the_end [DelayedRetry, DeadLetters],
    a_newer_version_handles_what_an_older_one_does_not_know [DelayedRetry, DeadLetters],
    a_retry_waits_for_its_handler [DelayedRetry],
    retries_concern_their_queue_only [DelayedRetry],
    events_of_a_handler_are_published_before_its_ack,
    a_handler_whose_events_are_refused_runs_again [DelayedRetry],
);

const SOON: Duration = Duration::from_millis(100);

/// What a message waits between attempts when the case is not about waits.
fn soon() -> RetryPolicy {
    RetryPolicy::fixed(SOON)
}

fn fails() -> Act {
    Act::fail("the bank is closed")
}

fn rejects(reason: &str) -> Act {
    Act::End(Outcome::Reject(reason.to_owned()))
}

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

/// From the end of one attempt to the begin of the next.
fn waited(one: &Seen, next: &Seen) -> Duration {
    next.at - one.ended.unwrap_or(one.at)
}

async fn a_retry_waits_for_its_delay(cx: Context) -> CaseResult {
    let delays = [1_500, 0, 300, 700].map(Duration::from_millis);
    let spec = with_waits(&cx, &delays)?;
    cx.declare(&[&spec]).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    for id in 0..4 {
        order(id).publish(cx.bus()).await?;
    }
    let held = consumer.take(4).await?;
    let begun = Instant::now();
    for delivery in &held {
        let delay = delays[number(delivery)];
        ensure_eq!(
            consumer.settle(retry(delivery, delay)).await?,
            Settled::Done,
            "settled"
        );
    }
    for _ in 0..4 {
        let delivery = consumer.next().await?;
        let (waited, delay) = (begun.elapsed(), delays[number(&delivery)]);
        ensure!(waited >= delay, "it came after {waited:?}, not {delay:?}");
        consumer.ack(&delivery).await?;
    }
    consumer.gets_nothing().await
}

async fn waits_are_exact(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    for delay in [0, 350, 1_130].map(Duration::from_millis) {
        order(7).publish(cx.bus()).await?;
        let delivery = consumer.next().await?;
        let begun = Instant::now();
        consumer.settle(retry(&delivery, delay)).await?;
        let again = consumer.next().await?;
        let waited = begun.elapsed();
        ensure!(waited >= delay, "it came after {waited:?}, not {delay:?}");
        let late = waited - delay;
        ensure!(late < Duration::from_secs(1), "it came {late:?} late");
        consumer.ack(&again).await?;
    }
    Ok(())
}

async fn waits_keep_their_own_order(cx: Context) -> CaseResult {
    let delays = [3, 2, 1].map(Duration::from_secs);
    let spec = with_waits(&cx, &delays)?;
    cx.declare(&[&spec]).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    for (id, delay) in (0..).zip(delays) {
        order(id).publish(cx.bus()).await?;
        let delivery = consumer.next().await?;
        consumer.settle(retry(&delivery, delay)).await?;
    }
    for expected in [2, 1, 0] {
        let delivery = consumer.next().await?;
        ensure_eq!(number(&delivery), expected, "the next that is due");
        consumer.ack(&delivery).await?;
    }
    Ok(())
}

/// A queue for the transport that was told which waits to expect.
fn with_waits(cx: &Context, waits: &[Duration]) -> CaseResult<QueueSpec> {
    let mut spec = cx.spec("billing_order", &["order.*.submit"])?;
    spec.retry_waits = waits.to_vec();
    spec.retry_waits.sort_unstable();
    Ok(spec)
}

fn number(delivery: &Delivery) -> usize {
    usize::try_from(crate::desk::number(delivery.message().payload())).unwrap_or(usize::MAX)
}

fn retry(delivery: &Delivery, delay: Duration) -> Settlement {
    Settlement::Retry {
        tag: delivery.tag(),
        message: Box::new(delivery.message().clone()),
        delay,
    }
}

async fn a_waiting_message_holds_no_place(cx: Context) -> CaseResult {
    let desk = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, 1) => fails(),
            _ => Act::DONE,
        });
    let queue = cx.queue("billing_order", &desk).concurrency(1).prefetch(1);
    let queue = queue.retry(RetryPolicy::fixed(Duration::from_secs(2)));
    let _running = cx.start(cx.bus(), queue).await?;
    order(1).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    for id in 2..=5 {
        order(id).publish(cx.bus()).await?;
    }
    desk.finishes(6).await?;
    ensure_eq!(desk.numbers().last(), Some(&1), "the last to be handled");
    Ok(())
}

async fn a_waiting_message_survives_a_crash(cx: Context) -> CaseResult {
    let wait = Duration::from_secs(2);
    let policy = || RetryPolicy::fixed(wait).attempts(3);
    let desk = cx.desk().failing(1);
    let process = cx.process().await?;
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let running = cx.start(&process, queue).await?;
    order(7).publish(cx.bus()).await?;
    let failed = desk.finishes(1).await?;
    cx.until("the failure to be settled", || async {
        Ok(process.counters().retried == 1)
    })
    .await?;
    drop(running);
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(1).await?;
    let waited = waited(&failed[0], &seen[0]);
    ensure!(waited >= wait, "it came after {waited:?}");
    ensure_eq!(seen[0].meta.attempt, 2, "attempt");
    ensure!(seen[0].meta.first_failure.is_some(), "no first failure");
    desk.sees_no_more_than_for(1, cx.beyond_the_lease()).await?;
    Ok(())
}

async fn the_copy_is_stored_before_the_original_is_removed(cx: Context) -> CaseResult {
    let spec = with_waits(&cx, &[SOON])?;
    cx.declare(&[&spec]).await?;
    for polls in 1..=4 {
        for dies in [false, true] {
            order(7).publish(cx.bus()).await?;
            let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
            let delivery = consumer.next().await?;
            let settlement = if dies {
                let (tag, message) = (delivery.tag(), Box::new(delivery.message().clone()));
                Settlement::DeadLetter { tag, message }
            } else {
                retry(&delivery, SOON)
            };
            given_up_after(polls, consumer.settle(settlement)).await;
            consumer.crash().await;
            // The original, the copy or both: at least one, wherever it is.
            let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
            tokio::select! {
                delivery = consumer.next() => {
                    consumer.ack(&delivery?).await?;
                }
                dead = cx.dead_letters("billing_order", 1) => {
                    dead?;
                    let letters = cx.bus().dead_letters("billing_order").await?;
                    letters.purge(Selection::All).await?;
                }
            }
            // The other one, if there are both.
            for delivery in consumer.rest().await? {
                consumer.ack(&delivery).await?;
            }
            consumer.stop().await?;
        }
    }
    Ok(())
}

/// Polls a future this often at most, then drops it.
async fn given_up_after<F: Future>(polls: usize, future: F) {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|cx| {
        left -= 1;
        if future.as_mut().poll(cx).is_ready() || left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Stores no copies while it is broken.
#[derive(Debug)]
struct NoCopies(Arc<Mutex<bool>>);

#[async_trait]
impl Intercept for NoCopies {
    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        let mut results = Vec::new();
        for settlement in settlements {
            let copies = matches!(
                settlement,
                Settlement::Retry { .. } | Settlement::DeadLetter { .. }
            );
            if copies && *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                let text = "the queue for copies is missing";
                results.push(Err(Error::retryable(ErrorKind::NotFound, text)));
            } else {
                results.extend(inner.settle(vec![settlement]).await);
            }
        }
        results
    }
}

async fn a_copy_that_cannot_be_stored_leaves_the_original(cx: Context) -> CaseResult {
    let broken = Arc::new(Mutex::new(true));
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, NoCopies(broken.clone())))
        .await?;
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => fails(),
        2 => rejects("no such customer"),
        _ => Act::DONE,
    });
    let queue = cx.queue("billing_order", &desk).retry(soon().attempts(2));
    let running = cx.start(&bus, queue).await?;
    for id in 1..=3 {
        order(id).publish(cx.bus()).await?;
    }
    // The others go on meanwhile, and what cannot be copied is tried again.
    let seen = desk
        .until("what could not be copied to come back", |seen| {
            (1..=2).all(|id| seen.iter().filter(|seen| seen.number() == id).count() >= 2)
                && seen.iter().any(|seen| seen.number() == 3)
        })
        .await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "an attempt was counted that was not stored"
    );
    *broken.lock().unwrap_or_else(PoisonError::into_inner) = false;
    let letters = cx.dead_letters("billing_order", 2).await?;
    ensure_eq!(letters.len(), 2, "dead letters");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
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

/// A queue bound to orders, without a handler.
fn bound(name: &str, cx: &Context) -> Queue {
    Queue::new(name)
        .bind("order", "order.*.submit")
        .lease(cx.lease())
}

/// A queue bound to orders, with these handlers in this order.
fn with_handlers<const N: usize>(cx: &Context, handlers: [(&'static str, &Desk); N]) -> Queue {
    handlers
        .into_iter()
        .fold(bound("billing_order", cx), |queue, (name, desk)| {
            queue.handle(desk.takes::<OrderSubmitted>()).named(name)
        })
}

async fn an_undecodable_payload_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    // Not JSON, not UTF-8, another type, and nothing at all.
    let payloads: [&'static [u8]; 4] = [b"{\"id\":", b"\xff\x00\xfe", b"{\"name\":\"anna\"}", b""];
    for payload in payloads {
        let event = raw("order", "order.v1.submit", payload)?;
        cx.bus().publish(&event).await?;
    }
    let letters = cx.dead_letters("billing_order", payloads.len()).await?;
    for payload in payloads {
        let letter = letters
            .iter()
            .find(|letter| letter.message().payload() == payload)
            .ok_or("a dead letter has other bytes")?;
        ensure_eq!(letter.reason(), Some(Reason::Undecodable), "reason");
        ensure_eq!(letter.attempts(), 1, "attempts");
        ensure_eq!(letter.handlers(), ["bill"], "handlers");
    }
    desk.sees_no_more_than(0).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// An order that follows a rule which no order keeps.
struct StrictOrder;

impl Event for StrictOrder {
    const ROUTES: &'static [RouteInfo] = OrderSubmitted::ROUTES;

    fn decode(delivery: &Delivery) -> Result<Self> {
        OrderSubmitted::decode(delivery)?;
        let text = "`lines` has 2 elements; at most 1 is allowed";
        Err(Error::new(ErrorKind::Invalid, text))
    }
}

async fn an_invalid_event_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let queue = bound("billing_order", &cx)
        .handle(desk.takes::<StrictOrder>())
        .named("bill");
    let running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].reason(), Some(Reason::Invalid), "reason");
    let error = letters[0].error().unwrap_or_default();
    ensure!(error.contains("`lines`"), "error: {error}");
    desk.sees_no_more_than(0).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_missing_header_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let bill = move |_: OrderSubmitted, _: Header<Tenant>| {
        counted.fetch_add(1, SeqCst);
        async {}
    };
    let queue = bound("billing_order", &cx).handle(bill).named("bill");
    let running = cx.start(cx.bus(), queue).await?;
    order(1).publish(cx.bus()).await?;
    let unreadable = event_core::Bytes::from_static(b"\xff");
    order(2)
        .publish(cx.bus())
        .header("tenant", unreadable)
        .await?;
    order(3).publish(cx.bus()).header("tenant", "eu").await?;
    let letters = cx.dead_letters("billing_order", 2).await?;
    ensure_eq!(letters.len(), 2, "dead letters");
    for letter in &letters {
        ensure_eq!(letter.reason(), Some(Reason::Undecodable), "reason");
        let error = letter.error().unwrap_or_default();
        ensure!(error.contains("`tenant`"), "error: {error}");
    }
    cx.until("the one with the header to be handled", || async {
        Ok(runs.load(SeqCst) == 1)
    })
    .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// A queue that lets in all that concerns orders, and knows submitted ones only.
fn older(cx: &Context, desk: &Desk) -> Queue {
    Queue::new("billing_order")
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
    let both = || with_handlers(&cx, [("bill", &bill), ("pack", &pack)]).retry(soon().attempts(2));
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
    let queue = with_handlers(&cx, [("bill", &bill)]).retry(soon().attempts(2));
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

/// A queue for what the service publishes.
async fn billed(cx: &Context) -> CaseResult<crate::Consumer> {
    let mut spec = cx.spec("archive_billed", &[])?;
    let binding = event_core::Binding::new("billing", "billing.*.bill")?;
    spec.bindings.push(binding);
    cx.declare(&[&spec]).await?;
    cx.consume(&cx.process().await?, &spec).await
}

/// A queue whose handler returns an event.
fn billing(cx: &Context) -> Queue {
    let bill = |order: OrderSubmitted| async move { OrderBilled { id: order.id } };
    bound("billing_order", cx).handle(bill).named("bill")
}

/// The broker never answers one of the two.
#[derive(Debug)]
enum Silent {
    Publish,
    Settle,
}

#[async_trait]
impl Intercept for Silent {
    async fn publish(
        &self,
        inner: &dyn Transport,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        match self {
            Self::Publish => std::future::pending().await,
            Self::Settle => inner.publish(batch, deadline).await,
        }
    }

    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        match self {
            Self::Publish => inner.settle(settlements).await,
            Self::Settle => std::future::pending().await,
        }
    }
}

async fn events_of_a_handler_are_published_before_its_ack(cx: Context) -> CaseResult {
    let mut billed = billed(&cx).await?;
    let over = |silent| cx.process_over(|transport| Intercepted::around(transport, silent));

    // Published, and not acknowledged.
    let running = cx.start(&over(Silent::Settle).await?, billing(&cx)).await?;
    order(7).publish(cx.bus()).await?;
    let event = billed.next().await?;
    billed.ack(&event).await?;
    drop(running);
    // Not published, and so not acknowledged.
    let bus = over(Silent::Publish).await?;
    let begun = Arc::new(AtomicUsize::new(0));
    let bill = {
        let begun = begun.clone();
        move |order: OrderSubmitted| {
            begun.fetch_add(1, SeqCst);
            async move { OrderBilled { id: order.id } }
        }
    };
    let queue = bound("billing_order", &cx).handle(bill).named("bill");
    let running = cx.start(&bus, queue).await?;
    cx.until("the delivery to come back", || async {
        Ok(begun.load(SeqCst) > 0)
    })
    .await?;
    billed.gets_nothing().await?;
    ensure_eq!(bus.counters().handled, 0, "acknowledged");
    drop(running);
    // Both.
    let running = cx.start(&cx.process().await?, billing(&cx)).await?;
    let event = billed.next().await?;
    billed.ack(&event).await?;
    billed.gets_nothing_for(cx.beyond_the_lease()).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Refuses the first batches of what the handler returns.
#[derive(Debug)]
struct Refusing {
    left: AtomicUsize,
}

#[async_trait]
impl Intercept for Refusing {
    async fn publish(
        &self,
        inner: &dyn Transport,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(SeqCst, SeqCst, one_less).is_err() {
            return inner.publish(batch, deadline).await;
        }
        let refused = || Error::retryable(ErrorKind::Overloaded, "the queue is full");
        batch.iter().map(|_| Err(refused())).collect()
    }
}

async fn a_handler_whose_events_are_refused_runs_again(cx: Context) -> CaseResult {
    let mut billed = billed(&cx).await?;
    let left = AtomicUsize::new(2);
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, Refusing { left }))
        .await?;
    let attempts: Arc<Mutex<Vec<u32>>> = Arc::default();
    let noted = attempts.clone();
    let bill = move |order: OrderSubmitted, delivery: Delivery| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(delivery.attempt());
        async move { HandlerResult::Ok(vec![OrderBilled { id: order.id }]) }
    };
    let other = cx.desk();
    let queue = bound("billing_order", &cx)
        .handle(bill)
        .named("bill")
        .handle(other.takes::<OrderSubmitted>())
        .named("pack")
        .retry(soon());
    let running = cx.start(&bus, queue).await?;
    order(7).publish(cx.bus()).await?;
    let event = billed.next().await?;
    ensure_eq!(crate::desk::number(event.message().payload()), 7, "order");
    billed.ack(&event).await?;
    billed.gets_nothing().await?;
    let attempts = attempts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    ensure_eq!(attempts, [1, 2, 3], "attempts");
    ensure_eq!(other.seen().len(), 1, "runs of the other handler");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}
