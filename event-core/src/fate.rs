//! What became of a delivery, in a word.

use std::sync::atomic::AtomicU64;

use crate::{counters::Tally, observe::End};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Handled,
    Retried,
    DeadLettered,
    /// No handler here knows it; it waits for one that does.
    Skipped,
    Released,
    /// It failed on an ephemeral subscription, which keeps nothing.
    Gone,
}

impl Fate {
    pub(crate) fn counter(self, tally: &Tally) -> &AtomicU64 {
        match self {
            Self::Handled => &tally.handled,
            Self::Retried => &tally.retried,
            Self::DeadLettered => &tally.dead_lettered,
            Self::Skipped => &tally.skipped,
            Self::Released => &tally.released,
            Self::Gone => &tally.lost,
        }
    }

    pub(crate) fn end(self) -> End {
        match self {
            Self::Handled => End::Ack,
            Self::Retried | Self::Skipped | Self::Released => End::Retry,
            Self::DeadLettered | Self::Gone => End::Reject,
        }
    }
}
