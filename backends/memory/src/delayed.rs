//! A retry that waits for its time.

use std::cmp::Ordering;

use event_core::Message;
use tokio::time::Instant;

use crate::messages::Place;

/// Orders by due time, then by the order of the settlements.
#[derive(Debug)]
pub(crate) struct Delayed {
    pub(crate) due: Instant,
    /// Unique in its queue.
    pub(crate) order: u64,
    /// Where it goes back to; the end of the queue if nowhere.
    pub(crate) place: Option<Place>,
    pub(crate) message: Message,
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed {}
