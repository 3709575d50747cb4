//! A case: one fact of the contract, with its name and how it is tried.

use std::fmt;

use event_core::Capability;
use futures_util::future::BoxFuture;

use crate::{context::Context, failure::CaseResult};

/// One fact of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, as in `docs/semantics.md`.
    pub name: &'static str,
    /// The point of the contract that it belongs to.
    pub point: Point,
    /// What the backend must be able to do for it. If one of them is refused, the case tries instead that
    /// the refusal is a clear error.
    pub needs: &'static [Capability],
    pub(crate) run: fn(Context) -> BoxFuture<'static, CaseResult>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("point", &self.point)
            .finish_non_exhaustive()
    }
}

/// The points of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "their titles are the headings of docs/semantics.md"
)]
pub enum Point {
    Routing,
    Publish,
    Queues,
    AtLeastOnce,
    Failure,
    DeadLetters,
    Order,
    BackPressure,
    Release,
    Shutdown,
    Ephemeral,
    Envelope,
    StartUp,
    Observation,
}

impl Point {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 14] = [
        Self::Routing,
        Self::Publish,
        Self::Queues,
        Self::AtLeastOnce,
        Self::Failure,
        Self::DeadLetters,
        Self::Order,
        Self::BackPressure,
        Self::Release,
        Self::Shutdown,
        Self::Ephemeral,
        Self::Envelope,
        Self::StartUp,
        Self::Observation,
    ];

    /// Its heading in `docs/semantics.md`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Routing => "1. Routing",
            Self::Publish => "2. Publish",
            Self::Queues => "3. Queues",
            Self::AtLeastOnce => "4. At least once",
            Self::Failure => "5. Failure",
            Self::DeadLetters => "6. Dead letters",
            Self::Order => "7. Order",
            Self::BackPressure => "8. Back-pressure",
            Self::Release => "9. Release",
            Self::Shutdown => "10. Shutdown",
            Self::Ephemeral => "11. Ephemeral subscriptions",
            Self::Envelope => "12. Envelope",
            Self::StartUp => "Start-up",
            Self::Observation => "What can be seen",
        }
    }
}

/// The cases of one file: the point, then the functions' names, each with what its backend must be able to do.
///
/// ```ignore
/// cases!(Queues: each_queue_has_its_own_copy, a_full_queue_refuses [MaxLength]);
/// ```
macro_rules! cases {
    ($point:ident: $($name:ident $([$($need:ident),+])?),+ $(,)?) => {
        pub(crate) fn cases() -> Vec<$crate::Case> {
            vec![$($crate::Case {
                name: stringify!($name),
                point: $crate::Point::$point,
                needs: &[$($(event_core::Capability::$need),+)?],
                run: |cx| Box::pin($name(cx)),
            }),+]
        }
    };
}

pub(crate) use cases;
