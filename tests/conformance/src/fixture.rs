//! What a backend gives the suite: connections, and faults if it can make them.

use std::sync::Arc;

use async_trait::async_trait;
use event_core::{Result, Transport};

/// A broker to try one case on. A backend's test target implements it and hands it to
/// [`Setup`](crate::Setup).
///
/// Several cases run at the same time. They may share a broker, since each uses names of its own; a fault
/// may concern only the connections that this fixture made.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// A connection of its own, as another process would have it.
    ///
    /// # Errors
    /// The broker cannot be reached, which fails the case.
    async fn connect(&self) -> Result<Arc<dyn Transport>>;

    /// The largest payload that the broker takes, if it is set so that a case may exceed it.
    fn max_message(&self) -> Option<usize> {
        None
    }

    /// Cuts every connection that this fixture made, without ending their transports: they connect again by
    /// themselves.
    ///
    /// # Errors
    /// This fixture cannot do it; the cases that need it count as not tried.
    async fn disconnect(&self) -> Result<(), Impossible> {
        Err(Impossible("this fixture cannot cut connections"))
    }

    /// Makes the broker silent, or lets it answer again, for every connection that this fixture made.
    ///
    /// # Errors
    /// This fixture cannot do it; the cases that need it count as not tried.
    async fn outage(&self, _on: bool) -> Result<(), Impossible> {
        Err(Impossible("this fixture cannot make the broker silent"))
    }
}

/// A fault that a fixture cannot make, and why.
#[derive(Clone, Copy, Debug)]
pub struct Impossible(pub &'static str);
