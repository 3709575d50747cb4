//! What Redis and its client say, as errors with advice.

use event_core::{Error, ErrorKind};
use redis::{ErrorKind as Kind, RedisError, ServerErrorKind as Server};

use crate::url::Endpoints;

/// An error of a request that was made to do this: `cannot {what}: …`.
pub(crate) fn failed(what: &str, error: &RedisError) -> Error {
    let server = |kind, advice: &str| {
        let said = error.detail().unwrap_or_default();
        // Which line of which script it was helps nobody.
        let said = said.split(" script: ").next().unwrap_or(said);
        let code = error.code().unwrap_or("ERR");
        (kind, format!("cannot {what}: {advice} ({code} {said})"))
    };
    let (kind, text) = match error.kind() {
        Kind::Server(Server::NoPerm) => {
            return Error::new(
                ErrorKind::Permission,
                format!(
                    "cannot {what}: the user may not do this; docs/redis.md has the ACL rules that suffice ({})",
                    error.detail().unwrap_or_default()
                ),
            )
            .with_source(error.clone());
        }
        Kind::Server(Server::BusyLoading) => server(
            ErrorKind::Overloaded,
            "Redis still loads its data; try again",
        ),
        Kind::Server(Server::ReadOnly) => server(
            ErrorKind::Connection,
            "this Redis is a replica; name the master, or use `?sentinel=name`",
        ),
        Kind::Server(Server::Moved | Server::Ask | Server::TryAgain | Server::ClusterDown) => {
            server(
                ErrorKind::Connection,
                "the cluster is moving these keys, or a part of it is down; try again",
            )
        }
        Kind::Server(Server::CrossSlot) => {
            server(ErrorKind::Internal, "the keys are not on one node")
        }
        Kind::Server(Server::MasterDown) => server(
            ErrorKind::Connection,
            "this Redis is a replica that lost its master",
        ),
        _ if error.code() == Some("OOM") => server(
            ErrorKind::Overloaded,
            "Redis has no memory left (`maxmemory`); have its queues consumed, or give it more",
        ),
        _ if error.code() == Some("NOREPLICAS") => server(
            ErrorKind::Overloaded,
            "Redis has too few replicas to write (`min-replicas-to-write`)",
        ),
        _ if error.code() == Some("MISCONF") => server(
            ErrorKind::Overloaded,
            "Redis cannot write to its disk, and therefore takes nothing",
        ),
        _ if error.code() == Some("BUSY") => server(
            ErrorKind::Overloaded,
            "Redis is busy with a script; try again",
        ),
        _ if is_gone(error) => (
            ErrorKind::NotFound,
            format!("cannot {what}: its stream is gone from Redis"),
        ),
        _ if error.code() == Some("WRONGTYPE") => {
            return Error::new(
                ErrorKind::Mismatch,
                format!(
                    "cannot {what}: a key of ours holds something of another program's; use another `?prefix=`"
                ),
            )
            .with_source(error.clone());
        }
        _ if is_authentication(error) => {
            return Error::new(
                ErrorKind::Authentication,
                format!("cannot {what}: Redis refused the user or the password"),
            );
        }
        _ if error.is_timeout() => (
            ErrorKind::Timeout,
            format!("Redis did not answer in time to {what}"),
        ),
        _ if is_lost(error) => (
            ErrorKind::Connection,
            format!("cannot {what}: the connection to Redis was lost; it is made again by itself"),
        ),
        Kind::Server(_) | Kind::Extension => server(ErrorKind::Internal, "Redis refused it"),
        _ => (ErrorKind::Internal, format!("cannot {what}: {error}")),
    };
    Error::retryable(kind, text).with_source(error.clone())
}

/// Whether it says nothing about the request but that the connection is no more.
pub(crate) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// Whether the server is the wrong one by now: a master that became a replica, a slot that went to another node.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        Kind::Server(
            Server::ReadOnly
                | Server::Moved
                | Server::Ask
                | Server::ClusterDown
                | Server::MasterDown
        )
    )
}

/// Whether the same may succeed soon without anybody's doing.
pub(crate) fn is_passing(error: &RedisError) -> bool {
    is_elsewhere(error)
        || is_lost(error)
        || matches!(
            error.kind(),
            Kind::Server(Server::BusyLoading | Server::TryAgain | Server::NoScript)
        )
        || error.code() == Some("BUSY")
}

fn is_authentication(error: &RedisError) -> bool {
    error.kind() == Kind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
}

/// The stream or its group is not there.
pub(crate) fn is_gone(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP")
}

/// An error of connecting to a server.
pub(crate) fn connecting(endpoints: &Endpoints, address: &str, error: &RedisError) -> Error {
    let with = |kind, text: String| Error::retryable(kind, text).with_source(error.clone());
    if is_authentication(error) {
        let advice = match endpoints.has_password() {
            true => "check the user and the password in the URL",
            false => "it wants a password: `redis://user:password@host`",
        };
        return Error::new(
            ErrorKind::Authentication,
            format!(
                "Redis at {address} refused the user `{}`: {advice}",
                endpoints.user()
            ),
        );
    }
    if error.kind() == Kind::Server(Server::NoPerm) {
        return failed(&format!("connect to Redis at {address}"), error);
    }
    let source = std::error::Error::source(error);
    let source = source.map(ToString::to_string).unwrap_or_default();
    let text = format!("{error} {source}");
    if text.contains("DB index is out of range") {
        return Error::new(
            ErrorKind::NotFound,
            format!(
                "Redis at {address} has no database {}: `databases` in its configuration says how many it has",
                endpoints.db()
            ),
        );
    }
    if error.kind() == Kind::InvalidClientConfig || is_tls(&text) {
        let advice = if text.contains("UnknownIssuer") {
            "who signed its certificate is not known here; name the authority with `cacertfile`"
        } else if text.contains("not valid for name") {
            "its certificate is for another name; use the host name that stands in it"
        } else if text.contains("CertificateRequired") || text.contains("HandshakeFailure") {
            "it asks for a certificate of ours; name one with `certfile` and `keyfile`"
        } else {
            "check that it speaks TLS on this port, and the certificates"
        };
        return Error::new(
            ErrorKind::Tls,
            format!("no TLS with Redis at {address}: {advice}"),
        )
        .with_source(error.clone());
    }
    if error.is_timeout() {
        return with(
            ErrorKind::Connection,
            format!(
                "Redis at {address} did not answer within {} ms (`connection_timeout`){}",
                endpoints.connection_timeout.as_millis(),
                // A server without TLS waits for the rest of what it takes for a command.
                match endpoints.has_tls() {
                    true => "; check that it speaks TLS on this port",
                    false => "",
                }
            ),
        );
    }
    if error.is_connection_refusal() || is_lost(error) {
        return with(
            ErrorKind::Connection,
            format!("cannot reach Redis at {address}; check that it runs, the host and the port"),
        );
    }
    failed(&format!("connect to Redis at {address}"), error)
}

fn is_tls(text: &str) -> bool {
    let words = [
        "certificate",
        "TLS",
        "handshake",
        "fatal alert",
        "corrupt message",
        "InvalidContentType",
    ];
    words.iter().any(|word| text.contains(word))
}

pub(crate) fn down(what: &str) -> Error {
    Error::retryable(
        ErrorKind::Connection,
        format!("cannot {what}: there is no connection to Redis; it is made again by itself"),
    )
}

pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection to Redis was closed; connect again",
    )
}

pub(crate) fn silent(what: &str) -> Error {
    Error::retryable(
        ErrorKind::Timeout,
        format!("Redis did not answer in time to {what}"),
    )
}

/// A script says why the server did not store a message.
pub(crate) fn not_stored(what: &str, said: &str) -> Error {
    match said.split(' ').next() {
        Some("OOM") => Error::retryable(
            ErrorKind::Overloaded,
            format!(
                "{what}: Redis has no memory left (`maxmemory`); have its queues consumed, or give it more ({said})"
            ),
        ),
        Some("MISCONF" | "NOREPLICAS") => Error::retryable(
            ErrorKind::Overloaded,
            format!("{what}: Redis takes nothing at present ({said})"),
        ),
        Some("WRONGTYPE") => Error::retryable(
            ErrorKind::Mismatch,
            format!(
                "{what}: a key of ours holds something of another program's; delete it, or use another `?prefix=` \
                 ({said})"
            ),
        ),
        _ => Error::retryable(
            ErrorKind::Refused,
            format!("{what}: Redis refused it ({said})"),
        ),
    }
}

/// The server answered with something that the script does not answer.
pub(crate) fn strange(what: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("cannot {what}: Redis gave an answer that is not understood"),
    )
}

pub(crate) fn unknown_queue(queue: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("queue `{queue}` does not exist; start the service that declares it first"),
    )
}
