//! What a queue holds: ready, delayed, dead, and held by consumers, who know the places.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
};

use event_core::{Delivery, DeliveryTag, Message};
use tokio::time::Instant;

use crate::{delayed::Delayed, faults::Faults, window::Window};

/// A place in the order of a queue. Each is given once.
pub(crate) type Place = u64;

/// The messages of one queue.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    log: Window<Message>,
    /// From here on nobody was given anything yet; all of it is ready.
    next: Place,
    /// Ready again, and before `next`.
    returned: BTreeSet<Place>,
    /// What is known of messages that came back; most never do.
    notes: HashMap<Place, Note>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    delays: u64,
    dead: BTreeMap<u64, Message>,
    last_dead: u64,
    /// Whether a retry goes back to the place of its original instead of the end.
    ordered: bool,
}

/// What a queue knows of one message apart from its content.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    redeliveries: u32,
    /// How often it began to run alone without being settled afterwards.
    alone: u32,
    suspect: bool,
    /// Whether it runs alone in the hands of its present holder.
    isolated: bool,
    /// Whether a fault made it, so that it is not doubled again.
    double: bool,
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
        self.log.len() + self.delayed.len()
    }

    pub(crate) fn ready(&self) -> usize {
        // What nobody was given yet is in memory, so that its number fits.
        (self.log.end() - self.next) as usize + self.returned.len()
    }

    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    pub(crate) fn push(&mut self, message: Message) {
        self.log.push(message);
    }

    pub(crate) fn extend(&mut self, messages: impl Iterator<Item = Message>) {
        self.log.extend(messages);
    }

    /// Gives out the next `count` messages, which must be ready; `hold` answers the tag of each.
    pub(crate) fn give(
        &mut self,
        count: usize,
        mut hold: impl FnMut(Place) -> DeliveryTag,
    ) -> Vec<Delivery> {
        if !self.returned.is_empty() || !self.notes.is_empty() {
            return (0..count)
                .filter_map(|_| self.give_at(0, &mut hold))
                .collect();
        }
        let places = self.next..;
        self.next += count as u64;
        let messages = self.log.from(places.start, count).zip(places);
        messages
            .map(|(message, place)| Delivery::new(message.clone(), hold(place)))
            .collect()
    }

    /// The same with what the faults make of it: another order, or a second time later.
    pub(crate) fn give_with(
        &mut self,
        faults: &mut Faults,
        count: usize,
        mut hold: impl FnMut(Place) -> DeliveryTag,
    ) -> Vec<Delivery> {
        let mut batch = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.overtaker(faults).unwrap_or(0);
            let mut place = 0;
            let given = self.give_at(at, |given| {
                place = given;
                hold(given)
            });
            let Some(delivery) = given else { break };
            if !self.note(place).double && faults.delivers_twice() {
                let note = Note {
                    redeliveries: delivery.redeliveries() + 1,
                    double: true,
                    ..Note::default()
                };
                self.notes.insert(self.log.end(), note);
                self.log.push(delivery.message().clone());
            }
            batch.push(delivery);
        }
        batch
    }

    /// Gives out one of those that are ready.
    fn give_at(&mut self, at: usize, hold: impl FnOnce(Place) -> DeliveryTag) -> Option<Delivery> {
        let place = self.take_place(at)?;
        let note = self.note(place);
        let delivery = Delivery::new(self.log.get(place)?.clone(), hold(place));
        Some(
            delivery
                .with_redeliveries(note.redeliveries)
                .with_suspicion(note.suspect),
        )
    }

    /// The places of what is ready, in order.
    fn ready_places(&self) -> impl Iterator<Item = Place> {
        self.returned
            .iter()
            .copied()
            .chain(self.next..self.log.end())
    }

    fn take_place(&mut self, at: usize) -> Option<Place> {
        let place = self.ready_places().nth(at)?;
        if !self.returned.remove(&place) {
            self.returned.extend(self.next..place);
            self.next = place + 1;
        }
        Some(place)
    }

    /// Which of the next ready messages overtakes the first: none of its own partition key.
    fn overtaker(&self, faults: &mut Faults) -> Option<usize> {
        let at = faults.reorders(self.ready())?;
        let mut keys = self
            .ready_places()
            .take(at + 1)
            .map(|place| self.log.get(place)?.partition_key());
        let earlier: Vec<Option<&str>> = keys.by_ref().take(at).collect();
        let key = keys.next()?;
        (key.is_none() || !earlier.contains(&key)).then_some(at)
    }

    fn note(&self, place: Place) -> Note {
        self.notes.get(&place).copied().unwrap_or_default()
    }

    /// Takes the next message out for good.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let place = self.take_place(0)?;
        self.notes.remove(&place);
        let message = self.log.take(place);
        self.log.tidy();
        message
    }

    /// Removes a message that is settled. After a batch of them, [`tidy`](Self::tidy).
    pub(crate) fn discard(&mut self, place: Place) {
        if !self.notes.is_empty() {
            self.notes.remove(&place);
        }
        self.log.discard(place);
    }

    pub(crate) fn tidy(&mut self) {
        self.log.tidy();
    }

    /// Puts held messages back to their old places.
    pub(crate) fn give_back(&mut self, places: Vec<Place>, why: Comeback) {
        for place in places {
            let mut note = self.note(place);
            match why {
                Comeback::Released => note.suspect &= !note.isolated,
                Comeback::Lost => note.redeliveries += 1,
                Comeback::Crashed => {
                    note.redeliveries += 1;
                    note.suspect = true;
                }
            }
            // Only a crash counts as one; the other two ended a run alone in good order.
            if note.isolated && why != Comeback::Crashed {
                note.alone -= 1;
            }
            note.isolated = false;
            if why != Comeback::Released || self.notes.contains_key(&place) {
                self.notes.insert(place, note);
            }
            self.returned.insert(place);
        }
    }

    /// Counts a run alone, once for each delivery, and answers how often it was counted before.
    pub(crate) fn isolate(&mut self, place: Place) -> u32 {
        let note = self.notes.entry(place).or_default();
        if !note.isolated {
            note.isolated = true;
            note.alone += 1;
        }
        note.alone - 1
    }

    /// Keeps the copy until it is due, and removes its original.
    pub(crate) fn retry(&mut self, place: Place, copy: Message, due: Instant) {
        self.delay(copy, due, self.ordered.then_some(place));
        self.discard(place);
    }

    /// Keeps a message until it is due.
    pub(crate) fn delay(&mut self, message: Message, due: Instant, place: Option<Place>) {
        self.delays += 1;
        self.delayed.push(Reverse(Delayed {
            due,
            order: self.delays,
            place,
            message,
        }));
    }

    /// When the next delayed message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.peek().map(|Reverse(next)| next.due)
    }

    /// Makes ready what is due.
    pub(crate) fn advance(&mut self, now: Instant) {
        while self.next_due().is_some_and(|due| due <= now)
            && let Some(Reverse(Delayed { place, message, .. })) = self.delayed.pop()
        {
            match place {
                None => _ = self.log.push(message),
                Some(place) => {
                    self.log.restore(place, message);
                    self.returned.insert(place);
                }
            }
        }
    }

    /// Puts the copy among the dead letters, and removes its original.
    pub(crate) fn bury(&mut self, place: Place, copy: Message) {
        self.last_dead += 1;
        self.dead.insert(self.last_dead, copy);
        self.discard(place);
    }

    pub(crate) fn dead(&self) -> &BTreeMap<u64, Message> {
        &self.dead
    }

    pub(crate) fn dead_mut(&mut self) -> &mut BTreeMap<u64, Message> {
        &mut self.dead
    }

    /// Forgets what is ready or delayed, as an ephemeral subscription does with its connection.
    pub(crate) fn forget(&mut self) {
        while self.pop().is_some() {}
        self.delayed.clear();
    }
}
