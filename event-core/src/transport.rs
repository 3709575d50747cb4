//! What a backend implements: one trait for a broker, three for a subscription and its dead letters.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    capabilities::Capabilities,
    dead_letter::{DeadLetter, DeadLetterId, Selection},
    delivery::{Delivery, DeliveryTag, Settled, Settlement},
    error::Result,
    id::MessageId,
    message::Message,
    topology::{QueueSpec, Removal, Topology},
};

/// A connection to one broker, for people who write backends.
///
/// The framework above it owns decoding, matching of handlers, dispatch, retry policy and what stands in a
/// dead letter; a backend stores, routes, moves and counts. A wrapper forwards every method, so that a
/// batch never silently becomes a loop.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// What the backend can do. Constant for the life of the transport.
    fn capabilities(&self) -> &Capabilities;

    /// The state of the connection, now and from now on.
    fn state(&self) -> watch::Receiver<ConnectionState>;

    /// Declares exchanges, queues and bindings. What exists stays; nothing is removed.
    ///
    /// # Contract
    /// - `declaring_twice_changes_nothing`
    /// - `declaring_only_adds_bindings`
    /// - `a_queue_receives_what_is_published_after_it_was_declared`
    /// - `a_queue_declared_with_other_arguments_is_a_mismatch`
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) names the queue, the argument, what it is and what was
    /// asked for.
    ///
    /// # Cancel safety
    /// Part of it may have been declared; declaring again completes it.
    async fn declare(&self, topology: &Topology) -> Result<()>;

    /// Publishes a batch and answers for each message, in the order of the batch.
    ///
    /// Declares an exchange that does not exist. An `Ok` means that the broker has taken responsibility.
    ///
    /// # Contract
    /// - `ok_means_stored`
    /// - `each_message_of_a_batch_has_its_own_result`
    /// - `a_batch_keeps_the_order_of_each_partition_key`
    /// - `mandatory_without_a_queue_is_unroutable`
    /// - `publishing_ends_by_its_deadline`
    /// - `dropping_a_publish_gives_up_the_answer_only`
    ///
    /// # Errors
    /// Each message has its own. `Timeout` at the deadline: the message may have been stored.
    ///
    /// # Cancel safety
    /// After the first poll the messages belong to the backend: dropping the future gives up the answer,
    /// not the messages.
    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>>;

    /// Starts to consume a queue that was declared; an ephemeral one is declared by this call.
    ///
    /// # Contract
    /// - `consumers_of_one_queue_compete`
    /// - `an_ephemeral_subscription_gets_its_own_copy`
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the queue does not exist.
    ///
    /// # Cancel safety
    /// Nothing was taken from the queue.
    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription>;

    /// Removes a binding or a queue. What is not there counts as removed.
    ///
    /// # Contract
    /// - `an_unbound_pattern_stops_matching_at_once`
    /// - `pruning_keeps_what_is_declared`
    /// - `deleting_a_queue_takes_its_retries_and_dead_letters_along`
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the broker cannot do it.
    ///
    /// # Cancel safety
    /// It may have been removed; removing again completes it.
    async fn remove(&self, removal: &Removal) -> Result<()>;

    /// The dead letters of a queue.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the queue does not exist.
    ///
    /// # Cancel safety
    /// Nothing was changed.
    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>>;

    /// Flushes what is under way and closes. Later calls fail with [`Closed`](crate::ErrorKind::Closed), and
    /// so do the subscriptions; what they hold comes back without a suspicion.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when something was still under way at the deadline.
    ///
    /// # Cancel safety
    /// The transport may be closed or not; closing again completes it.
    async fn close(&self, deadline: Instant) -> Result<()>;
}

/// A publish that the broker took responsibility for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The id of the message.
    pub id: MessageId,
    /// How many queues took it, where the broker can know.
    pub queues: Option<u32>,
}

impl Receipt {
    /// A receipt, as a backend makes it.
    pub fn new(id: MessageId, queues: Option<u32>) -> Self {
        Self { id, queues }
    }
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Connected, and working as far as is known.
    Connected,
    /// Lost, and trying to connect again.
    Reconnecting,
    /// Closed for good.
    Closed,
}

impl ConnectionState {
    /// One state for two connections of a backend, of each of which it knows how to tell the state: connected when
    /// both are, and closed when one of them is, or nobody changes it any more.
    pub fn of_both<T: Send + Sync + 'static>(
        mut one: watch::Receiver<T>,
        mut other: watch::Receiver<T>,
        state: fn(&T) -> Self,
    ) -> watch::Receiver<Self> {
        let now = move |one: &watch::Receiver<T>, other: &watch::Receiver<T>| match (
            state(&one.borrow()),
            state(&other.borrow()),
        ) {
            (Self::Closed, _) | (_, Self::Closed) => Self::Closed,
            (Self::Connected, Self::Connected) => Self::Connected,
            _ => Self::Reconnecting,
        };
        let (both, watched) = watch::channel(now(&one, &other));
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = one.changed() => changed,
                    changed = other.changed() => changed,
                    () = both.closed() => return,
                };
                // The other side is gone: nothing more changes.
                let next = match changed {
                    Ok(()) => now(&one, &other),
                    Err(_) => Self::Closed,
                };
                both.send_if_modified(|state| std::mem::replace(state, next) != next);
                if next == Self::Closed {
                    return;
                }
            }
        });
        watched
    }
}

/// A queue being consumed. Dropping it with something unsettled is a crash, as far as the broker sees: what
/// it holds comes back after the lease. It is dropped when both `deliveries` and `settle` are.
#[derive(Debug)]
pub struct Subscription {
    /// Gives deliveries.
    pub deliveries: Box<dyn Deliveries>,
    /// Settles them.
    pub settle: Arc<dyn Settle>,
    /// Cancelled by the framework to end the reader: from then on `next` gives what it has, then `Ended`.
    pub stop: CancellationToken,
}

/// The one reader of a subscription.
#[async_trait]
pub trait Deliveries: fmt::Debug + Send {
    /// Waits for something to arrive, through reconnects if need be. `max` is at least 1.
    ///
    /// After a lost connection the generation of later tags is a new one.
    ///
    /// # Contract
    /// - `a_batch_is_never_larger_than_asked_for`
    /// - `a_stopped_reader_ends`
    /// - `leases_are_renewed_while_the_subscription_lives`
    ///
    /// # Errors
    /// The subscription is over and will not come back by itself.
    ///
    /// # Cancel safety
    /// Not needed: the framework never drops this future in the middle.
    async fn next(&mut self, max: usize) -> Result<Arrival>;
}

/// What a reader met.
#[derive(Debug)]
#[non_exhaustive]
pub enum Arrival {
    /// Deliveries in the order of their tags; at least one.
    Batch(Vec<Delivery>),
    /// This generation is about to be taken away. The framework starts nothing more of it and calls `next`
    /// again when all of it is settled, or at the latest then.
    Revoking {
        /// The generation.
        generation: u64,
        /// How long it may take.
        until: Instant,
    },
    /// This generation was taken away: what is held of it is lost, and settles nothing. Comes without a
    /// `Revoking` before it when there was no time, and when the connection was lost. What has not begun is
    /// forgotten, so that it is handled once, when it comes again.
    Revoked {
        /// The generation.
        generation: u64,
    },
    /// The reader was stopped and has given everything.
    Ended,
}

/// Settles the deliveries of a subscription, at any time and from any task.
#[async_trait]
pub trait Settle: fmt::Debug + Send + Sync {
    /// Settles a batch and answers for each, in the order of the batch. Never waits for a read.
    ///
    /// # Contract
    /// - `an_acknowledged_delivery_is_gone`
    /// - `a_released_delivery_comes_back_at_once`
    /// - `a_retry_waits_for_its_delay`
    /// - `the_copy_is_stored_before_the_original_is_removed`
    /// - `a_stale_tag_settles_nothing`
    ///
    /// # Errors
    /// The copy could not be stored, or the broker did not answer: the original stays unsettled and may be
    /// settled again.
    ///
    /// # Cancel safety
    /// Each settlement may have been done or not.
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>>;

    /// Records that a suspect is about to run with nothing else of this process in flight, and answers how
    /// often that was recorded for it before without its being settled afterwards.
    ///
    /// # Contract
    /// - `isolation_counts_only_runs_alone`
    ///
    /// Counts once for a delivery, however often it is called for it.
    ///
    /// # Errors
    /// The broker did not record it, or the tag is stale; the suspect must not run. Retryable unless it is stale.
    ///
    /// # Cancel safety
    /// It may have been recorded.
    async fn isolate(&self, tag: DeliveryTag) -> Result<u32>;
}

/// The dead letters of one queue.
#[async_trait]
pub trait DeadLetters: fmt::Debug + Send + Sync {
    /// The dead letters after this one, which may be gone already, oldest first, at most `limit`.
    ///
    /// # Contract
    /// - `dead_letters_are_listed_in_pages`
    ///
    /// # Errors
    /// The broker did not answer.
    ///
    /// # Cancel safety
    /// Nothing was changed.
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>>;

    /// Puts dead letters back into their queue, as
    /// [`DeadLetter::into_replay`](crate::DeadLetter::into_replay) makes them, then removes them. Answers
    /// how many.
    ///
    /// # Contract
    /// - `replay_puts_a_dead_letter_back_into_its_queue_only`
    ///
    /// # Errors
    /// Some may have been replayed; none was lost.
    ///
    /// # Cancel safety
    /// Each may have been replayed; a crash in between may leave it in both places.
    async fn replay(&self, selection: &Selection) -> Result<u64>;

    /// Removes dead letters for good. Answers how many.
    ///
    /// # Contract
    /// - `purge_removes_dead_letters`
    ///
    /// # Errors
    /// Some may have been removed.
    ///
    /// # Cancel safety
    /// Each may have been removed.
    async fn purge(&self, selection: &Selection) -> Result<u64>;
}
