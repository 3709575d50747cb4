//! The broker, as a test or an application holds it.

use std::{fmt, sync::Arc};

use event_core::Result;
use tokio::time::Duration;

use crate::{connection::Connection, faults::Faults, state::Shared, transport::MemoryTransport};

/// A broker in this process. Clones are handles of one broker.
///
/// ```
/// use event_memory::MemoryBroker;
///
/// let broker = MemoryBroker::new();
/// let (orders, billing) = (broker.connect(), broker.connect());
/// ```
#[derive(Clone, Default)]
pub struct MemoryBroker {
    pub(crate) shared: Arc<Shared>,
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same broker, which refuses payloads of more bytes than this. Without a limit unless it is set.
    pub fn with_max_message(self, bytes: usize) -> Self {
        self.shared.update(|state| state.max_message = Some(bytes));
        self
    }

    /// A connection of its own. Two of them behave as two processes.
    pub fn connect(&self) -> MemoryTransport {
        MemoryTransport::new(Connection::open(self.shared.clone()))
    }

    /// Lets things go wrong from now on, instead of what went wrong before; `None` ends it.
    pub fn set_faults(&self, faults: impl Into<Option<Faults>>) {
        let faults = faults.into();
        self.shared.update(|state| state.faults = faults);
    }

    /// Lets nothing go wrong any more.
    pub fn clear_faults(&self) {
        self.set_faults(None);
    }

    /// Cuts all connections, which connect again at once: what they hold comes back with one redelivery
    /// more and not as suspects, older tags are stale, and readers get `Revoked`, then deliveries of a new
    /// generation.
    pub fn disconnect_all(&self) {
        self.shared.update(|state| state.disconnect(None));
    }

    /// Takes the deliveries of a queue away from its consumers, as a rebalance does: each reader gets
    /// `Revoking`, and when it comes back or the grace has passed, what it still holds returns to the
    /// queue and it gets `Revoked`, then deliveries of a new generation.
    ///
    /// # Errors
    /// [`NotFound`](event_core::ErrorKind::NotFound) when there is no such queue.
    pub fn revoke(&self, queue: &str, grace: Duration) -> Result<()> {
        self.shared.update(|state| state.revoke(queue, grace))
    }

    /// Makes the broker unreachable, or reachable again. Meanwhile publishes wait until their deadline,
    /// readers wait, and everything else fails with a retryable error. What is held stays held.
    pub fn outage(&self, on: bool) {
        self.shared.update(|state| state.set_outage(on));
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("queues", &self.queues())
            .finish_non_exhaustive()
    }
}
