//! What happened on a bus, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What happened on a bus since it was opened. Read with [`Bus::counters`](crate::Bus::counters).
///
/// Counted when the broker has answered, so a moment after it can be seen on the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that the broker took responsibility for.
    pub published: u64,
    /// Messages that no queue was bound for, `mandatory` or not.
    pub unroutable: u64,
    /// Deliveries that all their handlers are done with.
    pub handled: u64,
    /// Deliveries that failed and wait for another attempt.
    pub retried: u64,
    /// Deliveries that became dead letters.
    pub dead_lettered: u64,
    /// Deliveries that were given back without an attempt.
    pub released: u64,
    /// Deliveries that wait because no handler here knows their key.
    pub skipped: u64,
    /// Deliveries that were settled too late, since the broker had given them to someone else; and those that
    /// failed on an ephemeral subscription, which keeps nothing.
    pub lost: u64,
}

macro_rules! tally {
    ($($name:ident),*) => {
        /// The counting side. Each is added to once for a batch.
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $(pub(crate) $name: AtomicU64),* }

        impl Tally {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

tally!(
    published,
    unroutable,
    handled,
    retried,
    dead_lettered,
    released,
    skipped,
    lost
);

/// Adds, unless there is nothing to add.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    if count != 0 {
        counter.fetch_add(count, Relaxed);
    }
}
