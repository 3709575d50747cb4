//! The names of the keys. All keys of an exchange have its name in braces, so that a cluster keeps them together.

use event_core::ExchangeName;

/// The group of every stream: its consumers are the processes of the queue's service.
pub(crate) const GROUP: &str = "consumers";

/// Who holds what was given back, until somebody takes it.
pub(crate) const NOBODY: &str = "~";

/// What stands in braces in the keys that say what queues there are.
pub(crate) const REGISTRY: &str = "queues";

/// The names of an exchange's keys.
#[derive(Clone, Debug)]
pub(crate) struct ExchangeKeys {
    /// `prefix:{exchange}:`
    base: String,
    /// Another token after each change of the table.
    pub(crate) version: String,
    /// `queue pattern`, each once.
    pub(crate) bindings: String,
    /// The queues with their length limits.
    pub(crate) queues: String,
}

/// The names of the keys that a queue has for one of its exchanges.
#[derive(Clone, Debug)]
pub(crate) struct QueueKeys {
    pub(crate) stream: String,
    /// When retries are due, by their id.
    pub(crate) delayed: String,
    /// The retries themselves.
    pub(crate) waiting: String,
    /// The dead letters.
    pub(crate) dead: String,
    /// What may have killed its process, and how often it ran alone.
    pub(crate) suspects: String,
    /// The consumers that something was taken from.
    pub(crate) robbed: String,
    /// Who consumes an ordered queue.
    pub(crate) holder: String,
}

impl ExchangeKeys {
    pub(crate) fn new(prefix: &str, exchange: &str) -> Self {
        let base = format!("{prefix}:{{{exchange}}}:");
        let key = |name: &str| format!("{base}{name}");
        Self {
            version: key("version"),
            bindings: key("bindings"),
            queues: key("queues"),
            base,
        }
    }

    pub(crate) fn queue(&self, queue: &str) -> QueueKeys {
        let key = |kind: &str| format!("{}{kind}:{queue}", self.base);
        QueueKeys {
            stream: key("stream"),
            delayed: key("delayed"),
            waiting: key("waiting"),
            dead: key("dead"),
            suspects: key("suspects"),
            robbed: key("robbed"),
            holder: key("holder"),
        }
    }

    /// Where a queue's messages go: a stream, or the channel of an ephemeral subscription.
    pub(crate) fn target(&self, queue: &str) -> String {
        if is_ephemeral(queue) {
            format!("{}channel:{queue}", self.base)
        } else {
            format!("{}stream:{queue}", self.base)
        }
    }
}

impl QueueKeys {
    pub(crate) fn all(&self) -> [&str; 7] {
        [
            &self.stream,
            &self.delayed,
            &self.waiting,
            &self.dead,
            &self.suspects,
            &self.robbed,
            &self.holder,
        ]
    }
}

/// What a queue was declared with, and its exchanges.
pub(crate) fn queue(prefix: &str, queue: &str) -> String {
    format!("{prefix}:{{{REGISTRY}}}:queue:{queue}")
}

/// The field of the bindings.
pub(crate) fn binding(queue: &str, pattern: &str) -> String {
    // Names have no spaces.
    format!("{queue} {pattern}")
}

/// The field of a queue that is being deleted: it does not exist any more, though some of its keys do.
pub(crate) const DELETING: &str = "deleting";

/// The field of a queue's exchange.
pub(crate) fn exchange_field(exchange: &ExchangeName) -> String {
    format!("exchange:{exchange}")
}

/// The exchange that a field is about, if it is about one.
pub(crate) fn exchange_of(field: &str) -> Option<&str> {
    field.strip_prefix("exchange:")
}

/// The name among the queues for an ephemeral subscription; no queue's own name begins so.
pub(crate) fn ephemeral(name: &str) -> String {
    format!("{NOBODY}{name}")
}

pub(crate) fn is_ephemeral(queue: &str) -> bool {
    queue.starts_with(NOBODY)
}
