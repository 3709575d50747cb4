//! One queue: its arguments, its messages and its consumers.

use std::collections::BTreeSet;

use event_core::{
    Arrival, Binding, Delivery, DeliveryTag, Error, Message, QueueName, QueueSpec, Result, Settled,
    Settlement,
};
use tokio::time::{Duration, Instant};

use crate::{
    consumers::{Consumer, Consumers, Presence, Revocation},
    error,
    faults::Faults,
    messages::{Comeback, Messages},
    state::Ids,
};

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    /// Tells it from an earlier queue at the same index or of the same name.
    pub(crate) serial: u64,
    pub(crate) arguments: Arguments,
    pub(crate) ephemeral: bool,
    pub(crate) bindings: BTreeSet<Binding>,
    pub(crate) messages: Messages,
    pub(crate) consumers: Consumers,
    ids: Ids,
}

/// What a queue was declared with, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) ordered: bool,
    pub(crate) max_length: Option<u64>,
}

impl Arguments {
    pub(crate) fn of(spec: &QueueSpec) -> Self {
        Self {
            ordered: spec.ordered,
            max_length: spec.max_length,
        }
    }
}

/// What a reader got.
pub(crate) enum Taken {
    Arrival(Arrival),
    /// Nothing before somebody wakes it, or this time comes.
    Wait(Option<Instant>),
    /// Its connection was closed.
    Closed,
}

impl Queue {
    pub(crate) fn new(name: QueueName, arguments: Arguments, ephemeral: bool, ids: Ids) -> Self {
        Self {
            name,
            serial: ids.next(),
            arguments,
            ephemeral,
            bindings: BTreeSet::new(),
            messages: Messages::new(arguments.ordered),
            consumers: Consumers::new(arguments.ordered),
            ids,
        }
    }

    /// Whether this many more messages fit without a closer look.
    pub(crate) fn has_room_for(&self, count: usize) -> bool {
        self.arguments
            .max_length
            .is_none_or(|limit| (self.messages.len() + count) as u64 <= limit)
    }

    /// Stores a message, and wakes nobody: that is done once for a batch.
    pub(crate) fn push(&mut self, message: Message) -> Result<()> {
        if let Some(limit) = self.arguments.max_length.filter(|_| !self.has_room_for(1)) {
            // An ephemeral one must not hold up those who publish, and may forget.
            if !self.ephemeral || self.messages.pop().is_none() {
                return Err(error::full(&self.name, limit));
            }
        }
        self.messages.push(message);
        Ok(())
    }

    pub(crate) fn wake(&mut self) {
        self.consumers.wake(self.messages.ready());
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let consumers = self.consumers.iter().filter_map(Consumer::next_due);
        consumers.chain(self.messages.next_due()).min()
    }

    /// Does what is due by now. Costs no reading of the clock when nothing ever will be.
    pub(crate) fn advance(&mut self) {
        let Some(due) = self.next_due() else { return };
        let now = Instant::now();
        if due > now {
            return;
        }
        self.messages.advance(now);
        let late = |consumer: &Consumer| consumer.next_due().is_some_and(|due| due <= now);
        let ids: Vec<u64> = self
            .consumers
            .iter_mut()
            .filter(|(_, consumer)| late(consumer))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            match self.consumers.get(id).map(|consumer| consumer.presence) {
                Some(Presence::Gone(_)) => self.remove_consumer(id, Comeback::Crashed),
                _ => self.revoke_now(id),
            }
        }
        self.wake();
    }

    /// Gives what a consumer holds back to the queue, and begins a new generation.
    pub(crate) fn renew(&mut self, id: u64) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        let held = std::mem::take(&mut consumer.held).into_values().collect();
        consumer.generation = self.ids.next();
        consumer.revocation = None;
        // It may wait for room, or for a time that has changed.
        consumer.wake.notify_one();
        self.messages.give_back(held, Comeback::Lost);
        self.wake();
    }

    /// The same, and tells its reader.
    pub(crate) fn revoke_now(&mut self, id: u64) {
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        // A reader that has not heard of the last time was given nothing since.
        let generation = match consumer.revocation {
            Some(Revocation::Done { generation }) => generation,
            _ => consumer.generation,
        };
        self.renew(id);
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.revocation = Some(Revocation::Done { generation });
        }
    }

    /// Takes a consumer off; what it still holds comes back.
    pub(crate) fn remove_consumer(&mut self, id: u64, why: Comeback) {
        let Some(consumer) = self.consumers.remove(id) else {
            return;
        };
        self.messages
            .give_back(consumer.held.into_values().collect(), why);
        self.wake();
    }

    /// Announces to every consumer that its generation will be taken away.
    pub(crate) fn revoke(&mut self, grace: Duration) {
        let until = after(Instant::now(), grace);
        for (_, consumer) in self.consumers.iter_mut() {
            if consumer.presence == Presence::Reading && consumer.revocation.is_none() {
                consumer.revocation = Some(Revocation::Announced { until });
            }
        }
        self.consumers.wake_all();
    }

    /// The reader has ended or was dropped. Without anything held, the consumer is no more.
    pub(crate) fn end(&mut self, id: u64) {
        self.consumers.leave(id);
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        if consumer.presence == Presence::Reading {
            consumer.presence = Presence::Ended;
        }
        let done = consumer.held.is_empty();
        if done && !self.ephemeral {
            self.remove_consumer(id, Comeback::Released);
        }
        self.wake();
    }

    /// The subscription was dropped: what it holds comes back when its lease ends.
    pub(crate) fn abandon(&mut self, id: u64) {
        self.end(id);
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.presence = Presence::Gone(after(Instant::now(), consumer.lease));
            consumer.revocation = None;
            self.consumers.wake_all();
        }
    }

    /// The next deliveries for a consumer, at most `max`; or notes that it waits.
    pub(crate) fn take(&mut self, id: u64, max: usize, faults: Option<&mut Faults>) -> Taken {
        self.advance();
        self.consumers.leave(id);
        let taken = self.take_now(id, max, faults);
        // What it left is for those who wait.
        self.wake();
        taken
    }

    fn take_now(&mut self, id: u64, max: usize, faults: Option<&mut Faults>) -> Taken {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return Taken::Closed;
        };
        let generation = consumer.generation;
        match consumer.revocation {
            None => {}
            Some(Revocation::Announced { until }) => {
                consumer.revocation = Some(Revocation::Draining { until });
                return Taken::Arrival(Arrival::Revoking { generation, until });
            }
            Some(Revocation::Draining { .. }) => {
                self.revoke_now(id);
                return self.take_now(id, max, faults);
            }
            Some(Revocation::Done { generation }) => {
                consumer.revocation = None;
                return Taken::Arrival(Arrival::Revoked { generation });
            }
        }
        let room = consumer.room().min(max);
        let count = self.consumers.share(id, self.messages.ready()).min(room);
        if count > 0 {
            return Taken::Arrival(Arrival::Batch(self.deliver(id, count, faults)));
        }
        // Who asks for none is not to be woken for any.
        if max > 0 {
            self.consumers.wait(id);
        }
        Taken::Wait(self.next_due())
    }

    fn deliver(&mut self, id: u64, count: usize, faults: Option<&mut Faults>) -> Vec<Delivery> {
        let Self {
            messages,
            consumers,
            ephemeral,
            ..
        } = self;
        let Some(consumer) = consumers.get_mut(id) else {
            return Vec::new();
        };
        let generation = consumer.generation;
        if *ephemeral {
            let messages = (0..count).map_while(|_| messages.pop());
            let tag = |number| DeliveryTag { generation, number };
            return messages
                .map(|message| Delivery::new(message, tag(consumer.held.skip())))
                .collect();
        }
        let hold = |place| DeliveryTag {
            generation,
            number: consumer.held.push(place),
        };
        match faults {
            None => messages.give(count, hold),
            Some(faults) => messages.give_with(faults, count, hold),
        }
    }

    /// Counts a run alone; nothing when the tag is stale.
    pub(crate) fn isolate(&mut self, id: u64, tag: DeliveryTag) -> Option<u32> {
        self.advance();
        let consumer = self
            .consumers
            .get(id)
            .filter(|consumer| consumer.generation == tag.generation)?;
        Some(self.messages.isolate(*consumer.held.get(tag.number)?))
    }

    /// Settles a batch of one consumer.
    pub(crate) fn settle(
        &mut self,
        id: u64,
        settlements: Vec<Settlement>,
        mut faults: Option<&mut Faults>,
    ) -> Vec<Result<Settled>> {
        self.advance();
        let Self {
            messages,
            consumers,
            ephemeral,
            ..
        } = self;
        let Some(consumer) = consumers.get_mut(id) else {
            return all(&settlements, || Ok(Settled::Lost));
        };
        let mut clock = Clock::default();
        let mut released = Vec::new();
        let results = settlements
            .into_iter()
            .map(|settlement| {
                let tag = settlement.tag();
                if let Some(faults) = &mut faults
                    && faults.drops_ack()
                {
                    return Err(error::ack_lost(tag));
                }
                if tag.generation != consumer.generation {
                    return Ok(Settled::Lost);
                }
                if *ephemeral {
                    if let Settlement::Retry { message, delay, .. } = settlement {
                        messages.delay(*message, clock.after(delay), None);
                    }
                    return Ok(Settled::Done);
                }
                let Some(place) = consumer.held.take(tag.number) else {
                    return Ok(Settled::Lost);
                };
                match settlement {
                    Settlement::Ack(_) => messages.discard(place),
                    Settlement::Release(_) => released.push(place),
                    Settlement::Retry { message, delay, .. } => {
                        messages.retry(place, *message, clock.after(delay));
                    }
                    Settlement::DeadLetter { message, .. } => messages.bury(place, *message),
                }
                Ok(Settled::Done)
            })
            .collect();
        messages.tidy();
        consumer.held.tidy();
        consumer.wake_if_full();
        let done = consumer.presence == Presence::Ended && consumer.held.is_empty();
        if !released.is_empty() {
            messages.give_back(released, Comeback::Released);
            consumers.wake(messages.ready());
        }
        if clock.was_read() {
            // A retry may be due before what the readers wait for.
            consumers.wake_all();
        }
        if done && !*ephemeral {
            self.remove_consumer(id, Comeback::Released);
        }
        results
    }
}

/// One answer for each settlement.
pub(crate) fn all(
    settlements: &[Settlement],
    answer: impl Fn() -> Result<Settled, Error>,
) -> Vec<Result<Settled>> {
    settlements.iter().map(|_| answer()).collect()
}

/// The time of a batch, read only if something in it needs it.
#[derive(Default)]
struct Clock(Option<Instant>);

impl Clock {
    fn after(&mut self, delay: Duration) -> Instant {
        after(*self.0.get_or_insert_with(Instant::now), delay)
    }

    fn was_read(&self) -> bool {
        self.0.is_some()
    }
}

/// A delay too long for the clock means never, or nearly so.
fn after(now: Instant, delay: Duration) -> Instant {
    const THIRTY_YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);
    now.checked_add(delay).unwrap_or_else(|| now + THIRTY_YEARS)
}
