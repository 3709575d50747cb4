//! Looking inside the broker, for tests.

use event_core::{Message, QueueName};

use crate::{broker::MemoryBroker, queue::Queue, state::Shared, subscription::reached};

/// What a queue holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueState {
    /// Messages that wait for a consumer.
    pub ready: usize,
    /// Deliveries that are not settled, those of a dropped consumer included until its lease has passed.
    pub held: usize,
    /// Retries that wait for their time.
    pub delayed: usize,
    /// Dead letters.
    pub dead: usize,
    /// Subscriptions that take deliveries.
    pub consumers: usize,
}

impl QueueState {
    /// Whether nothing is left to do: all is settled, for good or as dead letters.
    pub fn is_idle(&self) -> bool {
        self.ready + self.held + self.delayed == 0
    }

    fn of(queue: &Queue) -> Self {
        let (ready, delayed) = (queue.messages.ready(), queue.messages.delayed());
        Self {
            ready,
            held: queue.messages.len() - ready - delayed,
            delayed,
            dead: queue.messages.dead().len(),
            consumers: queue.consumers.reading(),
        }
    }
}

impl MemoryBroker {
    /// What the queue holds now; nothing when there is no such queue.
    pub fn queue_state(&self, queue: &str) -> Option<QueueState> {
        self.shared.update(|state| {
            let queue = state.queues.named(queue)?;
            queue.advance();
            Some(QueueState::of(queue))
        })
    }

    /// The names of the queues, sorted. Ephemeral ones have none.
    pub fn queues(&self) -> Vec<QueueName> {
        let mut names: Vec<QueueName> = self
            .shared
            .update(|state| state.queues.names().cloned().collect());
        names.sort_unstable();
        names
    }

    /// Waits until the queue exists and is in a state that the condition accepts, and answers that state.
    /// Waits for ever if that never comes; put a timeout around it.
    ///
    /// ```
    /// # use event_memory::MemoryBroker;
    /// # async fn example(broker: MemoryBroker) {
    /// broker.wait_until("billing_order", |queue| queue.consumers > 0).await;
    /// # }
    /// ```
    pub async fn wait_until(
        &self,
        queue: &str,
        condition: impl Fn(&QueueState) -> bool,
    ) -> QueueState {
        let _watching = Watching::new(&self.shared);
        loop {
            // Made before looking, so that no change between the look and the wait is missed.
            let changed = self.shared.changed.notified();
            let (now, due) = self.shared.update_unseen(|state| {
                let Some(queue) = state.queues.named(queue) else {
                    return (None, None);
                };
                queue.advance();
                (Some(QueueState::of(queue)), queue.next_due())
            });
            if let Some(now) = now.filter(|now| condition(now)) {
                return now;
            }
            tokio::select! {
                () = changed => {}
                () = reached(due) => {}
            }
        }
    }

    /// Waits until the queue exists and nothing is ready, held or delayed in it.
    pub async fn wait_idle(&self, queue: &str) -> QueueState {
        self.wait_until(queue, QueueState::is_idle).await
    }

    /// Records what is published from now on, or ends it and forgets the record. Of more than 65,536 messages
    /// the oldest are forgotten.
    pub fn record(&self, on: bool) {
        self.shared.update(|state| {
            state.recorded = match state.recorded.take() {
                Some(recorded) if on => Some(recorded),
                _ => on.then(Default::default),
            };
        });
    }

    /// The messages that the broker took since [`record`](Self::record), in order, also those that no
    /// queue was bound for.
    pub fn published(&self) -> Vec<Message> {
        self.shared
            .update(|state| state.recorded.iter().flatten().cloned().collect())
    }
}

/// Counts those who want to hear of changes: without any, a change costs nothing more.
struct Watching<'a>(&'a Shared);

impl<'a> Watching<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.update_unseen(|state| state.watchers += 1);
        Self(shared)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.update_unseen(|state| state.watchers -= 1);
    }
}
