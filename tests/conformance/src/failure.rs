//! How a case ends when it does not hold.

use std::{fmt, panic::Location};

use event_core::BoxError;

/// What a case returns.
pub type CaseResult<T = ()> = Result<T, Failure>;

/// Why a case did not hold, or could not be tried. `?` makes it from every ordinary error and from text, and
/// notes the line.
///
/// It is not a [`std::error::Error`] itself, because then it could not be made from all of them.
pub struct Failure {
    kind: Kind,
    text: String,
    place: &'static Location<'static>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Broken,
    NotTried,
}

impl Failure {
    /// The fact does not hold.
    #[track_caller]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            kind: Kind::Broken,
            text: text.into(),
            place: Location::caller(),
        }
    }

    /// The fact cannot be tried with this fixture, for example because it cannot cut connections.
    #[track_caller]
    pub fn not_tried(why: impl Into<String>) -> Self {
        Self {
            kind: Kind::NotTried,
            ..Self::new(why)
        }
    }

    /// The same with what was found.
    pub(crate) fn with_detail(mut self, detail: &str) -> Self {
        self.text.push_str("; ");
        self.text.push_str(detail);
        self
    }

    pub(crate) fn is_not_tried(&self) -> bool {
        self.kind == Kind::NotTried
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl<E: Into<BoxError>> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        Self::new(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}:{})",
            self.text,
            self.place.file(),
            self.place.line()
        )
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ends the case with a sentence unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($sentence)+)));
        }
    };
}

/// Ends the case unless both are equal; the sentence says what they are.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($sentence:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    let what = format!($($sentence)+);
                    return Err($crate::Failure::new(format!("{what}: {left:?}, expected {right:?}")));
                }
            }
        }
    };
}
