//! What a queue holds: ready, delayed, dead, and held by consumers, who know their slots.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use event_core::Message;
use tokio::time::Instant;

use crate::{
    faults::Faults,
    stored::{Slot, Store, Stored},
};

/// The messages of one queue.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    store: Store,
    /// Ascending by place.
    ready: VecDeque<Slot>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    next_place: u64,
    dead: BTreeMap<u64, Message>,
    last_dead: u64,
    /// Whether a retry goes back to the place of its original instead of the end.
    ordered: bool,
}

/// Orders by due time, then by the order of the settlements.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    due: Instant,
    order: u64,
    slot: Slot,
}

/// Why a held message comes back without being settled for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comeback {
    /// The consumer released it.
    Released,
    /// The connection or assignment was lost; the process lives.
    Lost,
    /// The consumer is gone, perhaps because of it.
    Crashed,
}

impl Messages {
    pub(crate) fn new(ordered: bool) -> Self {
        Self {
            ordered,
            ..Self::default()
        }
    }

    /// Everything that is not settled.
    pub(crate) fn len(&self) -> usize {
        self.store.len()
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    pub(crate) fn push(&mut self, message: Message) {
        let place = self.end();
        let slot = self.store.insert(Stored::new(message, place));
        self.ready.push_back(slot);
    }

    fn end(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    /// Takes the next `count` messages off the front, which must be there, and shows each.
    pub(crate) fn hand_out(&mut self, count: usize, mut show: impl FnMut(Slot, &Stored)) {
        for slot in self.ready.drain(..count) {
            show(slot, self.store.get(slot));
        }
    }

    /// The same with what the faults make of it: another order, or a second time later.
    pub(crate) fn hand_out_with(
        &mut self,
        faults: &mut Faults,
        count: usize,
        mut show: impl FnMut(Slot, &Stored),
    ) {
        for _ in 0..count {
            let at = self.overtaker(faults).unwrap_or(0);
            let Some(slot) = self.ready.remove(at) else {
                return;
            };
            let stored = self.store.get(slot);
            show(slot, stored);
            if !stored.double && faults.delivers_twice() {
                let message = stored.message.clone();
                let redeliveries = stored.redeliveries + 1;
                let again = Stored {
                    redeliveries,
                    double: true,
                    ..Stored::new(message, self.end())
                };
                let slot = self.store.insert(again);
                self.ready.push_back(slot);
            }
        }
    }

    /// Which of the next ready messages overtakes the first: none of its own partition key.
    fn overtaker(&self, faults: &mut Faults) -> Option<usize> {
        let at = faults.reorders(self.ready.len())?;
        let key = |at: usize| self.store.get(self.ready[at]).message.partition_key();
        let free = key(at).is_none() || (0..at).all(|earlier| key(earlier) != key(at));
        free.then_some(at)
    }

    /// Takes the next `count` messages out for good.
    pub(crate) fn take(&mut self, count: usize) -> impl Iterator<Item = Stored> {
        self.ready
            .drain(..count)
            .filter_map(|slot| self.store.take(slot))
    }

    /// Removes a message that is settled.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.store.remove(slot);
    }

    /// Puts held messages back to their old places.
    pub(crate) fn give_back(&mut self, slots: Vec<Slot>, why: Comeback) {
        // Backwards, since each then usually goes to the very front.
        for slot in slots.into_iter().rev() {
            let stored = self.store.get_mut(slot);
            match why {
                Comeback::Released => stored.suspect &= !stored.isolated,
                Comeback::Lost => stored.redeliveries += 1,
                Comeback::Crashed => {
                    stored.redeliveries += 1;
                    stored.suspect = true;
                }
            }
            // Only a crash counts as one; the other two ended a run alone in good order.
            if stored.isolated && why != Comeback::Crashed {
                stored.alone -= 1;
            }
            stored.isolated = false;
            self.insert_ready(slot);
        }
    }

    fn insert_ready(&mut self, slot: Slot) {
        let place = self.store.get(slot).place;
        let at = match self.ready.front() {
            Some(&first) if self.store.get(first).place < place => self
                .ready
                .partition_point(|&other| self.store.get(other).place < place),
            _ => 0,
        };
        self.ready.insert(at, slot);
    }

    /// Counts a run alone, once for each delivery, and answers how often it was counted before.
    pub(crate) fn isolate(&mut self, slot: Slot) -> u32 {
        let stored = self.store.get_mut(slot);
        if !stored.isolated {
            stored.isolated = true;
            stored.alone += 1;
        }
        stored.alone - 1
    }

    /// Puts the copy where its original was, to become ready when it is due.
    pub(crate) fn retry(&mut self, slot: Slot, copy: Message, due: Instant) {
        let place = self.store.get(slot).place;
        *self.store.get_mut(slot) = Stored::new(copy, place);
        self.delay(slot, due);
    }

    /// Keeps a message that nothing was held of.
    pub(crate) fn push_delayed(&mut self, message: Message, due: Instant) {
        let slot = self.store.insert(Stored::new(message, 0));
        self.delay(slot, due);
    }

    fn delay(&mut self, slot: Slot, due: Instant) {
        let order = self.end();
        self.delayed.push(Reverse(Delayed { due, order, slot }));
    }

    /// When the next delayed message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.peek().map(|Reverse(next)| next.due)
    }

    /// Makes ready what is due.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(Reverse(next)) = self.delayed.peek()
            && next.due <= now
            && let Some(Reverse(Delayed { slot, .. })) = self.delayed.pop()
        {
            if !self.ordered {
                self.store.get_mut(slot).place = self.end();
            }
            self.insert_ready(slot);
        }
    }

    /// Puts the copy among the dead letters and removes its original.
    pub(crate) fn bury(&mut self, slot: Slot, copy: Message) {
        self.last_dead += 1;
        self.dead.insert(self.last_dead, copy);
        self.store.remove(slot);
    }

    pub(crate) fn dead(&self) -> &BTreeMap<u64, Message> {
        &self.dead
    }

    pub(crate) fn dead_mut(&mut self) -> &mut BTreeMap<u64, Message> {
        &mut self.dead
    }

    /// Forgets what is ready or delayed, as an ephemeral subscription does with its connection.
    pub(crate) fn forget(&mut self) {
        self.ready.clear();
        self.delayed.clear();
        self.store = Store::default();
    }
}
