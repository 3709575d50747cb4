//! What follows from how the handlers of a delivery ended: one settlement.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;

use crate::{
    context::{self, Rejection},
    dead_letter::Reason,
    delivery::{Delivery, Settlement},
    error::{Error, ErrorKind},
    fate::Fate,
    outcome::{Outcome, Verdict},
    retry::RetryPolicy,
};

/// The longest error text that is kept with a message. Brokers limit the size of all headers together.
const LONGEST_ERROR: usize = 2_000;

/// A delivery whose handlers have all ended, and whose events were published.
pub(crate) struct Ended {
    pub(crate) delivery: Delivery,
    /// Which attempt it was, runs alone that ended in a crash included.
    pub(crate) attempt: u32,
    /// The handlers that did not simply end well, in order.
    pub(crate) failures: Vec<(SmolStr, Verdict)>,
    /// Handlers that the message still waits for and that this process does not have. `None` when it
    /// waits for none; empty when no handler here takes its key.
    pub(crate) missing: Option<Vec<SmolStr>>,
    /// Whether it killed its process as often as it may be tried.
    pub(crate) crashed: bool,
}

/// What becomes of a delivery, before it is settled.
#[derive(Debug)]
pub(crate) struct Conclusion {
    pub(crate) fate: Fate,
    pub(crate) error: Option<String>,
    pub(crate) settlement: Settlement,
}

/// Who concludes.
pub(crate) struct Concluding<'a> {
    pub(crate) policy: &'a RetryPolicy,
    pub(crate) consumer: &'a str,
    pub(crate) now: SystemTime,
}

/// What the handlers' verdicts come to.
#[derive(Default)]
struct Tally {
    /// Handlers to run again.
    again: Vec<SmolStr>,
    /// The earliest time that one of them asked for, or the policy gives.
    wait: Option<Duration>,
    rejections: Vec<Rejection>,
    error: Option<String>,
}

impl Concluding<'_> {
    pub(crate) fn conclude(&self, ended: Ended) -> Conclusion {
        let Ended {
            delivery,
            attempt,
            failures,
            missing,
            crashed,
        } = ended;
        let tag = delivery.tag();
        let mut message = delivery.into_message();
        let mut tally = Tally {
            rejections: context::rejections(message.headers()),
            ..Tally::default()
        };
        for (handler, verdict) in failures {
            self.count(&mut tally, handler, verdict, attempt);
        }
        if crashed {
            // Those that were done before are not run again by a replay either.
            let left = context::handlers_left(message.headers());
            for handler in left.unwrap_or_else(|| vec![SmolStr::default()]) {
                let text = format!("the process ended {attempt} times while handling it");
                tally.reject(handler, Reason::Crashed, text);
            }
        }
        let failed = tally.error.is_some();
        if failed {
            if context::time(message.headers(), context::FIRST_FAILURE).is_none() {
                context::set_time(&mut message, context::FIRST_FAILURE, self.now);
            }
            context::set_time(&mut message, context::LAST_FAILURE, self.now);
        }
        let error = tally.error.take();
        if let Some(text) = &error {
            context::set(&mut message, context::ERROR, text);
        }

        if let Some(wait) = tally.wait {
            tally.again.extend(missing.into_iter().flatten());
            context::set(&mut message, context::ATTEMPT, attempt + 1);
            context::set_handlers(&mut message, &tally.again);
            context::set_rejections(&mut message, &tally.rejections);
            let settlement = Settlement::Retry {
                tag,
                message: Box::new(message),
                delay: wait,
            };
            return Conclusion {
                fate: Fate::Retried,
                error,
                settlement,
            };
        }

        if let Some(missing) = missing.filter(|_| !crashed) {
            let tries = context::number(message.headers(), context::UNKNOWN_TRIES).unwrap_or(0);
            let waited = context::unknown_waited(message.headers());
            if waited < self.policy.unknown_limit() {
                let wait =
                    RetryPolicy::unknown_wait(tries).min(self.policy.unknown_limit() - waited);
                context::set(
                    &mut message,
                    context::UNKNOWN_TRIES,
                    tries.saturating_add(1),
                );
                context::set(
                    &mut message,
                    context::UNKNOWN_WAITED,
                    (waited + wait).as_millis(),
                );
                context::set_rejections(&mut message, &tally.rejections);
                if !missing.is_empty() {
                    context::set_handlers(&mut message, &missing);
                }
                let settlement = Settlement::Retry {
                    tag,
                    message: Box::new(message),
                    delay: wait,
                };
                return Conclusion {
                    fate: Fate::Skipped,
                    error,
                    settlement,
                };
            }
            let text = format!(
                "no handler here knows it, and it has waited {} s for one that does",
                waited.as_secs()
            );
            let names = if missing.is_empty() {
                vec![SmolStr::default()]
            } else {
                missing
            };
            for name in names {
                tally.reject(name, Reason::Unknown, text.clone());
            }
            context::set(&mut message, context::ERROR, text);
            context::set_time(&mut message, context::LAST_FAILURE, self.now);
        }

        if tally.rejections.is_empty() {
            return Conclusion {
                fate: Fate::Handled,
                error,
                settlement: Settlement::Ack(tag),
            };
        }
        let names: Vec<_> = tally
            .rejections
            .iter()
            .map(|rejection| rejection.handler.clone())
            .filter(|name| !name.is_empty())
            .collect();
        // The last one is what ended it; all of them stand in the header.
        if let Some(last) = tally.rejections.last() {
            context::set(&mut message, context::REASON, &last.reason);
            context::set(&mut message, context::ERROR, &last.error);
        }
        context::set(&mut message, context::ATTEMPT, attempt);
        context::set(&mut message, context::CONSUMER, self.consumer);
        context::set_rejections(&mut message, &tally.rejections);
        if names.is_empty() {
            message.headers_mut().remove(context::HANDLERS);
        } else {
            context::set_handlers(&mut message, &names);
        }
        let error = tally
            .rejections
            .last()
            .map(|rejection| rejection.error.clone());
        let settlement = Settlement::DeadLetter {
            tag,
            message: Box::new(message),
        };
        Conclusion {
            fate: Fate::DeadLettered,
            error,
            settlement,
        }
    }

    fn count(&self, tally: &mut Tally, handler: SmolStr, verdict: Verdict, attempt: u32) {
        let mut text = shorten(
            verdict
                .error()
                .unwrap_or_else(|| "the handler asked for another attempt".to_owned()),
        );
        match self.decide(verdict, &mut text) {
            Verdict::Done => {}
            Verdict::Failed { after, .. } => match self.policy.wait_after(attempt) {
                Some(wait) => {
                    let wait = after.unwrap_or(wait);
                    tally.wait = Some(tally.wait.map_or(wait, |earlier| earlier.min(wait)));
                    tally.again.push(handler);
                    tally.error = Some(text);
                }
                None => tally.reject(handler, Reason::Exhausted, text),
            },
            Verdict::Rejected { .. } => tally.reject(handler, Reason::Rejected, text),
            Verdict::Unusable(error) => tally.reject(handler, unusable(&error), text),
        }
    }

    /// Lets the queue's policy decide where the handler did not. A reason of its own stands before the error.
    fn decide(&self, verdict: Verdict, text: &mut String) -> Verdict {
        let Verdict::Failed {
            after: None,
            error: Some(error),
        } = verdict
        else {
            return verdict;
        };
        // It runs in the settler, which must go on: a decision that panics is none.
        let decided = catch_unwind(AssertUnwindSafe(|| self.policy.decide(&error)));
        match decided.unwrap_or(Outcome::Retry) {
            Outcome::Ack => Verdict::Done,
            Outcome::Retry => Verdict::Failed {
                after: None,
                error: Some(error),
            },
            Outcome::RetryAfter(delay) => Verdict::Failed {
                after: Some(delay),
                error: Some(error),
            },
            Outcome::Reject(reason) => {
                text.insert_str(0, &format!("{reason}: "));
                Verdict::Rejected { error }
            }
        }
    }
}

impl Tally {
    fn reject(&mut self, handler: SmolStr, reason: Reason, error: String) {
        self.error = Some(error.clone());
        self.rejections.push(Rejection {
            handler,
            reason: reason.as_str().into(),
            error,
        });
    }
}

fn unusable(error: &Error) -> Reason {
    if error.kind() == ErrorKind::Invalid {
        Reason::Invalid
    } else {
        Reason::Undecodable
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > LONGEST_ERROR {
        let end = (0..=LONGEST_ERROR)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
