//! A message in the hands of a consumer, and what it decides about it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{context, message::Message};

/// A message that a queue gave to this consumer, to be settled once.
#[derive(Clone, Debug)]
pub struct Delivery {
    message: Message,
    tag: DeliveryTag,
    redeliveries: u32,
    suspect: bool,
}

/// Names a delivery to the backend that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryTag {
    /// The connection or assignment it belongs to. A tag of an older generation is stale and settles nothing.
    pub generation: u64,
    /// Ascending within its generation, in the order of delivery.
    pub number: u64,
}

impl Delivery {
    /// A delivery, as a backend makes it.
    pub fn new(message: Message, tag: DeliveryTag) -> Self {
        Self {
            message,
            tag,
            redeliveries: 0,
            suspect: false,
        }
    }

    /// The same delivery with the broker's own count of how often it was delivered before.
    pub fn with_redeliveries(mut self, count: u32) -> Self {
        self.redeliveries = count;
        self
    }

    /// The same delivery, suspected of having killed the process that held it. The framework runs it
    /// alone and calls [`Settle::isolate`](crate::Settle::isolate) first.
    pub fn with_suspicion(mut self, suspect: bool) -> Self {
        self.suspect = suspect;
        self
    }

    /// What was delivered.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The backend's name for it.
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// How often the broker delivered it before without seeing it settled. Neither failures nor releases of
    /// ours count; use [`attempt`](Self::attempt) for those.
    pub fn redeliveries(&self) -> u32 {
        self.redeliveries
    }

    /// Whether it may have killed the process that held it last.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Which attempt at handling this is, starting at 1.
    pub fn attempt(&self) -> u32 {
        context::attempt(self.message.headers())
    }

    /// When a handler first failed on it.
    pub fn first_failure(&self) -> Option<SystemTime> {
        context::time(self.message.headers(), context::FIRST_FAILURE)
    }

    /// The same delivery with what was inside of its message.
    pub(crate) fn with_message(&self, message: Message) -> Self {
        Self { message, ..*self }
    }

    pub(crate) fn message_mut(&mut self) -> &mut Message {
        &mut self.message
    }

    pub(crate) fn into_message(self) -> Message {
        self.message
    }
}

impl fmt::Display for DeliveryTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.generation, self.number)
    }
}

/// What becomes of a delivery.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// It is done: remove it.
    Ack(DeliveryTag),
    /// It was not handled: give it to the queue again, at its old place where the broker can.
    Release(DeliveryTag),
    /// It failed: store this copy in the same queue, to be delivered after the delay, then remove it. In an
    /// ordered queue, what has a partition key waits in the framework and does not come this way.
    Retry {
        /// The delivery.
        tag: DeliveryTag,
        /// The copy, with the state of its retries in headers.
        message: Box<Message>,
        /// How long the copy waits. A backend with fixed steps rounds up.
        delay: Duration,
    },
    /// It cannot be handled: store this copy among the queue's dead letters, then remove it.
    DeadLetter {
        /// The delivery.
        tag: DeliveryTag,
        /// The copy, with what happened in headers.
        message: Box<Message>,
    },
}

impl Settlement {
    /// The delivery it settles.
    pub fn tag(&self) -> DeliveryTag {
        match self {
            Self::Ack(tag)
            | Self::Release(tag)
            | Self::Retry { tag, .. }
            | Self::DeadLetter { tag, .. } => *tag,
        }
    }
}

/// How a settlement ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settled {
    /// The broker did it.
    Done,
    /// The delivery no longer belongs to this consumer (a lost lease, connection or assignment). Nothing
    /// was done; the broker delivers it again, here or elsewhere.
    Lost,
}
