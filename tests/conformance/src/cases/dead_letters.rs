//! 6. Dead letters.

mod kept;
mod replay;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use event_core::{DeadLetter, Outcome, RetryPolicy};

use crate::{Act, Case, CaseResult, Context, Desk, orders::order};

pub(crate) fn cases() -> Vec<Case> {
    [kept::cases(), replay::cases()].concat()
}

/// The queue of every case but one.
const QUEUE: &str = "billing_order";

fn rejects() -> Act {
    Act::End(Outcome::Reject("no such customer".to_owned()))
}

/// Rejects whatever it gets the first time, and is done with what comes again.
fn rejecting_once(cx: &Context) -> Desk {
    let known: Mutex<BTreeSet<u64>> = Mutex::default();
    cx.desk().doing(move |seen| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(seen.number()) {
            rejects()
        } else {
            Act::DONE
        }
    })
}

fn soon() -> RetryPolicy {
    RetryPolicy::fixed(Duration::from_millis(100))
}

fn number(letter: &DeadLetter) -> u64 {
    crate::desk::number(letter.message().payload())
}

/// Makes dead letters of orders with these numbers, one after the other.
async fn bury(cx: &Context, ids: impl IntoIterator<Item = u64>) -> CaseResult<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for (id, count) in ids.into_iter().zip(1..) {
        order(id).publish(cx.bus()).await?;
        letters = cx.dead_letters(QUEUE, count).await?;
    }
    Ok(letters)
}
