//! What the broker says when it refuses.

use event_core::{DeliveryTag, Error, ErrorKind, Message};

use crate::queue::Arguments;

pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection to the memory broker was closed; connect again",
    )
}

pub(crate) fn outage() -> Error {
    Error::retryable(
        ErrorKind::Connection,
        "the memory broker cannot be reached: a test has it in an outage",
    )
}

pub(crate) fn disconnected() -> Error {
    Error::retryable(
        ErrorKind::Connection,
        "the connection was lost on the way: a fault that a test asked for",
    )
}

pub(crate) fn refused() -> Error {
    Error::retryable(
        ErrorKind::Connection,
        "the publish did not arrive: a fault that a test asked for",
    )
}

pub(crate) fn confirm_lost() -> Error {
    Error::retryable(
        ErrorKind::Connection,
        "the confirmation was lost: a fault that a test asked for",
    )
}

pub(crate) fn ack_lost(tag: DeliveryTag) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!(
            "the settlement of delivery {tag} was lost on its way: a fault that a test asked for"
        ),
    )
}

pub(crate) fn deadline() -> Error {
    Error::retryable(
        ErrorKind::Timeout,
        "the deadline passed before the memory broker took the message",
    )
}

pub(crate) fn too_large(message: &Message, limit: usize) -> Error {
    let text = format!(
        "message `{}` to exchange `{}` has {} bytes; this broker takes at most {limit}",
        message.key(),
        message.exchange(),
        message.payload().len(),
    );
    Error::new(ErrorKind::TooLarge, text)
}

pub(crate) fn unroutable(message: &Message) -> Error {
    let text = format!(
        "no queue is bound to exchange `{}` for the key `{}`; declare the queue first or publish without `mandatory`",
        message.exchange(),
        message.key(),
    );
    Error::new(ErrorKind::Unroutable, text)
}

pub(crate) fn full(queue: &str, limit: u64) -> Error {
    Error::retryable(
        ErrorKind::Overloaded,
        format!(
            "queue `{queue}` is full ({limit} messages); try again when its consumers have caught up"
        ),
    )
}

pub(crate) fn no_queue(queue: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "queue `{queue}` does not exist; start the service that declares it first, or check the name"
        ),
    )
}

pub(crate) fn deleted(queue: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("queue `{queue}` was deleted; declare it again and consume it anew"),
    )
}

pub(crate) fn no_delivery(tag: DeliveryTag) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("delivery {tag} no longer belongs to this consumer"),
    )
}

pub(crate) fn no_dead_letter(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("`{id}` is not the id of a dead letter of the memory broker"),
    )
}

pub(crate) fn mismatch(queue: &str, is: Arguments, asked: Arguments) -> Error {
    let mut differences = Vec::new();
    if is.ordered != asked.ordered {
        differences.push(format!("ordered: {} → {}", is.ordered, asked.ordered));
    }
    if is.max_length != asked.max_length {
        let text = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
        differences.push(format!(
            "max_length: {} → {}",
            text(is.max_length),
            text(asked.max_length)
        ));
    }
    let differences = differences.join(", ");
    Error::new(
        ErrorKind::Mismatch,
        format!(
            "queue `{queue}` exists with other arguments ({differences}); delete it or declare it as it is"
        ),
    )
}
