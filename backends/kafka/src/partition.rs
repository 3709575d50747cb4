//! One partition that is assigned to this consumer: what was read of it, what is held, what is finished.

use std::collections::{BTreeMap, VecDeque};

use event_core::{DeliveryTag, ExchangeName};
use smol_str::SmolStr;

use crate::{progress::Progress, table::Mark, wire::Packed};

/// From so many deliveries between two beats on, more is lent than was read: telling the broker of each would cost
/// more than the suspicion of some that nobody had.
const BUSY: i64 = 64;
/// The most that is lent beyond what was read.
const MOST_LENT: i64 = 16_384;

/// How many deliveries may be finished above the lowest that is not: a crash may repeat those that do not fit into
/// the metadata of a commit.
const MOST_ABOVE: usize = 16_384;

/// What was read of a partition, from the lowest offset that is not finished on.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) topic: SmolStr,
    /// The id of its topic; empty while it is unknown.
    topic_id: SmolStr,
    pub(crate) number: i32,
    generation: u64,
    /// The one of records that do not say where they came from.
    exchange: ExchangeName,
    /// Ascending by offset, and never overlapping. The first is not finished.
    entries: VecDeque<Entry>,
    /// What was read and not handed out, ascending.
    ready: VecDeque<(i64, Packed)>,
    ready_bytes: usize,
    /// The offset after everything that was read.
    seen: i64,
    /// While it is being read again: the next offset.
    again: Option<i64>,
    /// The offset after everything that was handed out.
    handed: i64,
    /// What stood in the commit that this began with, from `seen` on.
    finished: VecDeque<(i64, i64)>,
    /// The offsets of deliveries by the number of their tag; nothing when it was settled.
    numbers: VecDeque<Option<i64>>,
    first_number: u64,
    held: usize,
    above: usize,
    /// It was said that it stands still.
    is_stuck: bool,
    suspects: i64,
    alone: BTreeMap<i64, u32>,
    /// Those that run alone now, with what is to stand there if they are given back.
    running: BTreeMap<i64, u32>,
    /// Below this the broker knows that it may be handed out.
    lent: i64,
    /// The most deliveries that a consumer holds: more than that need not be lent at a time.
    window: usize,
    /// How much more is lent than that, and how much was handed out since the last beat.
    ahead: i64,
    handed_out: i64,
    stage: Stage,
    /// Something that the broker does not know.
    changed: bool,
}

/// Whether it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Ours,
    /// It goes elsewhere when everything is settled.
    Leaving,
    /// Nothing is handed out any more, and nothing is in anybody's hands.
    Left,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    from: i64,
    /// The offset after it.
    to: i64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In `ready`.
    Ready,
    /// Handed out.
    Held,
    /// Given back, to be read again.
    Back,
    /// No binding matches, as far as is known; to be asked with this ticket.
    Unmatched(u64),
    Finished,
    /// Handed out and finished.
    Done,
}

impl State {
    fn is_finished(self) -> bool {
        matches!(self, Self::Finished | Self::Done)
    }
}

/// A record that is handed out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) record: Packed,
    pub(crate) tag: DeliveryTag,
    pub(crate) is_suspect: bool,
}

/// What a record is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To be looked at.
    New,
    /// It was finished, or is in somebody's hands.
    Known,
    /// What was to be read again before it did not come.
    Gap,
}

impl Partition {
    pub(crate) fn new(
        topic: SmolStr,
        number: i32,
        generation: u64,
        exchange: ExchangeName,
        window: usize,
        progress: Progress,
    ) -> Self {
        let start = progress.offset;
        Self {
            topic,
            topic_id: progress.topic,
            number,
            generation,
            exchange,
            entries: VecDeque::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            seen: start,
            again: None,
            handed: start,
            finished: progress.finished.into(),
            numbers: VecDeque::new(),
            first_number: 0,
            held: 0,
            above: 0,
            is_stuck: false,
            // What was lent to somebody who did not give it back.
            suspects: progress.suspects.max(progress.lent),
            alone: progress.alone,
            running: BTreeMap::new(),
            lent: start,
            window: window.max(1),
            ahead: 0,
            handed_out: 0,
            stage: Stage::Ours,
            changed: true,
        }
    }

    pub(crate) fn exchange(&self) -> &ExchangeName {
        &self.exchange
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How much was read and not handed out: messages, and bytes of them.
    pub(crate) fn ready(&self) -> (usize, usize) {
        (self.ready.len(), self.ready_bytes)
    }

    /// How much is in somebody's hands.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The lowest offset that is not finished.
    pub(crate) fn lowest(&self) -> i64 {
        let first = self.entries.front().map_or(self.seen, |entry| entry.from);
        self.again.map_or(first, |again| again.min(first))
    }

    // --- Reading --------------------------------------------------------------------------------------------------

    /// What a record is that was read, in the order of offsets.
    pub(crate) fn place(&mut self, offset: i64) -> Place {
        if offset >= self.seen {
            if self.again.is_some_and(|again| again < self.seen) {
                return Place::Gap;
            }
            self.again = None;
            return self.recorded(offset);
        }
        // It is being read again, until all of it was.
        self.again = Some(offset + 1).filter(|next| *next < self.seen);
        match self.find(offset) {
            Err(_) => Place::New,
            Ok(at) if self.entries[at].state == State::Back => {
                self.entries.remove(at);
                Place::New
            }
            Ok(_) => Place::Known,
        }
    }

    /// Whether what is read for the first time was finished by somebody before.
    fn recorded(&mut self, offset: i64) -> Place {
        while let Some((from, to)) = self.finished.front().copied() {
            if offset < from {
                break;
            }
            if offset < to {
                self.put(offset, offset + 1, State::Finished);
                self.tidy();
                return Place::Known;
            }
            self.finished.pop_front();
        }
        Place::New
    }

    /// A record for the queue.
    pub(crate) fn push(&mut self, offset: i64, record: Packed) {
        self.put(offset, offset + 1, State::Ready);
        // It is handed out when the broker knows that it may be.
        self.changed |= offset >= self.lent;
        self.ready_bytes += record.len();
        self.ready.push_back((offset, record));
    }

    /// A record that no binding lets in, as far as is known before a ticket is answered.
    pub(crate) fn pass(&mut self, offset: i64, ticket: u64) {
        self.put(offset, offset + 1, State::Unmatched(ticket));
    }

    /// Whether something waits for this ticket, or an earlier one.
    pub(crate) fn waits_for(&self, ticket: u64) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| matches!(entry.state, State::Unmatched(of) if of <= ticket))
    }

    /// The bindings are known up to a ticket, and are what they were: what none of them lets in is finished.
    pub(crate) fn confirm(&mut self, ticket: u64) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Unmatched(of) if of <= ticket) {
                entry.state = State::Finished;
                self.changed = true;
            }
        }
        self.tidy();
    }

    /// There are other bindings: what no binding let in is to be read again. Where from, if there is any.
    pub(crate) fn reconsider(&mut self) -> Option<i64> {
        let unmatched = |entry: &Entry| matches!(entry.state, State::Unmatched(_));
        let from = self.entries.iter().find(|entry| unmatched(entry))?.from;
        self.entries.retain(|entry| !unmatched(entry));
        self.rewind(from)
    }

    /// What was given back is to be read again. Where from, if there is any.
    pub(crate) fn reread(&mut self) -> Option<i64> {
        let mut entries = self.entries.iter();
        let from = entries.find(|entry| entry.state == State::Back)?.from;
        self.rewind(from)
    }

    /// Reads from an offset on again, so that what is ready comes in order.
    fn rewind(&mut self, from: i64) -> Option<i64> {
        let keep = self.ready.partition_point(|(offset, _)| *offset < from);
        let dropped = self.ready.drain(keep..);
        self.ready_bytes -= dropped.map(|(_, record)| record.len()).sum::<usize>();
        self.entries
            .retain(|entry| entry.from < from || entry.state != State::Ready);
        // What was to be read again before that still is.
        let from = self.again.map_or(from, |again| again.min(from));
        self.again = Some(from);
        Some(from)
    }

    /// Puts an entry in its place.
    fn put(&mut self, from: i64, to: i64, state: State) {
        let entry = Entry { from, to, state };
        let mergeable = matches!(state, State::Unmatched(_) | State::Finished);
        if from >= self.seen {
            self.seen = to;
            if let Some(last) = self.entries.back_mut()
                && mergeable
                && last.state == state
            {
                // Offsets in between do not exist.
                last.to = to;
                return;
            }
            self.entries.push_back(entry);
            return;
        }
        let at = self.find(from).unwrap_or_else(|at| at);
        self.entries.insert(at, entry);
    }

    fn find(&self, offset: i64) -> Result<usize, usize> {
        // Mostly no offset is missing, and no entry is more than one.
        let first = self.entries.front().map_or(offset, |entry| entry.from);
        let guess = usize::try_from(offset - first).unwrap_or(usize::MAX);
        if self
            .entries
            .get(guess)
            .is_some_and(|entry| (entry.from..entry.to).contains(&offset))
        {
            return Ok(guess);
        }
        let at = self.entries.partition_point(|entry| entry.to <= offset);
        match self.entries.get(at) {
            Some(entry) if entry.from <= offset => Ok(at),
            _ => Err(at),
        }
    }

    // --- Handing out ----------------------------------------------------------------------------------------------

    /// Hands out up to so many, as far as the broker knows that it may be.
    pub(crate) fn take(&mut self, most: usize, taken: &mut Vec<Taken>) {
        if self.stage != Stage::Ours || self.is_full() {
            return;
        }
        taken.reserve(most.min(self.ready.len()));
        let end = taken.len() + most;
        while taken.len() < end
            && let Some((offset, _)) = self.ready.front()
        {
            if *offset >= self.lent {
                self.changed = true;
                return;
            }
            let Some((offset, record)) = self.ready.pop_front() else {
                return;
            };
            self.ready_bytes -= record.len();
            if let Ok(at) = self.find(offset) {
                self.entries[at].state = State::Held;
            }
            let number = self.first_number + self.numbers.len() as u64;
            self.numbers.push_back(Some(offset));
            self.held += 1;
            self.handed_out += 1;
            self.handed = self.handed.max(offset + 1);
            let tag = DeliveryTag {
                generation: self.generation,
                number,
            };
            taken.push(Taken {
                record,
                tag,
                is_suspect: offset < self.suspects,
            });
        }
    }

    /// Whether so much is done above what is not that no more is handed out. That is said once.
    fn is_full(&mut self) -> bool {
        let is_full = self.above >= MOST_ABOVE;
        if is_full && !self.is_stuck {
            tracing::error!(
                target: "switchboard", topic = %self.topic, partition = self.number, offset = self.lowest(),
                "a partition stands still: {MOST_ABOVE} of its messages are done behind one that is not"
            );
        }
        self.is_stuck = is_full;
        is_full
    }

    /// Comes at regular times: what is lent beyond what was read is as much as goes in two beats.
    pub(crate) fn beat(&mut self) {
        let recent = std::mem::take(&mut self.handed_out);
        let ahead = match recent {
            BUSY.. => (2 * recent).min(MOST_LENT),
            _ => self.ahead / 4,
        };
        self.changed |= ahead != self.ahead;
        self.ahead = ahead;
    }

    /// What is to be lent.
    fn lending(&self) -> i64 {
        let last = self.ready.len().min(self.window).checked_sub(1);
        let last = last.and_then(|last| self.ready.get(last));
        let next = last.map_or(self.handed, |(offset, _)| offset + 1);
        next.max(self.handed) + self.ahead
    }

    /// Whether something could be handed out if the broker knew more.
    pub(crate) fn is_short(&self) -> bool {
        self.stage == Stage::Ours
            && self
                .ready
                .front()
                .is_some_and(|(offset, _)| *offset >= self.lent)
    }

    /// Whether it is soon to be short. While it is busy the broker is told of more before that, so that nobody waits
    /// for its answer.
    pub(crate) fn is_nearly_short(&self) -> bool {
        self.is_short()
            || self.stage == Stage::Ours
                && self.ahead > 0
                && self.lent - self.handed < self.ahead / 2
    }

    // --- Settling -------------------------------------------------------------------------------------------------

    /// Whether a tag is of a delivery that is held.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.offset(number).is_some()
    }

    /// The offset of a delivery that is held.
    pub(crate) fn offset(&self, number: u64) -> Option<i64> {
        let at = number.checked_sub(self.first_number)?;
        *self.numbers.get(usize::try_from(at).ok()?)?
    }

    fn settled(&mut self, number: u64) -> Option<i64> {
        let at = usize::try_from(number.checked_sub(self.first_number)?).ok()?;
        let offset = self.numbers.get_mut(at)?.take()?;
        while let Some(None) = self.numbers.front() {
            self.numbers.pop_front();
            self.first_number += 1;
        }
        self.held -= 1;
        self.changed = true;
        Some(offset)
    }

    /// A delivery is done. Whether it was held.
    pub(crate) fn finish(&mut self, number: u64) -> bool {
        let Some(offset) = self.settled(number) else {
            return false;
        };
        if let Ok(at) = self.find(offset) {
            self.entries[at].state = State::Done;
            self.above += 1;
        }
        self.alone.remove(&offset);
        self.running.remove(&offset);
        true
    }

    /// A delivery is given back. Whether it was held.
    pub(crate) fn give_back(&mut self, number: u64) -> bool {
        let Some(offset) = self.settled(number) else {
            return false;
        };
        if let Ok(at) = self.find(offset) {
            self.entries[at].state = State::Back;
        }
        if let Some(before) = self.running.remove(&offset) {
            self.set_alone(offset, before);
        }
        true
    }

    fn set_alone(&mut self, offset: i64, count: u32) {
        match count {
            0 => _ = self.alone.remove(&offset),
            count => _ = self.alone.insert(offset, count),
        }
    }

    /// Whether a delivery runs alone.
    pub(crate) fn runs_alone(&self, number: u64) -> bool {
        self.offset(number)
            .is_some_and(|offset| self.running.contains_key(&offset))
    }

    /// A delivery is about to run alone. How often it did before; nothing when it is not held.
    pub(crate) fn isolate(&mut self, number: u64) -> Option<u32> {
        let offset = self.offset(number)?;
        if let Some(before) = self.running.get(&offset) {
            return Some(*before);
        }
        let before = self.alone.get(&offset).copied().unwrap_or(0);
        self.alone.insert(offset, before + 1);
        self.running.insert(offset, before);
        self.changed = true;
        Some(before)
    }

    /// Gives up what is finished at the front.
    pub(crate) fn tidy(&mut self) {
        while let Some(front) = self.entries.front()
            && front.state.is_finished()
        {
            // Where something is to be read again, there is a hole.
            if self.again.is_some_and(|again| again <= front.from) {
                break;
            }
            self.above -= usize::from(front.state == State::Done);
            self.entries.pop_front();
            self.changed = true;
        }
    }

    /// Whether it is of the topic with this id. One of which that was unknown is from now on.
    pub(crate) fn is_of(&mut self, topic_id: &SmolStr) -> bool {
        if self.topic_id.is_empty() {
            self.topic_id = topic_id.clone();
            self.changed = true;
        }
        self.topic_id == *topic_id
    }

    /// How far it is, for when what is committed has expired.
    pub(crate) fn mark(&self) -> Mark {
        let topic = Some(self.topic_id.to_string());
        Mark {
            offset: self.lowest(),
            topic: topic.filter(|id| !id.is_empty()),
        }
    }

    // --- What the broker is told ----------------------------------------------------------------------------------

    /// Whether there is something to tell.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Nothing is handed out any more.
    pub(crate) fn leave(&mut self) {
        if self.stage == Stage::Ours {
            self.stage = Stage::Leaving;
            self.ready.clear();
            self.ready_bytes = 0;
        }
    }

    /// What it still holds is nobody's any more, by the consent of its holder.
    pub(crate) fn let_go(&mut self) {
        self.leave();
        self.stage = Stage::Left;
        self.changed = true;
        // It did not end anybody: it is given up before it was done.
        for (offset, before) in std::mem::take(&mut self.running) {
            self.set_alone(offset, before);
        }
    }

    /// What is to be committed.
    pub(crate) fn progress(&mut self) -> Progress {
        self.changed = false;
        let offset = self.lowest();
        let mut finished: Vec<(i64, i64)> = Vec::new();
        // Offsets that are missing between two entries do not exist, unless they are still to be read again.
        let is_complete = self.again.is_none();
        let mut open = false;
        for entry in &self.entries {
            match (entry.state.is_finished(), finished.last_mut()) {
                (true, Some(last)) if open && (is_complete || last.1 == entry.from) => {
                    last.1 = entry.to;
                }
                (true, _) => finished.push((entry.from, entry.to)),
                _ => {}
            }
            open = entry.state.is_finished();
        }
        finished.extend(self.finished.iter().copied());
        let lent = match self.stage {
            Stage::Ours => self.lending().max(offset),
            // As much as it was: what is held is still in somebody's hands.
            Stage::Leaving => self.handed.max(offset),
            Stage::Left => offset,
        };
        // Less is lent from the moment on that the broker is told so.
        self.lent = self.lent.min(lent);
        Progress {
            topic: self.topic_id.clone(),
            offset,
            finished,
            lent,
            suspects: self.suspects.max(offset),
            alone: self
                .alone
                .range(offset..)
                .map(|(at, count)| (*at, *count))
                .collect(),
        }
    }

    /// The broker was told that so much is lent.
    pub(crate) fn told(&mut self, lent: i64) {
        self.lent = lent;
    }

    /// It was not told.
    pub(crate) fn not_told(&mut self) {
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64) -> Packed {
        Packed::of(offset.to_string().as_bytes())
    }

    fn read(partition: &mut Partition, offsets: std::ops::Range<i64>) {
        for offset in offsets {
            if partition.place(offset) == Place::New {
                partition.push(offset, record(offset));
            }
        }
    }

    fn opened(progress: Progress) -> Partition {
        let exchange = ExchangeName::new("order").unwrap();
        Partition::new("order".into(), 0, 1, exchange, 1_000, progress)
    }

    fn commit(partition: &mut Partition) -> Progress {
        let progress = partition.progress();
        partition.told(progress.lent);
        progress
    }

    fn take(partition: &mut Partition, most: usize) -> Vec<(u64, i64, bool)> {
        let mut taken = Vec::new();
        commit(partition);
        partition.take(most, &mut taken);
        let shown = taken.iter().map(|taken| {
            let offset = std::str::from_utf8(taken.record.payload()).unwrap();
            (taken.tag.number, offset.parse().unwrap(), taken.is_suspect)
        });
        shown.collect()
    }

    #[test]
    fn the_lowest_unfinished_is_committed_and_what_is_done_above_it() {
        let mut partition = opened(Progress::at(10));
        read(&mut partition, 10..20);
        assert_eq!(take(&mut partition, 6).len(), 6);
        for number in [1, 2, 4] {
            assert!(partition.finish(number));
        }
        partition.tidy();
        let progress = partition.progress();
        assert_eq!(
            (progress.offset, &progress.finished[..]),
            (10, &[(11, 13), (14, 15)][..])
        );
        assert_eq!(progress.lent, 20);
        assert!(partition.finish(0) && !partition.finish(0));
        partition.tidy();
        assert_eq!(partition.progress().offset, 13);

        // Who takes over from here repeats only what was not done.
        let mut next = opened(partition.progress());
        read(&mut next, 13..20);
        let again: Vec<_> = take(&mut next, 10).iter().map(|taken| taken.1).collect();
        assert_eq!(again, [13, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn what_was_lent_is_suspect_and_what_was_let_go_is_not() {
        let mut partition = opened(Progress::at(0));
        read(&mut partition, 0..5);
        take(&mut partition, 3);
        partition.finish(1);
        let crashed = partition.progress();
        let mut next = opened(crashed);
        read(&mut next, 0..5);
        let taken = take(&mut next, 5);
        let suspects = taken.iter().map(|taken| (taken.1, taken.2));
        assert!(suspects.eq([(0, true), (2, true), (3, true), (4, true)]));

        partition.let_go();
        let mut next = opened(partition.progress());
        read(&mut next, 0..5);
        assert!(take(&mut next, 5).iter().all(|taken| !taken.2));
        // A suspect that is let go stays one.
        let mut partition = opened(Progress {
            suspects: 2,
            ..Progress::at(0)
        });
        read(&mut partition, 0..4);
        take(&mut partition, 4);
        partition.let_go();
        let mut next = opened(partition.progress());
        read(&mut next, 0..4);
        let suspects = take(&mut next, 4).into_iter().filter(|taken| taken.2);
        assert_eq!(suspects.count(), 2);
    }

    #[test]
    fn runs_alone_are_counted_until_they_are_settled() {
        let mut partition = opened(Progress::at(0));
        read(&mut partition, 0..2);
        take(&mut partition, 2);
        assert_eq!(
            (partition.isolate(0), partition.isolate(0)),
            (Some(0), Some(0))
        );
        let mut next = opened(partition.progress());
        read(&mut next, 0..2);
        take(&mut next, 2);
        assert_eq!(next.isolate(0), Some(1));
        assert!(next.give_back(0));
        assert_eq!(next.progress().alone, BTreeMap::from([(0, 1)]));
        assert_eq!(next.isolate(1), Some(0));
        assert!(next.finish(1));
        assert_eq!(next.progress().alone, BTreeMap::from([(0, 1)]));
        assert_eq!(next.isolate(7), None);
    }

    #[test]
    fn what_is_given_back_is_read_again_in_order() {
        let mut partition = opened(Progress::at(0));
        read(&mut partition, 0..8);
        take(&mut partition, 5);
        assert!(partition.give_back(3) && partition.give_back(1));
        partition.finish(0);
        partition.tidy();
        assert_eq!(partition.reread(), Some(1));
        assert_eq!(partition.lowest(), 1);
        read(&mut partition, 1..10);
        let again: Vec<_> = take(&mut partition, 10)
            .iter()
            .map(|taken| (taken.0, taken.1))
            .collect();
        assert_eq!(
            again,
            [(5, 1), (6, 3), (7, 5), (8, 6), (9, 7), (10, 8), (11, 9)]
        );
        assert!(!partition.finish(1), "it was given back");
        for number in [2, 4, 5, 6, 7, 8, 9, 10, 11] {
            assert!(partition.finish(number), "{number}");
        }
        partition.tidy();
        assert_eq!(partition.progress(), Progress::at(10));
    }

    #[test]
    fn what_is_finished_is_one_range_also_while_something_is_read_again() {
        let mut partition = opened(Progress::at(0));
        read(&mut partition, 0..9);
        take(&mut partition, 9);
        assert!(partition.give_back(0) && partition.give_back(5));
        for number in [1, 2, 3, 4, 6, 7, 8] {
            assert!(partition.finish(number));
        }
        assert_eq!(partition.progress().finished, [(1, 5), (6, 9)]);
        assert_eq!(partition.reread(), Some(0));
        assert_eq!(partition.progress().finished, [(1, 5), (6, 9)]);
        // Up to what was read last, behind which nothing comes.
        read(&mut partition, 0..9);
        assert_eq!(partition.progress().finished, [(1, 5), (6, 9)]);
        take(&mut partition, 2);
        assert!(partition.finish(10));
        assert_eq!(partition.progress().finished, [(1, 9)]);
    }

    #[test]
    fn what_no_binding_lets_in_waits_until_that_is_certain() {
        let mut partition = opened(Progress::at(0));
        for offset in 0..6 {
            assert_eq!(partition.place(offset), Place::New);
            match offset {
                2 => partition.push(offset, record(offset)),
                _ => partition.pass(offset, u64::from(offset > 3)),
            }
        }
        assert_eq!(partition.progress().offset, 0);
        partition.confirm(0);
        assert_eq!(partition.progress().offset, 2);
        assert!(partition.waits_for(1) && !partition.waits_for(0));
        // Another binding: what is left is read again, and what was confirmed is not.
        take(&mut partition, 1);
        assert_eq!(partition.reconsider(), Some(4));
        read(&mut partition, 4..7);
        let taken: Vec<_> = take(&mut partition, 9)
            .iter()
            .map(|taken| taken.1)
            .collect();
        assert_eq!(taken, [4, 5, 6]);
        assert_eq!(partition.lowest(), 2);
    }

    #[test]
    fn no_more_is_handed_out_than_the_broker_knows() {
        let mut partition = opened(Progress::at(0));
        read(&mut partition, 0..1_000);
        let mut deliveries = Vec::new();
        partition.take(9, &mut deliveries);
        assert!(deliveries.is_empty() && partition.is_short() && partition.has_changed());
        assert_eq!(commit(&mut partition).lent, 1_000);
        partition.take(700, &mut deliveries);
        assert_eq!(deliveries.len(), 700);
        // It is busy: more is lent than was read.
        partition.beat();
        assert_eq!(commit(&mut partition).lent, 2_400);
        read(&mut partition, 1_000..1_010);
        partition.take(700, &mut deliveries);
        assert_eq!(deliveries.len(), 1_010);
        // It is not any more: less is lent from the moment on that it says so.
        for _ in 0..8 {
            partition.beat();
        }
        assert!(partition.has_changed());
        assert_eq!(partition.progress().lent, 1_010);
        read(&mut partition, 1_010..1_011);
        partition.take(1, &mut deliveries);
        assert_eq!(deliveries.len(), 1_010);
    }

    #[test]
    fn more_is_lent_before_it_is_short() {
        let mut partition = opened(Progress::at(0));
        read(&mut partition, 0..1_000);
        assert!(partition.is_nearly_short());
        assert_eq!(take(&mut partition, 1_000).len(), 1_000);
        assert!(!partition.is_nearly_short(), "there is nothing to hand out");
        partition.beat();
        assert_eq!(commit(&mut partition).lent, 3_000);
        read(&mut partition, 1_000..3_000);
        let mut deliveries = Vec::new();
        partition.take(1_000, &mut deliveries);
        assert!(!partition.is_nearly_short());
        partition.take(1, &mut deliveries);
        assert!(partition.is_nearly_short() && !partition.is_short());
        assert_eq!(commit(&mut partition).lent, 5_000);
        assert!(!partition.is_nearly_short());
    }

    #[test]
    fn offsets_that_do_not_exist_are_no_hindrance() {
        let mut partition = opened(Progress::at(0));
        for offset in [3, 7, 20] {
            assert_eq!(partition.place(offset), Place::New);
            partition.push(offset, record(offset));
        }
        take(&mut partition, 3);
        for number in [2, 1, 0] {
            partition.finish(number);
        }
        partition.tidy();
        assert_eq!(partition.lowest(), 21);
    }
}
