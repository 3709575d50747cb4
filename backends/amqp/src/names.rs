//! The names of what is derived from a queue.

use std::{collections::BTreeSet, time::Duration};

use event_core::retry_step;

/// How long what runs alone stays in probation when nobody holds it, before it goes back into its queue: longer
/// than it takes to store it there and to take it again.
pub(crate) const PROBATION_MILLIS: u64 = 2_000;

/// The steps that these waits need.
pub(crate) fn steps(waits: &[Duration]) -> BTreeSet<u64> {
    waits.iter().filter_map(|wait| retry_step(*wait)).collect()
}

/// Where retries of a queue wait for this long.
pub(crate) fn retry(queue: &str, step: u64) -> String {
    format!("{queue}.retry.{step}")
}

/// Its dead letters.
pub(crate) fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

/// What may have killed a process, while it runs alone.
pub(crate) fn probation(queue: &str) -> String {
    format!("{queue}.probation")
}
