//! Records of topics of ours, and the answers to them.

use event_core::{Bytes, Message};
use rdkafka::{error::RDKafkaErrorCode as Code, message::OwnedHeaders};
use smol_str::SmolStr;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::wire;

/// A record for a topic of ours.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) topic: SmolStr,
    pub(crate) key: Option<SmolStr>,
    /// Nothing takes back what was stored under the key before.
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Option<OwnedHeaders>,
}

impl Record {
    /// A copy of a message, for a topic of its queue that is named later.
    pub(crate) fn copy(message: &Message, key: Option<SmolStr>) -> Self {
        Self {
            topic: SmolStr::default(),
            key,
            value: Some(message.payload().clone()),
            headers: Some(wire::copy_headers(message)),
        }
    }
}

/// The answer to a record: its offset.
pub(super) type Answer = oneshot::Sender<Result<i64, Code>>;

/// Where the answer to a record arrives.
pub(crate) type Answered = oneshot::Receiver<Result<i64, Code>>;

/// The answer to a record; nothing when there is none at the deadline.
pub(crate) async fn answer(
    answered: &mut Answered,
    deadline: Instant,
) -> Option<Result<i64, Code>> {
    match timeout_at(deadline, answered).await {
        Ok(Ok(result)) => Some(result),
        Ok(Err(_)) => Some(Err(Code::PurgeQueue)),
        Err(_) => None,
    }
}
