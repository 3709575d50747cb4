//! From the waiting line through the handlers to the settler.

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Flying, KeyHash, Worker};
use crate::{
    conclude::Ended,
    context,
    delivery::Delivery,
    envelope,
    outcome::Verdict,
    reply::Reply,
    settler::{Events, Finished, Handled},
};

impl Worker {
    pub(super) fn has_waiting(&self) -> bool {
        !self.line.is_empty() || !self.due.is_empty()
    }

    /// Not while a suspect waits, here or elsewhere in the process: it runs when nothing else is left, and under
    /// load something would always be.
    fn has_room(&self) -> bool {
        self.running < self.limit
            && self.suspects.is_empty()
            && !self.queue.bus.process().is_isolating()
    }

    /// Starts what waits, as far as there is room. Whether anything new is in flight.
    pub(super) fn start_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.running;
        while self.has_room() {
            if let Some(delivery) = self.due.pop_front() {
                // Its key is still held for it.
                let (key, attempt) = (self.key_of(&delivery), delivery.attempt());
                self.begin(delivery, key, attempt, cx);
            } else if let Some(delivery) = self.line.pop_front() {
                self.offer(delivery, cx);
            } else {
                break;
            }
        }
        self.running > before
    }

    fn offer(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        let key = self.key_of(&delivery);
        if let Some(key) = key {
            if let Some(waiting) = self.keys.get_mut(&key) {
                waiting.push_back(delivery);
                return;
            }
            // In an ordered queue the key is held until the settler is done with it.
            if delivery.is_suspect() || self.queue.ordered {
                self.keys.entry(key).or_default();
            }
        }
        if delivery.is_suspect() {
            self.suspects.push_back(delivery);
            return;
        }
        let attempt = delivery.attempt();
        self.begin(delivery, key, attempt, cx);
    }

    pub(super) fn key_of(&self, delivery: &Delivery) -> Option<KeyHash> {
        delivery
            .message()
            .partition_key()
            .map(|key| self.hasher.hash_one(key))
    }

    /// Runs the handlers of a delivery, until one is pending or all are done.
    pub(super) fn begin(
        &mut self,
        delivery: Delivery,
        key: Option<KeyHash>,
        attempt: u32,
        cx: &mut Context<'_>,
    ) {
        let message = delivery.message();
        let way = self.last_route.find(&self.queue.routes, message.address());
        let mut todo = way.handlers;
        let mut missing = (todo == 0).then(Vec::new);
        if !message.headers().is_empty()
            && let Some(left) = context::handlers_left(message.headers())
        {
            let elsewhere;
            (todo, elsewhere) = self.queue.split_handlers(todo, left);
            missing = (!elsewhere.is_empty()).then_some(elsewhere);
        }
        let span = tracing::debug_span!(
            target: "switchboard",
            "handle",
            queue = self.queue.name(),
            key = message.key().as_str(),
            id = %message.id(),
            attempt,
        );
        let started = self.queue.observer.is_some().then(Instant::now);
        let (mut failures, events) = (Vec::new(), Vec::new());
        let mut opened = None;
        if way.structured {
            match envelope::open(message) {
                Ok(inner) => opened = Some(Box::new(delivery.with_message(inner))),
                Err(error) => {
                    let names = self.queue.names(std::mem::take(&mut todo));
                    failures.extend(names.map(|name| (name, Verdict::Unusable(error.clone()))));
                }
            }
        }
        let mut flying = Flying {
            delivery,
            opened,
            key,
            attempt,
            todo,
            current: 0,
            missing,
            failures,
            events,
            span,
            started,
        };
        let slot = self.free.last().copied().unwrap_or(self.slots.len());
        match self.advance(&mut flying, slot, cx) {
            Poll::Ready(()) => self.finish(flying),
            Poll::Pending => self.occupy(slot, flying),
        }
    }

    fn advance(&mut self, flying: &mut Flying, slot: usize, cx: &mut Context<'_>) -> Poll<()> {
        while flying.todo != 0 {
            let handler = flying.todo.trailing_zeros() as usize;
            flying.todo &= flying.todo - 1;
            flying.current = handler;
            match self.lanes[handler].start(slot, flying.event(), &flying.span, cx) {
                Poll::Ready(reply) => self.note(flying, reply),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn note(&self, flying: &mut Flying, reply: Reply) {
        let Reply { verdict, events } = reply;
        let name = || self.queue.handlers[flying.current].name.clone();
        if !events.is_empty() {
            flying.events.push((name(), events));
        }
        if !matches!(verdict, Verdict::Done) {
            flying.failures.push((name(), verdict));
        }
    }

    /// Keeps a delivery in the place that its lane knows it by: the one that was freed last, or a new one.
    fn occupy(&mut self, slot: usize, flying: Flying) {
        if let Some(key) = flying.key {
            self.keys.entry(key).or_default();
        }
        if self.free.pop().is_none() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(flying);
        self.running += 1;
    }

    /// Collects the handlers that are done, and starts what follows on them.
    pub(super) fn poll_lanes(&mut self, cx: &mut Context<'_>) {
        // What follows on a delivery may be pending in a lane before its own, and has no waker yet.
        while self.poll_each_lane(cx) {}
    }

    /// Whether something that was started may stand in a lane that was polled before.
    fn poll_each_lane(&mut self, cx: &mut Context<'_>) -> bool {
        let mut followed = false;
        for lane in 0..self.lanes.len() {
            while self.running > 0
                && let Poll::Ready((slot, reply)) = self.lanes[lane].poll_done(cx)
            {
                let Some(mut flying) = self.slots[slot].take() else {
                    continue;
                };
                self.free.push(slot);
                self.running -= 1;
                self.note(&mut flying, reply);
                if self.advance(&mut flying, slot, cx).is_pending() {
                    self.occupy(slot, flying);
                    continue;
                }
                let key = flying.key;
                self.finish(flying);
                if let (Some(key), false) = (key, self.queue.ordered) {
                    self.follow(key, cx);
                    followed |= lane > 0;
                }
            }
        }
        followed
    }

    /// A delivery of the key is done: those that waited for it run until one is pending.
    fn follow(&mut self, key: KeyHash, cx: &mut Context<'_>) {
        let Some(mut waiting) = self.keys.remove(&key) else {
            return;
        };
        while self.has_room()
            && let Some(delivery) = waiting.pop_front()
        {
            if delivery.is_suspect() {
                waiting.push_front(delivery);
                break;
            }
            let attempt = delivery.attempt();
            self.begin(delivery, Some(key), attempt, cx);
            if let Some(line) = self.keys.get_mut(&key) {
                *line = waiting;
                return;
            }
        }
        self.put_in_front(waiting);
    }

    /// Nothing of the key is in flight any more: what waited for it goes back into the line.
    pub(super) fn free_key(&mut self, key: KeyHash) {
        let waiting = self.keys.remove(&key).unwrap_or_default();
        self.put_in_front(waiting);
    }

    /// In front of the line, since they are older than what stands there.
    fn put_in_front(&mut self, deliveries: VecDeque<Delivery>) {
        for delivery in deliveries.into_iter().rev() {
            self.line.push_front(delivery);
        }
    }

    fn finish(&mut self, flying: Flying) {
        let ordered = self.queue.ordered.then_some(flying.key).flatten();
        if ordered.is_none() && self.alone.is_none() && flying.is_plain() {
            let tag = flying.delivery.tag();
            self.finished.push(Finished::Ack(tag));
            return;
        }
        let Flying {
            delivery,
            attempt,
            missing,
            failures,
            events,
            started,
            ..
        } = flying;
        let ended = Ended {
            delivery,
            attempt,
            failures,
            missing,
            crashed: false,
        };
        let elapsed = started.map(|started| started.elapsed());
        self.hand_over(ended, events, elapsed, ordered);
    }

    pub(super) fn hand_over(
        &mut self,
        ended: Ended,
        events: Events,
        elapsed: Option<Duration>,
        ordered: Option<KeyHash>,
    ) {
        let back = ordered.map(|key| (self.index, key));
        self.finished.push(Finished::Handled(Box::new(Handled {
            ended,
            events,
            elapsed,
            back,
            alone: self.alone.take(),
        })));
    }
}
