//! 5. Failure.

mod attempts;
mod copies;
mod events;
mod handlers;
mod unknown;
mod unusable;
mod waits;

use std::time::Duration;

use event_core::{Delivery, Outcome, Queue, QueueSpec, RetryPolicy, Settlement};

use crate::{Act, Case, CaseResult, Context, Desk, Seen, orders::OrderSubmitted};

pub(crate) fn cases() -> Vec<Case> {
    [
        attempts::cases(),
        waits::cases(),
        copies::cases(),
        handlers::cases(),
        unusable::cases(),
        unknown::cases(),
        events::cases(),
    ]
    .concat()
}

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

/// From the end of one attempt to the begin of the next.
fn waited(one: &Seen, next: &Seen) -> Duration {
    next.at - one.ended.unwrap_or(one.at)
}

/// A queue bound to orders, without a handler.
fn bound(name: &str, cx: &Context) -> Queue {
    cx.new_queue(name)
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

/// A queue for the transport that was told which waits to expect.
fn with_waits(cx: &Context, waits: &[Duration]) -> CaseResult<QueueSpec> {
    let mut spec = cx.spec("billing_order", &["order.*.submit"])?;
    spec.retry_waits = waits.to_vec();
    spec.retry_waits.sort_unstable();
    Ok(spec)
}

fn retry(delivery: &Delivery, delay: Duration) -> Settlement {
    Settlement::Retry {
        tag: delivery.tag(),
        message: Box::new(delivery.message().clone()),
        delay,
    }
}
