//! How a handler ends.

use std::{error::Error as StdError, fmt, io, time::Duration};

use crate::error::{BoxError, Error, ErrorKind};

/// What a handler decides about its delivery, when it does not leave that to its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Ack,
    /// It failed: try again, when and as often as the queue's policy says.
    Retry,
    /// It failed: try again after this time, as often as the queue's policy says.
    RetryAfter(Duration),
    /// It will never succeed: make it a dead letter, with this reason.
    Reject(String),
}

/// The result of a handler: `Result` or `Result<events to publish next>`.
pub type HandlerResult<T = ()> = std::result::Result<T, HandlerError>;

/// What a handler fails with. `?` makes it from every ordinary error, from anyhow's, and from strings.
///
/// It is not a [`std::error::Error`] itself, because then it could not be made from all of them. A
/// failure is tried again by the queue's policy, unless it is [`permanent`](Self::permanent).
pub struct HandlerError {
    decision: Decision,
    source: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Policy,
    After(Duration),
    Never,
}

impl HandlerError {
    /// A failure that trying again does not mend: the delivery becomes a dead letter.
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        Self {
            decision: Decision::Never,
            source: source.into(),
        }
    }

    /// A failure that is tried again after this time.
    pub fn retry_after(delay: Duration, source: impl Into<BoxError>) -> Self {
        Self {
            decision: Decision::After(delay),
            source: source.into(),
        }
    }

    /// Whether trying again was ruled out.
    pub fn is_permanent(&self) -> bool {
        self.decision == Decision::Never
    }

    /// The error itself.
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }

    pub(crate) fn into_verdict(self) -> Verdict {
        match self.decision {
            Decision::Policy => Verdict::Failed {
                after: None,
                error: Some(self.source),
            },
            Decision::After(delay) => Verdict::Failed {
                after: Some(delay),
                error: Some(self.source),
            },
            Decision::Never => Verdict::Rejected { error: self.source },
        }
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("decision", &self.decision)
            .field("source", &self.source)
            .finish()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let source = error.into();
        // An `Error::permanent` deep inside an error of anyhow's still means what it says.
        let mut next: Option<&(dyn StdError + 'static)> = Some(&*source);
        let mut permanent = false;
        while let Some(error) = next {
            permanent |= error
                .downcast_ref::<Error>()
                .is_some_and(|e| e.kind() == ErrorKind::Permanent);
            next = match error.downcast_ref().and_then(io::Error::get_ref) {
                // It passes for what it was made of: its source is the source of that.
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        Self {
            decision: if permanent {
                Decision::Never
            } else {
                Decision::Policy
            },
            source,
        }
    }
}

/// How one handler ended, as the framework sees it.
#[derive(Debug)]
pub(crate) enum Verdict {
    Done,
    Failed {
        after: Option<Duration>,
        error: Option<BoxError>,
    },
    Rejected {
        error: BoxError,
    },
    /// An argument could not be made from the delivery.
    Unusable(Error),
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ack => Self::Done,
            Outcome::Retry => Self::Failed {
                after: None,
                error: None,
            },
            Outcome::RetryAfter(delay) => Self::Failed {
                after: Some(delay),
                error: None,
            },
            Outcome::Reject(reason) => Self::Rejected {
                error: reason.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_errors_and_strings_are_tried_again() {
        let number = || -> HandlerResult<u64> { Ok("seven".parse()?) };
        assert!(!number().unwrap_err().is_permanent());
        assert!(!HandlerError::from("the bank is closed").is_permanent());
    }

    #[test]
    fn a_permanent_error_is_found_inside_another() {
        let inner = Error::permanent("no such account");
        assert!(HandlerError::from(inner.clone()).is_permanent());
        assert!(HandlerError::from(io::Error::other(inner.clone())).is_permanent());
        assert!(HandlerError::from(io::Error::other(Wrapping(inner))).is_permanent());
    }

    #[derive(Debug)]
    struct Wrapping(Error);

    impl fmt::Display for Wrapping {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("billing failed")
        }
    }

    impl StdError for Wrapping {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }
}
