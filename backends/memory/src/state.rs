//! Everything the broker knows, behind one lock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use event_core::{ConnectionState, DeliveryTag, Message, QueueSpec, Result, Settled, Settlement};
use tokio::{
    sync::{Notify, watch},
    time::Duration,
};

use crate::{
    consumers::Consumer,
    error,
    exchange::{Exchanges, QueueIndex},
    faults::Faults,
    messages::Comeback,
    publishing::Pending,
    queue::{self, Arguments, Queue, Taken},
    queues::{QueueRef, Queues},
};

/// What all handles, connections and subscriptions of a broker share.
#[derive(Default)]
pub(crate) struct Shared {
    // A std mutex, taken once per batch: nothing awaits while it is held.
    state: Mutex<State>,
    /// Told of changes while somebody watches.
    pub(crate) changed: Notify,
}

impl Shared {
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, watched) = self.update_unseen(|state| (change(state), state.watchers > 0));
        if watched {
            self.changed.notify_waiters();
        }
        result
    }

    /// The same for what is no change to those who watch.
    pub(crate) fn update_unseen<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        // Nothing under the lock panics; if it did, one failed test should not hide behind many.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) exchanges: Exchanges,
    pub(crate) queues: Queues,
    pub(crate) connections: BTreeMap<u64, watch::Sender<ConnectionState>>,
    pub(crate) ids: Ids,
    pub(crate) max_message: Option<usize>,
    pub(crate) faults: Option<Faults>,
    /// During an outage, the publishes that wait for its end.
    pub(crate) outage: Option<Vec<Pending>>,
    pub(crate) recorded: Option<VecDeque<Message>>,
    pub(crate) watchers: usize,
}

/// Numbers for connections, subscriptions, generations and queues: each once in the life of a broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids(Arc<AtomicU64>);

impl Ids {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }
}

/// A consumer, and where it consumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerRef {
    pub(crate) connection: u64,
    pub(crate) queue: QueueRef,
    pub(crate) id: u64,
}

impl State {
    /// What every call but publishing begins with.
    pub(crate) fn reach(&self) -> Result<()> {
        if self.outage.is_some() {
            Err(error::outage())
        } else {
            Ok(())
        }
    }

    pub(crate) fn consume(
        &mut self,
        connection: u64,
        spec: &QueueSpec,
    ) -> Result<(ConsumerRef, Arc<Notify>)> {
        let queue = self.queue_for(spec)?;
        let (id, generation) = (self.ids.next(), self.ids.next());
        let consumer = Consumer::new(connection, generation, spec.lease, spec.prefetch);
        let wake = consumer.wake.clone();
        if let Some(queue) = self.queues.get(queue) {
            queue.consumers.insert(id, consumer);
        }
        Ok((
            ConsumerRef {
                connection,
                queue,
                id,
            },
            wake,
        ))
    }

    pub(crate) fn new_queue(&mut self, spec: &QueueSpec, ephemeral: bool) -> QueueRef {
        let queue = Queue::new(
            spec.name.clone(),
            Arguments::of(spec),
            ephemeral,
            self.ids.clone(),
        );
        self.queues.insert(queue)
    }

    pub(crate) fn delete_queue(&mut self, index: QueueIndex) {
        if let Some(queue) = self.queues.remove(index) {
            self.exchanges.unbind_all(&queue.bindings, index);
            // They find that it is gone.
            queue.consumers.wake_all();
        }
    }

    /// Deliveries for a consumer; nothing when its queue was deleted.
    pub(crate) fn take(&mut self, consumer: ConsumerRef, max: usize) -> Option<Taken> {
        let queue = self.queues.get(consumer.queue)?;
        if self.outage.is_some() {
            queue.consumers.leave(consumer.id);
            return Some(Taken::Wait(None));
        }
        let Some(faults) = &mut self.faults else {
            return Some(queue.take(consumer.id, max, None));
        };
        if queue.messages.ready() > 0 && faults.disconnects() {
            self.disconnect(Some(consumer.connection));
        }
        Some(
            self.queues
                .get(consumer.queue)?
                .take(consumer.id, max, self.faults.as_mut()),
        )
    }

    pub(crate) fn settle(
        &mut self,
        consumer: ConsumerRef,
        mut settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        if self.outage.is_some() {
            return queue::all(&settlements, || Err(error::outage()));
        }
        let Some(queue) = self.queues.get(consumer.queue) else {
            return queue::all(&settlements, || Ok(Settled::Lost));
        };
        let Some(faults) = &mut self.faults else {
            return queue.settle(consumer.id, settlements, None);
        };
        let Some(done) = faults.disconnects_within(settlements.len()) else {
            return queue.settle(consumer.id, settlements, Some(faults));
        };
        let answers = queue::all(&settlements, || Err(error::disconnected()));
        settlements.truncate(done);
        queue.settle(consumer.id, settlements, Some(faults));
        self.disconnect(Some(consumer.connection));
        answers
    }

    pub(crate) fn isolate(&mut self, consumer: ConsumerRef, tag: DeliveryTag) -> Result<u32> {
        let alone = self
            .queues
            .get(consumer.queue)
            .and_then(|queue| queue.isolate(consumer.id, tag));
        alone.ok_or_else(|| error::no_delivery(tag))
    }

    /// The reader no longer waits, and takes nothing either.
    pub(crate) fn leave(&mut self, consumer: ConsumerRef) {
        if let Some(queue) = self.queues.get(consumer.queue) {
            queue.consumers.leave(consumer.id);
            queue.wake();
        }
    }

    pub(crate) fn end(&mut self, consumer: ConsumerRef) {
        if let Some(queue) = self.queues.get(consumer.queue) {
            queue.end(consumer.id);
        }
    }

    pub(crate) fn abandon(&mut self, consumer: ConsumerRef) {
        match self.queues.get(consumer.queue) {
            Some(queue) if queue.ephemeral => self.delete_queue(consumer.queue.index),
            Some(queue) => queue.abandon(consumer.id),
            None => {}
        }
    }

    /// Cuts one connection, or all: what they hold comes back, and their old tags are stale.
    pub(crate) fn disconnect(&mut self, connection: Option<u64>) {
        for (_, queue) in self.queues.iter_mut() {
            let cut = |consumer: &Consumer| connection.is_none_or(|id| consumer.connection == id);
            for id in queue.consumers.present(cut) {
                if queue.ephemeral {
                    queue.messages.forget();
                }
                queue.revoke_now(id);
            }
        }
        for (id, state) in &self.connections {
            if connection.is_none_or(|cut| cut == *id) && self.outage.is_none() {
                state.send_replace(ConnectionState::Reconnecting);
                state.send_replace(ConnectionState::Connected);
            }
        }
    }

    pub(crate) fn close(&mut self, connection: u64) {
        let mut ephemeral = Vec::new();
        for (index, queue) in self.queues.iter_mut() {
            for id in queue
                .consumers
                .present(|consumer| consumer.connection == connection)
            {
                queue.consumers.wake_all();
                queue.remove_consumer(id, Comeback::Lost);
                if queue.ephemeral {
                    ephemeral.push(index);
                }
            }
        }
        for index in ephemeral {
            self.delete_queue(index);
        }
        self.drop_pending(connection);
        if let Some(state) = self.connections.remove(&connection) {
            state.send_replace(ConnectionState::Closed);
        }
    }

    pub(crate) fn revoke(&mut self, queue: &str, grace: Duration) -> Result<()> {
        self.queues
            .named(queue)
            .ok_or_else(|| error::no_queue(queue))?
            .revoke(grace);
        Ok(())
    }
}
