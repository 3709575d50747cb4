//! The consumers of one queue: who waits, who is woken, who is gone.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{messages::Place, window::Window};

/// One subscription, as its queue sees it.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) connection: u64,
    /// The generation of the tags it holds.
    pub(crate) generation: u64,
    pub(crate) lease: Duration,
    pub(crate) prefetch: usize,
    /// What it holds, by the numbers of its tags.
    pub(crate) held: Window<Place>,
    /// Wakes its reader, which waits for nothing else.
    pub(crate) wake: Arc<Notify>,
    pub(crate) presence: Presence,
    pub(crate) revocation: Option<Revocation>,
    reader: ReaderState,
}

/// Whether a consumer takes deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Reading,
    /// Its reader has ended; what it holds it may still settle.
    Ended,
    /// It was dropped; what it holds comes back at this time.
    Gone(Instant),
}

/// How far taking away its generation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revocation {
    /// The reader does not know yet.
    Announced { until: Instant },
    /// The reader knows, and has not come back.
    Draining { until: Instant },
    /// It was taken away, and the reader does not know that yet.
    Done { generation: u64 },
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReaderState {
    /// Not in `next`.
    Away,
    /// In `next`, for something to become ready.
    Idle,
    /// Woken for something that is ready, and not back yet.
    Woken,
    /// In `next`, for something of its own to be settled.
    Full,
}

impl Consumer {
    pub(crate) fn new(connection: u64, generation: u64, lease: Duration, prefetch: usize) -> Self {
        Self {
            connection,
            generation,
            lease,
            // None at all would be a subscription that waits for ever.
            prefetch: prefetch.max(1),
            held: Window::default(),
            wake: Arc::default(),
            presence: Presence::Reading,
            revocation: None,
            reader: ReaderState::Away,
        }
    }

    pub(crate) fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.held.len())
    }

    /// When something happens to it that nobody does.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match (self.presence, self.revocation) {
            (Presence::Gone(until), _) => Some(until),
            (_, Some(Revocation::Announced { until } | Revocation::Draining { until })) => {
                Some(until)
            }
            _ => None,
        }
    }

    /// Wakes its reader if that waits for room and there is some.
    pub(crate) fn wake_if_full(&mut self) {
        if self.reader == ReaderState::Full && self.room() > 0 {
            self.reader = ReaderState::Away;
            self.wake.notify_one();
        }
    }
}

/// The consumers of one queue, by age.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    all: BTreeMap<u64, Consumer>,
    /// Those whose reader is `Idle`; who has waited longest is first.
    idle: VecDeque<u64>,
    /// How many are `Woken`.
    woken: usize,
    /// Whether only the oldest consumer takes deliveries.
    one_at_a_time: bool,
}

impl Consumers {
    pub(crate) fn new(one_at_a_time: bool) -> Self {
        Self {
            one_at_a_time,
            ..Self::default()
        }
    }

    pub(crate) fn insert(&mut self, id: u64, consumer: Consumer) {
        self.all.insert(id, consumer);
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Consumer> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Consumer> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.all.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Consumer)> {
        self.all.iter_mut().map(|(id, consumer)| (*id, consumer))
    }

    /// How many take deliveries.
    pub(crate) fn reading(&self) -> usize {
        self.all
            .values()
            .filter(|consumer| consumer.presence == Presence::Reading)
            .count()
    }

    /// Those that were not dropped, as far as they are wanted.
    pub(crate) fn present(&self, wanted: impl Fn(&Consumer) -> bool) -> Vec<u64> {
        let here = |consumer: &Consumer| {
            !matches!(consumer.presence, Presence::Gone(_)) && wanted(consumer)
        };
        self.all
            .iter()
            .filter(|(_, consumer)| here(consumer))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Consumer> {
        self.leave(id);
        self.all.remove(&id)
    }

    /// How many of `ready` this consumer may take, its own limits aside: its share where others wait, and
    /// always one less for each that was woken and has not come yet.
    pub(crate) fn share(&self, id: u64, ready: usize) -> usize {
        if self.one_at_a_time {
            return if self.oldest() == Some(id) { ready } else { 0 };
        }
        let others = self.idle.len() + self.woken;
        ready
            .div_ceil(others + 1)
            .min(ready.saturating_sub(self.woken))
    }

    fn oldest(&self) -> Option<u64> {
        self.all.keys().next().copied()
    }

    /// Notes that the reader waits.
    pub(crate) fn wait(&mut self, id: u64) {
        let Some(consumer) = self.all.get_mut(&id) else {
            return;
        };
        if consumer.room() == 0 {
            consumer.reader = ReaderState::Full;
        } else {
            consumer.reader = ReaderState::Idle;
            self.idle.push_back(id);
        }
    }

    /// Notes that the reader waits no longer.
    pub(crate) fn leave(&mut self, id: u64) {
        let Some(consumer) = self.all.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut consumer.reader, ReaderState::Away) {
            ReaderState::Idle => self.idle.retain(|idle| *idle != id),
            ReaderState::Woken => self.woken -= 1,
            ReaderState::Away | ReaderState::Full => {}
        }
    }

    /// Wakes one reader for each message that is ready, as far as some wait.
    pub(crate) fn wake(&mut self, ready: usize) {
        while self.woken < ready
            && let Some(at) = self.next_to_wake()
            && let Some(id) = self.idle.remove(at)
        {
            if let Some(consumer) = self.all.get_mut(&id) {
                consumer.reader = ReaderState::Woken;
                consumer.wake.notify_one();
                self.woken += 1;
            }
        }
    }

    /// Who of the idle ones comes next.
    fn next_to_wake(&self) -> Option<usize> {
        if self.one_at_a_time {
            let oldest = self.oldest()?;
            return self.idle.iter().position(|idle| *idle == oldest);
        }
        (!self.idle.is_empty()).then_some(0)
    }

    /// Wakes every reader, because what they wait for has changed.
    pub(crate) fn wake_all(&self) {
        for consumer in self.all.values() {
            consumer.wake.notify_one();
        }
    }
}
