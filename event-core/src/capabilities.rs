//! What a backend can do, natively or not, and what it refuses.

use crate::error::{Error, ErrorKind, Result};

/// What a broker may or may not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// `mandatory`: an error when no queue is bound for a message.
    Mandatory,
    /// `Receipt::queues`: how many queues took a message.
    QueueCount,
    /// Retries that wait on the broker. A service is refused unless nothing in it waits:
    /// `RetryPolicy::never().unknown(Duration::ZERO)`.
    DelayedRetry,
    /// Waits of any length, and so jitter; without it they are rounded up to steps.
    ExactDelay,
    /// Dead letters: list, replay, purge.
    DeadLetters,
    /// `Queue::ordered`: strict order for each partition key, across processes and retries.
    Ordered,
    /// `Queue::ephemeral`: a broadcast to every process.
    Ephemeral,
    /// `Queue::existing`: a queue that someone else declared.
    Existing,
    /// `Queue::max_length`: a limit on what a queue holds.
    MaxLength,
    /// `Queue::unbind`: removing one binding.
    Unbind,
    /// `Topology::prune`: removing the bindings that are no longer declared.
    Prune,
    /// `Topology::delete_queue`: removing a queue with what is derived from it.
    DeleteQueue,
    /// Deliveries that may have killed their process run alone and are counted.
    Isolation,
    /// What a process gives back goes to others at once, while it goes on with what it has begun. Without it, what
    /// shares a partition with a running handler waits for that handler.
    HandOver,
}

impl Capability {
    /// All of them, in the order of the capability table.
    pub const ALL: [Self; 14] = [
        Self::Mandatory,
        Self::QueueCount,
        Self::DelayedRetry,
        Self::ExactDelay,
        Self::DeadLetters,
        Self::Ordered,
        Self::Ephemeral,
        Self::Existing,
        Self::MaxLength,
        Self::Unbind,
        Self::Prune,
        Self::DeleteQueue,
        Self::Isolation,
        Self::HandOver,
    ];

    /// Its name in the capability table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mandatory => "mandatory publish",
            Self::QueueCount => "number of queues in the receipt",
            Self::DelayedRetry => "delayed retry",
            Self::ExactDelay => "waits of any length",
            Self::DeadLetters => "dead letters: list, replay, purge",
            Self::Ordered => "strict order per partition key",
            Self::Ephemeral => "ephemeral subscription",
            Self::Existing => "queues declared by others",
            Self::MaxLength => "length limit",
            Self::Unbind => "remove a binding",
            Self::Prune => "prune bindings",
            Self::DeleteQueue => "delete a queue",
            Self::Isolation => "crash suspects run alone",
            Self::HandOver => "hand over while others run",
        }
    }
}

/// How a backend does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Support {
    /// The broker does it.
    Native,
    /// The backend does it with other means of the broker; the text says how.
    Emulated(&'static str),
    /// It cannot be done; the text says why.
    Refused(&'static str),
}

/// What one backend can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    backend: &'static str,
    support: [Support; Capability::ALL.len()],
}

impl Capabilities {
    /// A backend, by its plain name (`memory`), that does everything natively; then say what differs.
    pub const fn new(backend: &'static str) -> Self {
        Self {
            backend,
            support: [Support::Native; Capability::ALL.len()],
        }
    }

    /// The same with another support for one capability.
    pub const fn with(mut self, capability: Capability, support: Support) -> Self {
        self.support[capability as usize] = support;
        self
    }

    /// The backend's plain name.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// How the backend does it.
    pub fn support(&self, capability: Capability) -> Support {
        self.support[capability as usize]
    }

    /// Refuses what the backend cannot do.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], naming the option, what it was asked for (`of`) and the backend.
    pub fn require(&self, capability: Capability, option: &str, of: &str) -> Result<()> {
        match self.support(capability) {
            Support::Native | Support::Emulated(_) => Ok(()),
            Support::Refused(why) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`{option}` of {of} is not possible with the backend `{}`: {why}",
                    self.backend
                ),
            )),
        }
    }
}
