//! Watching what becomes of deliveries, for logs and tests.

use std::{sync::Arc, time::Duration};

use crate::delivery::Delivery;

/// Called once for each delivery, before it is settled.
pub(crate) type Observer = Arc<dyn Fn(&Observed<'_>) + Send + Sync>;

/// What became of a delivery. Given to [`Service::inspect`](crate::Service::inspect).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Observed<'a> {
    /// The name of the service.
    pub service: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// The delivery as it came.
    pub delivery: &'a Delivery,
    /// What is about to happen to it.
    pub end: End,
    /// Which attempt it was, starting at 1.
    pub attempt: u32,
    /// What went wrong, in one line with its causes.
    pub error: Option<&'a str>,
    /// How long its handlers took together; nothing when none ran.
    pub elapsed: Option<Duration>,
}

/// What is about to happen to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// It is done.
    Ack,
    /// It waits for another attempt, or for a handler that knows it.
    Retry,
    /// It becomes a dead letter.
    Reject,
}
