//! What lapin and the server say, as errors of the library: with a kind, and with what to do about it.

use std::{error::Error as StdError, fmt, io};

use event_core::{Error, ErrorKind};
use lapin::{
    ErrorKind as Lapin,
    protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

use crate::url::Endpoints;

/// Marks a failed handshake on its way through lapin's errors.
#[derive(Debug)]
pub(crate) struct TlsFailed(pub(crate) io::Error);

impl fmt::Display for TlsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for TlsFailed {}

/// The error of an attempt to connect.
pub(crate) fn connecting(endpoints: &Endpoints, at: usize, error: lapin::Error) -> Error {
    let host = endpoints.host(at);
    match error.kind() {
        Lapin::ProtocolError(refusal) => {
            let text = refusal.get_message().as_str();
            match refusal.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Error::new(
                    ErrorKind::Authentication,
                    format!(
                        "RabbitMQ at {host} refused the password of user `{}`; check user and password in the \
                         URL (`guest` may connect from the same machine only)",
                        endpoints.user()
                    ),
                ),
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("not found") => Error::new(
                    ErrorKind::NotFound,
                    format!(
                        "RabbitMQ at {host} has no vhost `{}`; create it with `rabbitmqctl add_vhost`, or check \
                         the path of the URL (the default vhost `/` needs none)",
                        endpoints.vhost()
                    ),
                ),
                // Of the vhost, or of the user.
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("connection limit") => {
                    Error::retryable(
                        ErrorKind::Overloaded,
                        format!(
                            "RabbitMQ at {host} takes no more connections: {text}; close some, or raise the limit \
                             with `rabbitmqctl set_vhost_limits` or `set_user_limits`"
                        ),
                    )
                }
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Error::new(
                    ErrorKind::Permission,
                    format!(
                        "RabbitMQ at {host} does not let user `{}` into vhost `{}`: {text}; grant it with \
                         `rabbitmqctl set_permissions`",
                        endpoints.user(),
                        endpoints.vhost()
                    ),
                ),
                _ => Error::retryable(
                    ErrorKind::Connection,
                    format!("RabbitMQ at {host} closed the connection: {text}"),
                ),
            }
        }
        Lapin::IOError(cause) if is_tls(cause) => Error::new(
            ErrorKind::Tls,
            format!(
                "the TLS handshake with RabbitMQ at {host} failed; check the host name, and `cacertfile` if the \
                 server's certificate is signed by an authority of your own"
            ),
        )
        .with_source(error),
        // With TLS 1.3 the handshake is over for the client before the server looks at its certificate.
        Lapin::IOError(cause) if endpoints.tls().is_some() && is_end(cause) => {
            let text = format!(
                "RabbitMQ at {host} ended the connection right after the TLS handshake; if it wants to see the \
                 client's certificate, name one that is signed by an authority which it trusts with `certfile` and \
                 `keyfile`"
            );
            let why = if cause.to_string().contains("alert") {
                Error::new(ErrorKind::Tls, text)
            } else {
                // It may have been stopped in this moment.
                Error::retryable(ErrorKind::Tls, text)
            };
            why.with_source(error)
        }
        Lapin::IOError(cause) if cause.kind() == io::ErrorKind::TimedOut => {
            no_answer(endpoints, at).with_source(error)
        }
        _ => unreachable_host(&host).with_source(error),
    }
}

/// The error of an attempt to connect that took too long.
pub(crate) fn no_answer(endpoints: &Endpoints, at: usize) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!(
            "RabbitMQ at {} did not answer within {:?} (`connection_timeout`)",
            endpoints.host(at),
            endpoints.connection_timeout
        ),
    )
}

fn unreachable_host(host: &str) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!(
            "cannot reach RabbitMQ at {host}; check that it runs, and host and port in the URL"
        ),
    )
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TlsFailed>())
}

/// Whether the other side ended a connection that was there: without a word, or with an alert of TLS.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
    )
}

/// The error of anything that is done over a connection. `what` says what was to be done: `declare queue …`.
pub(crate) fn of(what: &str, error: &lapin::Error) -> Error {
    let Lapin::ProtocolError(refusal) = error.kind() else {
        return lost(what).with_source(error.clone());
    };
    let text = refusal.get_message().as_str();
    match refusal.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Error::new(
            ErrorKind::Permission,
            format!(
                "RabbitMQ does not allow to {what}: {text}; grant it with `rabbitmqctl set_permissions`"
            ),
        ),
        // Of a queue whose node is away.
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) if text.contains("down or inaccessible") => {
            Error::retryable(
                ErrorKind::Connection,
                format!("cannot {what}: {text}; it is tried again until the node is back"),
            )
        }
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Error::new(
            ErrorKind::NotFound,
            format!(
                "cannot {what}: {text}; start the service that declares it first, or check the name"
            ),
        ),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => precondition(what, text),
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => Error::retryable(
            ErrorKind::Refused,
            format!("cannot {what}: {text}; another connection has it for itself"),
        ),
        AMQPErrorKind::Hard(AMQPHardError::RESOURCEERROR) => Error::retryable(
            ErrorKind::Overloaded,
            format!("cannot {what}: {text}; RabbitMQ is short of a resource"),
        ),
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED | AMQPHardError::INTERNALERROR) => {
            lost(what).with_source(error.clone())
        }
        _ => Error::new(
            ErrorKind::Refused,
            format!("RabbitMQ refused to {what}: {text}"),
        ),
    }
}

/// What PRECONDITION_FAILED says, taken apart.
fn precondition(what: &str, text: &str) -> Error {
    match Inequivalent::parse(text) {
        Some(found) => Error::new(
            ErrorKind::Mismatch,
            format!(
                "{} exists with another `{}`: it is {}, and {} was asked for; delete it, or declare it as it is",
                found.of, found.argument, found.is, found.asked
            ),
        ),
        None if text.contains("size") && text.contains("max") => {
            Error::new(ErrorKind::TooLarge, format!("cannot {what}: {text}"))
        }
        None => Error::new(
            ErrorKind::Mismatch,
            format!("RabbitMQ refused to {what}: {text}"),
        ),
    }
}

/// `inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '5' of type 'long' but current
/// is none`
struct Inequivalent<'a> {
    argument: &'a str,
    of: String,
    asked: &'a str,
    is: &'a str,
}

impl<'a> Inequivalent<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once("' for ")?;
        let (kind, rest) = rest.split_once(" '")?;
        let (name, rest) = rest.split_once('\'')?;
        let (_, rest) = rest.split_once("received ")?;
        let (asked, rest) = rest.split_once(" but current is ")?;
        let plain = |text: &'a str| {
            text.trim_start_matches("the value ")
                .split(" of type ")
                .next()
                .unwrap_or(text)
        };
        Some(Self {
            argument,
            of: format!("{kind} `{name}`"),
            asked: plain(asked),
            is: plain(rest),
        })
    }
}

/// The exchange of a publish that closed its channel because there is none.
pub(crate) fn missing_exchange(error: &lapin::Error) -> Option<&str> {
    let text = soft(error, AMQPSoftError::NOTFOUND)?;
    let (_, rest) = text.split_once("no exchange '")?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// Where the server does not let the user publish.
#[derive(Clone, Debug)]
pub(crate) struct RefusedRoute {
    pub(crate) exchange: String,
    pub(crate) key: Option<String>,
}

/// The exchange, and the key where permissions concern topics, of a publish that closed its channel because it
/// is not allowed: `access to topic 'order.v1' in exchange 'order' in vhost '/' refused for user 'shop'`.
pub(crate) fn refused_route(error: &lapin::Error) -> Option<RefusedRoute> {
    let text = soft(error, AMQPSoftError::ACCESSREFUSED)?;
    let quoted = |before: &str| {
        let (_, rest) = text.split_once(before)?;
        rest.split_once('\'').map(|(name, _)| name.to_owned())
    };
    Some(RefusedRoute {
        exchange: quoted("exchange '")?,
        key: quoted("topic '"),
    })
}

/// The largest message that the server takes, when a publish that was larger closed its channel.
pub(crate) fn max_message(error: &lapin::Error) -> Option<usize> {
    let text = soft(error, AMQPSoftError::PRECONDITIONFAILED)?;
    if !text.contains("message size") {
        return None;
    }
    // `message size 20971520 is larger than configured max size 16777216`
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty());
    numbers.next_back()?.parse().ok()
}

fn soft(error: &lapin::Error, kind: AMQPSoftError) -> Option<&str> {
    match error.kind() {
        Lapin::ProtocolError(refusal) if *refusal.kind() == AMQPErrorKind::Soft(kind) => {
            Some(refusal.get_message().as_str())
        }
        _ => None,
    }
}

/// What the server said when it closed a channel or a connection; nothing when it was only lost.
pub(crate) fn refusal(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        Lapin::ProtocolError(refusal) => Some(refusal),
        _ => None,
    }
}

pub(crate) fn lost(what: &str) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!(
            "the connection to RabbitMQ was lost on the way to {what}; it is made again by itself"
        ),
    )
}

pub(crate) fn down(what: &str) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!("cannot {what}: there is no connection to RabbitMQ; it is made again by itself"),
    )
}

pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection to RabbitMQ was closed; connect again",
    )
}

pub(crate) fn silent(what: &str) -> Error {
    Error::retryable(
        ErrorKind::Timeout,
        format!("RabbitMQ did not answer in time to {what}"),
    )
}

pub(crate) fn unflushed(queue: &str) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!(
            "RabbitMQ did not confirm that it received the last acknowledgements of queue `{queue}`; what it did not \
             receive is delivered again"
        ),
    )
}

pub(crate) fn deleted(queue: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("queue `{queue}` was deleted; declare it again and consume it anew"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_with(kind: AMQPSoftError, text: &str) -> lapin::Error {
        let error = AMQPError::new(AMQPErrorKind::Soft(kind), text.into());
        Lapin::ProtocolError(error).into()
    }

    #[test]
    fn an_inequivalent_argument_is_taken_apart() {
        for (text, expected) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'billing' in vhost '/': received \
                 the value '5' of type 'signedint' but current is none",
                "queue `billing` exists with another `x-max-length`: it is none, and '5' was asked for; delete \
                 it, or declare it as it is",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'order' in vhost '/': received \
                 'topic' but current is 'fanout'",
                "exchange `order` exists with another `type`: it is 'fanout', and 'topic' was asked for; delete \
                 it, or declare it as it is",
            ),
        ] {
            let error = of(
                "declare",
                &closed_with(AMQPSoftError::PRECONDITIONFAILED, text),
            );
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_queue_whose_node_is_away_is_not_deleted() {
        let text = "NOT_FOUND - home node 'rabbit@two' of durable queue 'billing' in vhost '/' is down or inaccessible";
        let error = of(
            "consume queue `billing`",
            &closed_with(AMQPSoftError::NOTFOUND, text),
        );
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.is_retryable());
    }

    #[test]
    fn a_limit_of_connections_is_no_matter_of_rights() {
        let text = "NOT_ALLOWED - access to vhost '/' refused for user 'shop': connection limit (1) is reached";
        let refusal = AMQPError::new(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED), text.into());
        let endpoints = Endpoints::parse("amqp://shop:secret@localhost").unwrap();
        let error = connecting(&endpoints, 0, Lapin::ProtocolError(refusal).into());
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.is_retryable());
    }

    #[test]
    fn what_closed_a_channel_is_found_in_its_text() {
        let text = "NOT_FOUND - no exchange 'order' in vhost '/'";
        let error = closed_with(AMQPSoftError::NOTFOUND, text);
        assert_eq!(missing_exchange(&error), Some("order"));
        let text = "PRECONDITION_FAILED - message size 20971520 is larger than configured max size 16777216";
        let error = closed_with(AMQPSoftError::PRECONDITIONFAILED, text);
        assert_eq!(max_message(&error), Some(16_777_216));
        assert_eq!(missing_exchange(&error), None);
    }
}
