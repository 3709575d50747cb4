//! Deliberately broken transports, each with one fault that brokers or their clients are known for. The suite
//! proves its worth by failing on each of them.

mod faulty;

use std::{fmt, sync::Arc};

use event_core::Transport;

use crate::intercept::Intercepted;

/// What is wrong with a broken transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// An acknowledgement is answered and not done.
    DropsAcks,
    /// A delivery is acknowledged when it is read.
    AcksBeforeHandling,
    /// A delivery that is given back is gone.
    LosesReleases,
    /// The deliveries of a batch come in the opposite order.
    Reorders,
    /// A queue gets each message twice.
    StoresTwice,
    /// In a pattern, `#` stands for one word at least.
    RoutesHashAsOneOrMore,
    /// A retry begins at the first attempt again.
    ForgetsAttempts,
    /// A retry waits half of its time.
    RetriesEarly,
    /// A retry is acknowledged first and then published again, through the exchange.
    RetriesThroughTheExchange,
    /// Every third publish is confirmed and not stored.
    ConfirmsWithoutStoring,
    /// A dead letter is acknowledged instead.
    LosesDeadLetters,
    /// Dead letters are replayed through the exchange.
    ReplaysThroughTheExchange,
    /// A message that goes nowhere is confirmed, `mandatory` or not.
    IgnoresMandatory,
    /// A publish may take as long as it likes.
    IgnoresDeadlines,
    /// Dropping a publish drops its messages.
    DropsWithTheFuture,
    /// The results of a batch stand in the opposite order.
    MixesUpResults,
    /// A reader that was stopped never ends.
    NeverEnds,
    /// A batch may be larger than what was asked for.
    OverfillsBatches,
    /// Declaring a queue removes its other bindings.
    PrunesAtDeclaration,
    /// A settlement that came too late is answered as done.
    HidesLostSettlements,
    /// Nothing that a crash left behind is suspected.
    NeverSuspects,
    /// Everything that a crash left behind counts as having killed its process often.
    CondemnsNeighbours,
    /// The sender's headers are not carried.
    LosesHeaders,
    /// What is not settled within its lease is given to someone else, although its consumer lives.
    ForgetsToRenew,
    /// Giving a delivery back uses an attempt.
    CountsReleases,
    /// New bindings of a queue that exists take effect a moment after they were declared.
    DeclaresLater,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::DropsAcks,
        Self::AcksBeforeHandling,
        Self::LosesReleases,
        Self::Reorders,
        Self::StoresTwice,
        Self::RoutesHashAsOneOrMore,
        Self::ForgetsAttempts,
        Self::RetriesEarly,
        Self::RetriesThroughTheExchange,
        Self::ConfirmsWithoutStoring,
        Self::LosesDeadLetters,
        Self::ReplaysThroughTheExchange,
        Self::IgnoresMandatory,
        Self::IgnoresDeadlines,
        Self::DropsWithTheFuture,
        Self::MixesUpResults,
        Self::NeverEnds,
        Self::OverfillsBatches,
        Self::PrunesAtDeclaration,
        Self::HidesLostSettlements,
        Self::NeverSuspects,
        Self::CondemnsNeighbours,
        Self::LosesHeaders,
        Self::ForgetsToRenew,
        Self::CountsReleases,
        Self::DeclaresLater,
    ];

    /// The cases that are there for this fault: each must fail.
    pub fn caught_by(self) -> &'static [&'static str] {
        match self {
            Self::DropsAcks => &["an_acknowledged_delivery_is_gone"],
            Self::AcksBeforeHandling => &[
                "a_crash_loses_nothing",
                "a_delivery_is_not_acknowledged_before_its_handler_is_done",
            ],
            Self::LosesReleases => &["a_released_delivery_comes_back_at_once"],
            Self::Reorders => &[
                "a_batch_keeps_the_order_of_each_partition_key",
                "one_key_is_handled_in_order_at_any_concurrency",
            ],
            Self::StoresTwice => &[
                "a_queue_gets_one_copy_however_many_bindings_match",
                "a_backlog_is_handled_in_full",
            ],
            Self::RoutesHashAsOneOrMore => &[
                "routing_follows_the_vectors",
                "a_hash_stands_for_any_number_of_words",
            ],
            Self::ForgetsAttempts => &[
                "attempts_are_visible",
                "an_exhausted_message_becomes_a_dead_letter",
            ],
            Self::RetriesEarly => &["a_retry_waits_for_its_delay"],
            Self::RetriesThroughTheExchange => &[
                "retries_concern_their_queue_only",
                "the_copy_is_stored_before_the_original_is_removed",
            ],
            Self::ConfirmsWithoutStoring => &["ok_means_stored"],
            Self::LosesDeadLetters => &["a_rejected_message_becomes_a_dead_letter_at_once"],
            Self::ReplaysThroughTheExchange => {
                &["replay_puts_a_dead_letter_back_into_its_queue_only"]
            }
            Self::IgnoresMandatory => &["mandatory_without_a_queue_is_unroutable"],
            Self::IgnoresDeadlines => &[
                "publishing_ends_by_its_deadline",
                "a_deadline_in_the_past_is_a_timeout",
            ],
            Self::DropsWithTheFuture => &["dropping_a_publish_gives_up_the_answer_only"],
            Self::MixesUpResults => &[
                "each_message_of_a_batch_has_its_own_result",
                "settlements_are_answered_in_order",
            ],
            Self::NeverEnds => &["a_stopped_reader_ends", "an_idle_service_stops_at_once"],
            Self::OverfillsBatches => &["a_batch_is_never_larger_than_asked_for"],
            Self::PrunesAtDeclaration => &[
                "declaring_only_adds_bindings",
                "an_older_service_takes_nothing_from_a_newer_one",
            ],
            Self::HidesLostSettlements => {
                &["a_stale_tag_settles_nothing", "settling_twice_settles_once"]
            }
            Self::NeverSuspects => &[
                "suspects_run_alone",
                "a_message_that_kills_its_process_becomes_a_dead_letter",
            ],
            Self::CondemnsNeighbours => &["neighbours_of_a_killer_are_handled"],
            Self::LosesHeaders => &["headers_reach_the_handler"],
            Self::ForgetsToRenew => &["leases_are_renewed_while_the_subscription_lives"],
            Self::CountsReleases => &[
                "a_release_uses_no_attempt",
                "many_restarts_make_no_dead_letter",
            ],
            Self::DeclaresLater => &["a_new_binding_takes_part_at_once"],
        }
    }

    /// A transport with this fault.
    pub fn around(self, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Intercepted::around(inner.clone(), faulty::Faulty::new(self, inner))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
