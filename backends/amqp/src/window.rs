//! The deliveries of one channel that were not settled, and how they are acknowledged.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use event_core::{Message, Result};
use futures_util::FutureExt;
use lapin::{
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::channel::Owned;

/// What is asked for, in errors.
const SETTLE: &str = "settle deliveries";

/// A channel that deliveries come on, and those that were not settled.
///
/// Acknowledgements are written without waiting for the connection: one for everything up to the lowest
/// unfinished delivery, and single ones after a while for those behind it. What is computed is written under the
/// same lock, because acknowledging twice closes the channel.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) generation: u64,
    pub(crate) channel: Owned,
    prefetch: u16,
    /// Set when the reader is to end.
    stop: CancellationToken,
    /// Whether the server has ended the consumer.
    ended: CancellationToken,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// The tag of the first entry; the first tag of a channel is 1.
    first: u64,
    entries: VecDeque<Entry>,
    /// What may have to be copied although no handler failed.
    kept: HashMap<u64, Kept>,
    /// To be given back, when nothing before it with its partition key is held any more.
    releasing: BTreeSet<u64>,
    /// How many are finished behind one that is not, and were not acknowledged yet.
    stragglers: usize,
    settled: u64,
}

#[derive(Debug)]
struct Entry {
    state: State,
    since: Instant,
    /// Stands for the partition key.
    key: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    /// A copy of it is being stored.
    Moving,
    /// To be given back.
    Releasing,
    /// Finished, to be acknowledged.
    Finished,
    /// The server was told.
    Done,
}

/// What a session has to know of a delivery.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) tag: u64,
    /// Stands for the partition key.
    pub(crate) key: Option<u64>,
    pub(crate) kept: Option<Kept>,
}

/// A delivery that came back often enough to be looked after.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) message: Message,
    /// How often it was recorded as running alone.
    pub(crate) alone: u32,
    pub(crate) suspect: bool,
}

impl Session {
    pub(crate) fn new(
        generation: u64,
        channel: Owned,
        prefetch: u16,
        stop: CancellationToken,
    ) -> Self {
        let window = Window {
            first: 1,
            ..Window::default()
        };
        Self {
            generation,
            channel,
            prefetch,
            stop,
            ended: CancellationToken::new(),
            window: Mutex::new(window),
        }
    }

    /// Takes note of deliveries, in the order of their tags.
    pub(crate) fn hold(&self, deliveries: impl IntoIterator<Item = Hold>) {
        let since = Instant::now();
        let mut window = self.lock();
        for Hold { tag, key, kept } in deliveries {
            // Tags have no gaps; one that did would be as good as settled.
            while window.next() < tag {
                window.push(State::Done, since, None);
            }
            window.push(State::Held, since, key);
            if let Some(kept) = kept {
                window.kept.insert(tag, kept);
            }
        }
    }

    /// Finishes a delivery that is held, to be acknowledged by [`flush`](Self::flush). Answers whether it was.
    pub(crate) fn finish(&self, tag: u64) -> bool {
        self.change(tag, State::Held, State::Finished)
    }

    /// Begins to move a delivery elsewhere.
    pub(crate) fn begin_to_move(&self, tag: u64) -> bool {
        self.change(tag, State::Held, State::Moving)
    }

    /// It was moved: finishes it.
    pub(crate) fn moved(&self, tag: u64) -> bool {
        self.change(tag, State::Moving, State::Finished)
    }

    /// It could not be moved, and is held again.
    pub(crate) fn not_moved(&self, tag: u64) {
        self.change(tag, State::Moving, State::Held);
    }

    /// It could not be moved, and nobody comes for it again: gives it back with the next [`flush`](Self::flush).
    pub(crate) fn give_back(&self, tag: u64) {
        self.lock().release(tag, State::Moving);
    }

    fn change(&self, tag: u64, from: State, to: State) -> bool {
        self.lock().change(tag, from, to)
    }

    /// Gives a delivery back to the queue with the next [`flush`](Self::flush), or as soon as nothing before it
    /// with its partition key is held: the queue keeps the order in which it gets them back. Answers whether it was
    /// held.
    pub(crate) fn release(&self, tag: u64) -> bool {
        self.lock().release(tag, State::Held)
    }

    /// Whether another delivery with the partition key of this one is held.
    pub(crate) fn has_neighbours(&self, tag: u64) -> bool {
        let window = self.lock();
        let Some(key) = window.at(tag).and_then(|at| window.entries[at].key) else {
            return false;
        };
        let same = window
            .entries
            .iter()
            .filter(|entry| entry.key == Some(key) && entry.state != State::Done);
        same.count() > 1
    }

    /// What is kept of a delivery.
    pub(crate) fn kept(&self, tag: u64) -> Option<Kept> {
        self.lock().kept.get(&tag).cloned()
    }

    /// Acknowledges what is finished up to the lowest that is not. Answers whether others are left behind it.
    pub(crate) fn flush(&self) -> bool {
        let mut window = self.lock();
        // A consumer that is being ended would get again what is given back, and nobody would read it.
        let may_release = !self.stop.is_cancelled() || self.ended.is_cancelled();
        let ready = if may_release {
            window.ready_to_release()
        } else {
            Vec::new()
        };
        for tag in ready {
            let options = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            // Written when it was polled; what is not written in the end comes back by itself.
            let _ = self.channel.basic_nack(tag, options).now_or_never();
        }
        if let Some(tag) = window.trim() {
            let options = BasicAckOptions { multiple: true };
            let _ = self.channel.basic_ack(tag, options).now_or_never();
        }
        window.stragglers > 0
    }

    /// Acknowledges all that is finished.
    pub(crate) fn flush_stragglers(&self) {
        self.flush();
        let mut window = self.lock();
        if window.stragglers == 0 {
            return;
        }
        let first = window.first;
        for (tag, entry) in (first..).zip(&mut window.entries) {
            if entry.state == State::Finished {
                entry.state = State::Done;
                let single = BasicAckOptions::default();
                let _ = self.channel.basic_ack(tag, single).now_or_never();
            }
        }
        window.stragglers = 0;
    }

    /// Waits until the server has received everything that was settled before, by asking for what is so already.
    pub(crate) async fn sync(&self) -> Result<()> {
        self.ask_for(self.prefetch).await
    }

    async fn ask_for(&self, prefetch: u16) -> Result<()> {
        let request = self.channel.basic_qos(prefetch, BasicQosOptions::default());
        self.channel.answer(SETTLE, request).await
    }

    /// Waits until the queue itself has taken everything that was settled before.
    ///
    /// A channel of RabbitMQ keeps what it is told to settle while a quorum queue has not taken the 32 before it, and
    /// drops what it still keeps when it is closed. The end of a consumer is something that it waits for the queue
    /// with, so another one begins and ends: one that may be given nothing. A server that does not know `x-credit`
    /// may give it a single message, which goes back with the channel.
    pub(crate) async fn settle_down(&self, queue: &str) -> Result<()> {
        self.ask_for(1).await?;
        let mut none = FieldTable::default();
        none.insert("credit".into(), AMQPValue::LongLongInt(0));
        none.insert("drain".into(), AMQPValue::Boolean(false));
        let mut arguments = FieldTable::default();
        arguments.insert("x-credit".into(), AMQPValue::FieldTable(none));
        let options = BasicConsumeOptions::default();
        let consume = self
            .channel
            .basic_consume(queue.into(), "".into(), options, arguments);
        let consumer = self.channel.answer(SETTLE, consume).await?;
        let options = BasicCancelOptions::default();
        let cancel = self.channel.basic_cancel(consumer.tag(), options);
        self.channel.answer(SETTLE, cancel).await?;
        self.sync().await
    }

    /// The server has ended the consumer: nothing new comes.
    pub(crate) fn end(&self) {
        self.ended.cancel();
        self.flush();
    }

    /// Waits until nothing new comes, if it is about to end. Until then it is not known what else is held.
    pub(crate) async fn ended(&self) {
        if self.stop.is_cancelled() {
            // A reader that is waited for itself does not end it.
            let _ = timeout(Duration::from_secs(1), self.ended.cancelled()).await;
        }
    }

    /// Whether everything was settled.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Since when the oldest is held.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.lock().entries.front().map(|entry| entry.since)
    }

    /// How many were settled.
    pub(crate) fn settled(&self) -> u64 {
        self.lock().settled
    }

    pub(crate) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn push(&mut self, state: State, since: Instant, key: Option<u64>) {
        self.entries.push_back(Entry { state, since, key });
    }

    fn at(&self, tag: u64) -> Option<usize> {
        let at = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        (at < self.entries.len()).then_some(at)
    }

    /// What can be given back now, in ascending order. It counts as done.
    fn ready_to_release(&mut self) -> Vec<u64> {
        let mut ready = Vec::new();
        for tag in std::mem::take(&mut self.releasing) {
            let Some(at) = self.at(tag) else {
                continue;
            };
            let key = self.entries[at].key;
            let waits = key.is_some()
                && self.entries.range(..at).any(|before| {
                    before.key == key
                        && matches!(before.state, State::Held | State::Moving | State::Releasing)
                });
            if waits {
                self.releasing.insert(tag);
            } else if self.change(tag, State::Releasing, State::Done) {
                ready.push(tag);
            }
        }
        ready
    }

    fn release(&mut self, tag: u64, from: State) -> bool {
        let held = self.change(tag, from, State::Releasing);
        if held {
            self.releasing.insert(tag);
        }
        held
    }

    fn change(&mut self, tag: u64, from: State, to: State) -> bool {
        let Some(at) = self.at(tag) else {
            return false;
        };
        let entry = &mut self.entries[at];
        if entry.state != from {
            return false;
        }
        entry.state = to;
        if matches!(to, State::Finished | State::Done) {
            self.settled += 1;
            self.stragglers += usize::from(to == State::Finished);
            if !self.kept.is_empty() {
                self.kept.remove(&tag);
            }
        }
        true
    }

    /// Forgets what is finished at the front. Answers the last tag of it that is to be acknowledged.
    fn trim(&mut self) -> Option<u64> {
        let mut acknowledge = None;
        while let Some(entry) = self.entries.front() {
            match entry.state {
                State::Held | State::Moving | State::Releasing => break,
                State::Finished => {
                    acknowledge = Some(self.first);
                    self.stragglers -= 1;
                }
                State::Done => {}
            }
            self.entries.pop_front();
            self.first += 1;
        }
        acknowledge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(held: u64) -> Window {
        let mut window = Window {
            first: 1,
            ..Window::default()
        };
        for _ in 0..held {
            window.push(State::Held, Instant::now(), None);
        }
        window
    }

    #[test]
    fn up_to_the_lowest_unfinished_is_acknowledged_at_once() {
        let mut window = window(5);
        for tag in [2, 3, 5] {
            assert!(window.change(tag, State::Held, State::Finished));
        }
        assert_eq!((window.trim(), window.stragglers), (None, 3));
        assert!(window.change(1, State::Held, State::Finished));
        assert_eq!((window.trim(), window.stragglers), (Some(3), 1));
        assert!(window.change(4, State::Held, State::Done));
        assert_eq!((window.trim(), window.stragglers), (Some(5), 0));
        assert!(window.entries.is_empty());
    }

    #[test]
    fn a_tag_that_the_server_knows_to_be_done_is_not_acknowledged_again() {
        let mut window = window(3);
        window.change(1, State::Held, State::Finished);
        window.change(2, State::Held, State::Done);
        // 2 was given back: an acknowledgement up to it would close the channel.
        assert_eq!(window.trim(), Some(1));
    }

    #[test]
    fn what_is_given_back_waits_for_what_is_before_it() {
        let mut window = window(0);
        for key in [Some(1), Some(2), Some(1), None, Some(1)] {
            window.push(State::Held, Instant::now(), key);
        }
        let release = |window: &mut Window, tags: &[u64]| {
            for tag in tags {
                assert!(window.change(*tag, State::Held, State::Releasing));
                window.releasing.insert(*tag);
            }
            window.ready_to_release()
        };
        assert_eq!(release(&mut window, &[5, 3, 4, 2]), [2, 4]);
        assert!(window.ready_to_release().is_empty());
        assert_eq!(release(&mut window, &[1]), [1, 3, 5]);
        window.trim();
        assert!(window.entries.is_empty());
    }

    #[test]
    fn a_tag_is_settled_once() {
        let mut window = window(2);
        assert!(window.change(2, State::Held, State::Finished));
        assert!(!window.change(2, State::Held, State::Finished));
        assert!(window.change(1, State::Held, State::Moving));
        assert!(!window.change(1, State::Held, State::Finished));
        assert!(!window.change(3, State::Held, State::Finished));
        assert!(!window.change(0, State::Held, State::Finished));
        assert_eq!(window.trim(), None);
        assert!(window.change(1, State::Moving, State::Finished));
        assert_eq!(window.trim(), Some(2));
        assert!(!window.change(1, State::Held, State::Finished));
    }
}
