//! What exists on a broker: exchanges, queues and the bindings between them.

use std::time::Duration;

use smol_str::SmolStr;

use crate::{
    error::{Error, ErrorKind, Result},
    name::{ExchangeName, QueueName},
    topic::Pattern,
};

/// Exchanges and queues to declare. Declaring only adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<ExchangeName>,
    /// The queues with their bindings.
    pub queues: Vec<QueueSpec>,
}

/// A binding: what is published to the exchange with a key that matches goes into the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Binding {
    /// The exchange.
    pub exchange: ExchangeName,
    /// The pattern of routing keys.
    pub pattern: Pattern,
}

impl Binding {
    /// A binding of texts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) when the exchange or the pattern is not legal.
    pub fn new(exchange: &str, pattern: &str) -> Result<Self> {
        let pattern =
            Pattern::new(pattern).map_err(|e| Error::new(ErrorKind::InvalidName, e.to_string()))?;
        Ok(Self {
            exchange: ExchangeName::new(exchange)?,
            pattern,
        })
    }
}

/// A queue as its service wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSpec {
    /// Its name. For an ephemeral subscription, a name for people; the backend makes a fresh one from it.
    pub name: QueueName,
    /// What goes into it.
    pub bindings: Vec<Binding>,
    /// Who it belongs to and how long it lives.
    pub kind: QueueKind,
    /// Whether messages of one partition key are handled strictly in order, across processes and retries.
    pub ordered: bool,
    /// How long the broker waits for a sign of life of a consumer before it gives its deliveries to another.
    pub lease: Duration,
    /// The most deliveries a consumer holds that are not settled.
    pub prefetch: usize,
    /// The most messages the queue holds; publishing to a full queue fails. Without a limit unless it is set.
    pub max_length: Option<u64>,
    /// The waits that the queue's retry policy uses, ascending, for backends that prepare one queue for each.
    pub retry_waits: Vec<Duration>,
    /// Who consumes, for the broker's lists of consumers.
    pub consumer: SmolStr,
}

/// Who a queue belongs to and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueKind {
    /// Ours, and kept until it is deleted.
    Durable,
    /// Declared by someone else: used as it is, nothing is declared.
    Existing,
    /// A broadcast to this process only, at most once, gone with the consumer.
    Ephemeral,
}

impl QueueSpec {
    /// A durable queue without bindings, with the defaults of the contract.
    pub fn new(name: QueueName) -> Self {
        Self {
            name,
            bindings: Vec::new(),
            kind: QueueKind::Durable,
            ordered: false,
            lease: Duration::from_secs(30),
            prefetch: 256,
            max_length: None,
            retry_waits: Vec::new(),
            consumer: SmolStr::default(),
        }
    }
}

/// Something to remove. What is not there counts as removed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// One binding of a queue.
    Binding {
        /// The queue.
        queue: QueueName,
        /// The binding.
        binding: Binding,
    },
    /// All bindings of a queue but these.
    OtherBindings {
        /// The queue.
        queue: QueueName,
        /// What stays.
        keep: Vec<Binding>,
    },
    /// A queue with what it holds and what is derived from it: waiting retries, dead letters.
    Queue(QueueName),
}
