//! Dead letters: what could not be handled, with the reason, and the handle to list, replay and purge.

use std::{fmt, time::SystemTime};

use smol_str::SmolStr;

use crate::{
    bus::Bus, capabilities::Capability, context, error::Result, message::Message, name::QueueName,
    transport::DeadLetters,
};

/// A message that could not be handled, as its queue keeps it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    id: DeadLetterId,
    message: Message,
}

/// Names a dead letter within its queue.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId(SmolStr);

impl DeadLetterId {
    /// An id as a backend writes it.
    pub fn new(text: impl Into<SmolStr>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A handler rejected it, or failed with a permanent error.
    Rejected,
    /// Every allowed attempt failed.
    Exhausted,
    /// The payload or a header does not decode.
    Undecodable,
    /// It decodes and breaks the rules of its type.
    Invalid,
    /// No handler that knows its key appeared in the time that the queue allows.
    Unknown,
    /// It ended the process that handled it, as often as it may be tried.
    Crashed,
}

impl Reason {
    /// Its word in the header `switchboard-reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Undecodable => "undecodable",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::Crashed => "crashed",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [
            Self::Rejected,
            Self::Exhausted,
            Self::Undecodable,
            Self::Invalid,
            Self::Unknown,
            Self::Crashed,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl DeadLetter {
    /// A dead letter, as a backend lists it.
    pub fn new(id: DeadLetterId, message: Message) -> Self {
        Self { id, message }
    }

    /// Its id in the queue's dead letters.
    pub fn id(&self) -> &DeadLetterId {
        &self.id
    }

    /// The message with its bytes, address and headers.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Why it is here; nothing when another program put it here.
    pub fn reason(&self) -> Option<Reason> {
        Reason::parse(self.message.headers().text(context::REASON)?)
    }

    /// How often its handlers were tried.
    pub fn attempts(&self) -> u32 {
        context::attempt(self.message.headers())
    }

    /// What went wrong last.
    pub fn error(&self) -> Option<&str> {
        self.message.headers().text(context::ERROR)
    }

    /// The handlers that did not handle it. Replaying runs only these.
    pub fn handlers(&self) -> Vec<SmolStr> {
        context::handlers_left(self.message.headers()).unwrap_or_default()
    }

    /// When a handler first failed on it.
    pub fn first_failure(&self) -> Option<SystemTime> {
        context::time(self.message.headers(), context::FIRST_FAILURE)
    }

    /// When it became a dead letter.
    pub fn last_failure(&self) -> Option<SystemTime> {
        context::time(self.message.headers(), context::LAST_FAILURE)
    }

    /// Which service gave it up.
    pub fn consumer(&self) -> Option<&str> {
        self.message.headers().text(context::CONSUMER)
    }

    /// The message for another round of attempts: for a backend's
    /// [`DeadLetters::replay`](crate::DeadLetters::replay).
    pub fn into_replay(self) -> Message {
        let mut message = self.message;
        context::forget(&mut message);
        message
    }
}

/// Which dead letters an operation concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that the queue has when the operation begins.
    All,
    /// These; an id that is not there is passed over.
    Ids(Vec<DeadLetterId>),
}

impl FromIterator<DeadLetterId> for Selection {
    fn from_iter<I: IntoIterator<Item = DeadLetterId>>(ids: I) -> Self {
        Self::Ids(ids.into_iter().collect())
    }
}

impl From<&DeadLetter> for Selection {
    fn from(letter: &DeadLetter) -> Self {
        Self::Ids(vec![letter.id.clone()])
    }
}

/// The dead letters of one queue: list, replay, purge. Made by [`Bus::dead_letters`].
#[derive(Debug)]
pub struct DeadLetterQueue {
    letters: Box<dyn DeadLetters>,
}

impl DeadLetterQueue {
    pub(crate) async fn open(bus: &Bus, queue: &str) -> Result<Self> {
        let queue = QueueName::new(queue)?;
        let of = format!("queue `{queue}`");
        bus.capabilities()
            .require(Capability::DeadLetters, "dead_letters", &of)?;
        Ok(Self {
            letters: bus.transport().dead_letters(&queue).await?,
        })
    }

    /// The first dead letters, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The broker did not answer.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        self.letters.list(None, limit).await
    }

    /// The dead letters after this one, at most `limit`.
    ///
    /// # Errors
    /// The broker did not answer.
    pub async fn list_after(&self, after: &DeadLetterId, limit: usize) -> Result<Vec<DeadLetter>> {
        self.letters.list(Some(after), limit).await
    }

    /// Puts dead letters back into their queue for a new round of attempts, by the handlers that did not
    /// handle them. Answers how many.
    ///
    /// # Errors
    /// Some may have been replayed; none was lost.
    pub async fn replay(&self, selection: impl Into<Selection>) -> Result<u64> {
        self.letters.replay(&selection.into()).await
    }

    /// Removes dead letters for good. Answers how many.
    ///
    /// # Errors
    /// Some may have been removed.
    pub async fn purge(&self, selection: impl Into<Selection>) -> Result<u64> {
        self.letters.purge(&selection.into()).await
    }
}
