//! What is on its way, and what becomes of it when the server confirms, refuses or returns it.

use std::collections::{HashMap, VecDeque};

use event_core::{Error, ErrorKind, Message, Receipt};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::Confirmation;
use tokio::time::Instant;

use super::{Outbound, Pending};
use crate::{error, wire::Returned};

/// What is on its way on one channel, by number, in order.
#[derive(Default)]
pub(super) struct Flights {
    first: u64,
    pending: VecDeque<Option<Pending>>,
    pub(super) open: usize,
    /// What the server returned, and was not yet told to whoever published it.
    returned: HashMap<Returned, u32>,
}

impl Flights {
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.pending.len() as u64
    }

    pub(super) fn push(&mut self, pending: Pending) {
        self.pending.push_back(Some(pending));
        self.open += 1;
    }

    /// When the caller of the oldest has given up.
    pub(super) fn oldest_deadline(&self) -> Option<Instant> {
        let oldest = self.pending.front()?.as_ref()?;
        Some(oldest.order.deadline())
    }

    fn take(&mut self, number: u64) -> Option<Pending> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let pending = self.pending.get_mut(at)?.take()?;
        self.open -= 1;
        while let Some(None) = self.pending.front() {
            self.pending.pop_front();
            self.first += 1;
        }
        Some(pending)
    }

    pub(super) fn take_in(
        &mut self,
        number: u64,
        confirm: lapin::Result<Confirmation>,
        seen: &mut Vec<(u64, bool)>,
        failed: &mut Option<lapin::Error>,
    ) {
        match confirm {
            Ok(confirmation) => {
                seen.push((number, confirmation.is_ack()));
                if let Some(returned) = confirmation.take_message() {
                    *self.returned.entry(Returned::read(&returned)).or_default() += 1;
                }
            }
            // It stays on its way. What the server said is worth more than that the channel is closed.
            Err(error) => {
                if failed
                    .as_ref()
                    .is_none_or(|known| error::refusal(known).is_none())
                {
                    *failed = Some(error);
                }
            }
        }
    }

    pub(super) fn take_in_ready<F>(
        &mut self,
        confirms: &mut FuturesUnordered<F>,
        seen: &mut Vec<(u64, bool)>,
        failed: &mut Option<lapin::Error>,
    ) where
        F: Future<Output = (u64, lapin::Result<Confirmation>)>,
    {
        while let Some(Some((number, confirm))) = confirms.next().now_or_never() {
            self.take_in(number, confirm, seen, failed);
        }
    }

    pub(super) fn answer(&mut self, number: u64, acked: bool) {
        let Some(Pending { order, .. }) = self.take(number) else {
            return;
        };
        let outbound = order.item();
        let message = &outbound.message;
        let result = if !acked {
            Err(overloaded(outbound))
        } else if self.was_returned(outbound) {
            if outbound.copy.is_some() {
                Err(missing_target(outbound))
            } else if message.is_mandatory() {
                Err(unroutable(message))
            } else {
                Ok(Receipt::new(message.id().clone(), Some(0)))
            }
        } else {
            Ok(Receipt::new(message.id().clone(), None))
        };
        order.finish(result);
    }

    fn was_returned(&mut self, outbound: &Outbound) -> bool {
        if self.returned.is_empty() {
            return false;
        }
        let (exchange, key) = outbound.route();
        let name = Returned::of(&outbound.message, exchange, key);
        let Some(count) = self.returned.get_mut(&name) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&name);
        }
        true
    }

    pub(super) fn into_unanswered(self) -> Vec<Pending> {
        self.pending.into_iter().flatten().collect()
    }
}

fn unroutable(message: &Message) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "no queue is bound to exchange `{}` for the key `{}`; declare the queue first or publish without \
             `mandatory`",
            message.exchange(),
            message.key()
        ),
    )
}

fn missing_target(outbound: &Outbound) -> Error {
    let (_, queue) = outbound.route();
    Error::retryable(
        ErrorKind::NotFound,
        format!(
            "queue `{queue}` does not exist, and a copy has to be stored in it; declare it again"
        ),
    )
}

fn overloaded(outbound: &Outbound) -> Error {
    let what = match &outbound.copy {
        Some((queue, _)) => format!("queue `{queue}`"),
        None => format!(
            "a queue that is bound to exchange `{}` for the key `{}`",
            outbound.message.exchange(),
            outbound.message.key()
        ),
    };
    Error::retryable(
        ErrorKind::Overloaded,
        format!(
            "{what} refused the message: it is full (`max_length`), or could not store it; try again when its \
             consumers have caught up"
        ),
    )
}
