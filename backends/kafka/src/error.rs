//! What Kafka and its client say, as errors with advice.

use event_core::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::{client::Problem, url::Endpoints};

/// An error of a request that was made to do this: `cannot {what}: …`.
pub(crate) fn failed(what: &str, code: Code) -> Error {
    let (kind, advice) = match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => {
            return Error::new(
                ErrorKind::Permission,
                format!(
                    "cannot {what}: the user may not do this; docs/kafka.md has the ACLs that suffice ({code})"
                ),
            );
        }
        Code::Authentication | Code::SaslAuthenticationFailed => {
            return Error::new(
                ErrorKind::Authentication,
                format!("cannot {what}: Kafka refused the user or the password"),
            );
        }
        Code::SSL => return Error::new(ErrorKind::Tls, format!("cannot {what}: no TLS ({code})")),
        code if says_too_large(code) => {
            return Error::new(
                ErrorKind::TooLarge,
                format!(
                    "cannot {what}: it is larger than the topic allows; raise `max.message.bytes` of the topic, or \
                     send a reference instead of the data"
                ),
            );
        }
        Code::InvalidTopic => {
            return Error::new(
                ErrorKind::InvalidName,
                format!(
                    "cannot {what}: Kafka does not allow this name; it also refuses one that differs from another \
                     topic's only in `.` and `_`"
                ),
            );
        }
        Code::InvalidReplicationFactor => {
            return Error::new(
                ErrorKind::Setup,
                format!(
                    "cannot {what}: there are fewer brokers than replicas; set `?replication=`"
                ),
            );
        }
        Code::PolicyViolation | Code::InvalidConfig | Code::InvalidPartitions => {
            return Error::new(
                ErrorKind::Refused,
                format!("cannot {what}: a rule of the brokers' forbids it ({code})"),
            );
        }
        Code::InvalidSessionTimeout => {
            return Error::new(
                ErrorKind::Unsupported,
                format!(
                    "cannot {what}: the lease is outside of what the brokers allow (`group.min.session.timeout.ms`, 6 \
                     seconds by default, and `group.max.session.timeout.ms`, 30 minutes)"
                ),
            );
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            (ErrorKind::NotFound, "its topic is not there")
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient => (
            ErrorKind::Overloaded,
            "too few replicas are in sync (`min.insync.replicas`)",
        ),
        Code::QueueFull => (
            ErrorKind::Overloaded,
            "too much waits to be sent (`queue.buffering.max.kbytes`)",
        ),
        Code::ThrottlingQuotaExceeded => (ErrorKind::Overloaded, "a quota is used up"),
        Code::KafkaStorageError => (ErrorKind::Overloaded, "the broker cannot write to its disk"),
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::TimedOutQueue => {
            return Error::retryable(
                ErrorKind::Timeout,
                format!("Kafka did not answer in time to {what}"),
            );
        }
        Code::AllBrokersDown
        | Code::BrokerTransportFailure
        | Code::BrokerNotAvailable
        | Code::BrokerDestroy
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NetworkException
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::Resolve => (
            ErrorKind::Connection,
            "a broker cannot be reached; it is tried again by itself",
        ),
        Code::BadMessage | Code::Underflow => (
            ErrorKind::Connection,
            "an answer of the broker's cannot be read, so it may have been done",
        ),
        Code::PurgeQueue | Code::PurgeInflight => return closed(),
        _ => (ErrorKind::Internal, "Kafka refused it"),
    };
    Error::retryable(kind, format!("cannot {what}: {advice} ({code})"))
}

/// A copy that its topic does not take. Its original is kept, and comes again.
pub(crate) fn copy_too_large(what: &str, topic: &str) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "cannot {what}: it is larger than `?max_message=` or topic `{topic}` allows, so it comes again and again; \
             set `max_message` to what the topic of its exchange takes, and `max.message.bytes` of `{topic}` to more than \
             twice of that"
        ),
    )
}

/// The same for what a call of the client's says.
pub(crate) fn of(what: &str, error: &KafkaError) -> Error {
    let code = match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    match code {
        Some(code) => failed(what, code).with_source(error.clone()),
        // Its text may repeat a setting.
        None if matches!(error, KafkaError::ClientConfig(..)) => Error::new(
            ErrorKind::InvalidUrl,
            format!("cannot {what}: a setting in the URL does not fit the others"),
        ),
        None if matches!(error, KafkaError::ClientCreation(_)) => Error::new(
            ErrorKind::InvalidUrl,
            format!("cannot {what}: settings in the URL do not fit each other: {error}"),
        ),
        None => Error::retryable(ErrorKind::Internal, format!("cannot {what}: {error}")),
    }
}

/// An error of connecting: what the client met explains more than that nobody answered.
pub(crate) fn connecting(
    endpoints: &Endpoints,
    error: &KafkaError,
    problem: Option<&Problem>,
) -> Error {
    let at = &endpoints.brokers;
    let text = problem.map_or("", |problem| problem.text.as_str());
    let code = problem.map(|problem| problem.code);
    let with = |kind, text: String| Error::retryable(kind, text).with_source(error.clone());
    if matches!(
        code,
        Some(Code::Authentication | Code::SaslAuthenticationFailed)
    ) {
        let user = endpoints.user().unwrap_or_default();
        let said = if text.contains("not valid in current SASL state") {
            format!(
                "Kafka at {at} asks for no user on this port: leave the user `{user}` out of the URL, or name the port \
                 that asks for one"
            )
        } else if let Some(others) = other_mechanisms(text) {
            format!(
                "Kafka at {at} has another mechanism for users: set `sasl.mechanisms` to one of {others}"
            )
        } else {
            format!(
                "Kafka at {at} refused the user `{user}`: check the user and the password in the URL"
            )
        };
        return Error::new(ErrorKind::Authentication, said);
    }
    // With TLS 1.3 this comes as an answer to the first request.
    let wants_certificate = [
        "certificate required",
        "handshake failure",
        "bad certificate",
    ]
    .iter()
    .any(|said| text.contains(said));
    if code == Some(Code::SSL) || wants_certificate {
        let advice = if wants_certificate {
            "it asks for a certificate of ours; name one with `certfile` and `keyfile`"
        } else if text.contains("could not be verified") {
            // OpenSSL does not say which of the two it is.
            "its certificate is not trusted; name the authority that signed it with `cacertfile`, and connect to the host \
             name that stands in it"
        } else {
            "check that it speaks TLS on this port, and the certificates"
        };
        return Error::new(
            ErrorKind::Tls,
            format!("no TLS with Kafka at {at}: {advice}"),
        );
    }
    let wants = match (endpoints.user(), endpoints.has_tls()) {
        (None, false) => Some("TLS or a user (`kafka://user:password@host?tls`)"),
        (None, true) => Some("a user (`kafka://user:password@host?tls`)"),
        (Some(_), false) => Some("TLS (`?tls`)"),
        (Some(_), true) => None,
    };
    if let Some(wants) = wants.filter(|_| text.contains("Disconnected")) {
        return with(
            ErrorKind::Connection,
            format!("Kafka at {at} hangs up: it wants {wants}, or is no Kafka"),
        );
    }
    with(
        ErrorKind::Connection,
        format!(
            "cannot reach Kafka at {at} within {} ms (`connection_timeout`); check that it runs, the hosts and the ports",
            endpoints.connection_timeout.as_millis()
        ),
    )
}

/// The mechanisms that a broker named when it refused ours.
fn other_mechanisms(text: &str) -> Option<&str> {
    let (_, refusal) = text.split_once("Unsupported SASL mechanism")?;
    let (_, named) = refusal.split_once("supported mechanisms: ")?;
    named.split(['\n', '(']).next().map(str::trim)
}

pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection to Kafka was closed; connect again",
    )
}

pub(crate) fn silent(what: &str) -> Error {
    Error::retryable(
        ErrorKind::Timeout,
        format!("Kafka did not answer in time to {what}"),
    )
}

pub(crate) fn unknown_queue(queue: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("queue `{queue}` does not exist; start the service that declares it first"),
    )
}

pub(crate) fn deleted(queue: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "queue `{queue}` was deleted while it was consumed; start its service again to declare it"
        ),
    )
}

/// Whether the same may succeed soon without anybody's doing.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    let passes = |code| {
        let kind = failed("", code).kind();
        matches!(
            kind,
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Overloaded
        ) || matches!(code, Code::UnknownPartition | Code::UnknownTopicOrPartition)
    };
    error.rdkafka_error_code().is_some_and(passes)
}

/// Whether a code says that a topic or partition is not there.
pub(crate) fn says_gone(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition
    )
}

/// Whether a code says that a message, or the batch that it was in, is larger than its topic allows.
pub(crate) fn says_too_large(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize
    )
}

/// Whether a topic or partition is not there.
pub(crate) fn is_gone(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(says_gone)
}

/// Whether a partition is not read any more after this: it is not there, or what was to be read of it is not.
pub(crate) fn ends_reading(error: &KafkaError) -> bool {
    is_gone(error)
        || matches!(
            error.rdkafka_error_code(),
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)
        )
}
