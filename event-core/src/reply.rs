//! What a handler may return, and what it comes to.

use crate::{
    error::Result,
    event::Publish,
    outcome::{HandlerError, Outcome, Verdict},
    outgoing::Outgoing,
};

/// What a handler came to: how it ended, and the events to publish before its delivery is acknowledged.
///
/// Middleware around handlers passes it on: it is the response of every handler's tower service. The
/// unit value is the reply of a handler that is done.
#[derive(Debug)]
#[must_use = "a reply decides about a delivery"]
pub struct Reply {
    pub(crate) verdict: Verdict,
    pub(crate) events: Vec<Result<Outgoing>>,
}

impl Reply {
    /// A reply without events.
    pub(crate) fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            events: Vec::new(),
        }
    }

    /// Whether the handler is done.
    pub fn is_ack(&self) -> bool {
        matches!(self.verdict, Verdict::Done)
    }

    /// Whether the handler failed and the delivery is to be tried again.
    pub fn is_retry(&self) -> bool {
        matches!(self.verdict, Verdict::Failed { .. })
    }

    /// Whether the delivery is to become a dead letter.
    pub fn is_reject(&self) -> bool {
        matches!(
            self.verdict,
            Verdict::Rejected { .. } | Verdict::Unusable(_)
        )
    }

    /// What went wrong, as one line with its causes.
    pub fn error(&self) -> Option<String> {
        self.verdict.error()
    }
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        Self::of(outcome.into())
    }
}

impl Verdict {
    pub(crate) fn error(&self) -> Option<String> {
        use crate::error::chain;
        match self {
            Self::Done => None,
            Self::Failed { error, .. } => error.as_deref().map(|error| chain(error)),
            Self::Rejected { error } => Some(chain(&**error)),
            Self::Unusable(error) => Some(chain(error)),
        }
    }
}

/// Events that a handler returns, to be published next: an event, [`Outgoing`], `Option`, `Vec`, a tuple.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of events to publish",
    label = "returned here"
)]
pub trait IntoEvents {
    /// Adds the events to a list. One that cannot be encoded makes the handler fail.
    #[doc(hidden)]
    fn into_events(self, events: &mut Vec<Result<Outgoing>>);
}

impl IntoEvents for () {
    fn into_events(self, _: &mut Vec<Result<Outgoing>>) {}
}

impl IntoEvents for Outgoing {
    fn into_events(self, events: &mut Vec<Result<Outgoing>>) {
        events.push(Ok(self));
    }
}

impl<E: Publish> IntoEvents for E {
    fn into_events(self, events: &mut Vec<Result<Outgoing>>) {
        events.push(self.outgoing());
    }
}

impl<T: IntoEvents> IntoEvents for Option<T> {
    fn into_events(self, events: &mut Vec<Result<Outgoing>>) {
        if let Some(event) = self {
            event.into_events(events);
        }
    }
}

impl<T: IntoEvents> IntoEvents for Vec<T> {
    fn into_events(self, events: &mut Vec<Result<Outgoing>>) {
        for event in self {
            event.into_events(events);
        }
    }
}

macro_rules! tuple {
    ($($event:ident),+) => {
        impl<$($event: IntoEvents),+> IntoEvents for ($($event,)+) {
            #[allow(non_snake_case)]
            fn into_events(self, events: &mut Vec<Result<Outgoing>>) {
                let ($($event,)+) = self;
                $($event.into_events(events);)+
            }
        }
    };
}

tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);

/// What a handler may return: `()`, an [`Outcome`], events to publish next, or a `Result` of those.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "this handler's return type",
    note = "return `()`, an `Outcome`, events to publish next, or a `Result` of those whose error is a `std::error::Error`"
)]
pub trait IntoReply {
    /// What it comes to.
    #[doc(hidden)]
    fn into_reply(self) -> Reply;
}

impl<T: IntoEvents> IntoReply for T {
    fn into_reply(self) -> Reply {
        let mut events = Vec::new();
        self.into_events(&mut events);
        Reply {
            verdict: Verdict::Done,
            events,
        }
    }
}

impl IntoReply for Outcome {
    fn into_reply(self) -> Reply {
        self.into()
    }
}

impl<T: IntoReply, E: IntoHandlerError> IntoReply for std::result::Result<T, E> {
    fn into_reply(self) -> Reply {
        match self {
            Ok(value) => value.into_reply(),
            Err(error) => Reply::of(error.into_handler_error().into_verdict()),
        }
    }
}

/// What a handler may fail with: [`HandlerError`] and everything that becomes one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a handler's error",
    note = "implement `std::error::Error` for it (and `Send + Sync + 'static`), or convert it"
)]
pub trait IntoHandlerError {
    #[doc(hidden)]
    fn into_handler_error(self) -> HandlerError;
}

impl<E: Into<HandlerError>> IntoHandlerError for E {
    fn into_handler_error(self) -> HandlerError {
        self.into()
    }
}
