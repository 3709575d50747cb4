//! The library's error: what went wrong, whether trying again may help, and what to do.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

/// Any error that can be sent between threads; what handlers and layers fail with.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// Why an operation of the library failed.
///
/// `Display` says what to do about it and leaves the cause to [`source`](StdError::source). An error is
/// cheap to clone, because one cause can end every publish of a batch.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    retryable: bool,
    source: Option<BoxError>,
}

/// The kinds of [`Error`], for code that reacts to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, routing key, pattern or header breaks its grammar.
    InvalidName,
    /// A broker URL does not parse, has an unknown scheme, or needs a feature that is off.
    InvalidUrl,
    /// A value could not be encoded.
    Encode,
    /// A payload or header could not be decoded.
    Decode,
    /// A value was decoded, or is about to be published, and breaks its own rules.
    Invalid,
    /// No queue is bound for a message that was published `mandatory`.
    Unroutable,
    /// The deadline passed before the broker answered. The message may have been stored.
    Timeout,
    /// The backend cannot do what was asked.
    Unsupported,
    /// The service's own set-up is contradictory; nothing was started.
    Setup,
    /// What exists on the broker was declared with other arguments.
    Mismatch,
    /// The queue, exchange or dead letter does not exist.
    NotFound,
    /// The broker cannot be reached, or the connection was lost.
    Connection,
    /// The broker refused the credentials.
    Authentication,
    /// The broker knows the user but does not allow this.
    Permission,
    /// The TLS handshake failed.
    Tls,
    /// The broker refuses work for now: an alarm, a memory limit, a full queue.
    Overloaded,
    /// The message is larger than the broker accepts.
    TooLarge,
    /// The broker refused the message.
    Refused,
    /// The bus or the transport was closed.
    Closed,
    /// A handler said that trying again does not help; see [`Error::permanent`].
    Permanent,
    /// The backend met something that its author did not expect.
    Internal,
}

/// The result of the library's own operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind that trying again does not mend.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            retryable: false,
            source: None,
        }))
    }

    /// An error of this kind that may go away by itself.
    pub fn retryable(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            retryable: true,
            source: None,
        }))
    }

    /// The same error with its cause.
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        let Inner {
            kind,
            ref message,
            retryable,
            ..
        } = *self.0;
        let message = message.clone();
        Self(Arc::new(Inner {
            kind,
            message,
            retryable,
            source: Some(source.into()),
        }))
    }

    /// An error that a handler returns for "do not try this again", also from inside another error:
    /// it is found along the chain of [`source`](StdError::source)s.
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        let source = source.into();
        Self(Arc::new(Inner {
            kind: ErrorKind::Permanent,
            message: source.to_string().into(),
            retryable: false,
            source: None,
        }))
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without a change of the program.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug
            .field("kind", &self.0.kind)
            .field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// An error and its causes in one line, for logs and dead letters.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_leaves_the_cause_to_source() {
        let cause = std::io::Error::other("connection reset");
        let error =
            Error::retryable(ErrorKind::Connection, "cannot reach the broker").with_source(cause);
        assert_eq!(error.to_string(), "cannot reach the broker");
        assert_eq!(chain(&error), "cannot reach the broker: connection reset");
        assert!(error.is_retryable());
    }
}
