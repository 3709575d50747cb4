//! Reading records, and what no binding lets in.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use event_core::Result;
use rdkafka::{Message as _, error::KafkaError, message::BorrowedMessage};

use super::{Source, Thread};
use crate::{
    error,
    partition::Place,
    shared::lock,
    wire::{self, Packed, Packer, Spot},
};

/// How much may be read and not handed out: messages, and bytes of them.
const READY: (usize, usize) = (4_096, 8 << 20);
/// How many records of each partition may be read and not handed out, however many partitions there are.
const MIN_SHARE: usize = 64;
/// How many bytes of a partition are read before others have their turn.
const TURN_BYTES: usize = 1 << 20;
/// How many records of a partition are read before others have their turn.
const TURN: usize = 1_024;

/// Whether more may be read while this much was read and not handed out.
pub(super) fn has_room((messages, bytes): (usize, usize)) -> bool {
    messages < READY.0 && bytes < READY.1
}

/// Whether so little was read and not handed out that it is time to read on.
pub(crate) fn is_low((messages, bytes): (usize, usize)) -> bool {
    messages <= READY.0 / 2 && bytes <= READY.1 / 2
}

/// How many records of each of so many partitions may be read and not handed out: none takes the room of the others,
/// whoever is first.
pub(crate) fn share(partitions: usize) -> usize {
    (READY.0 / partitions.max(1)).max(MIN_SHARE)
}

/// Where the answer to a question about the topology topic arrives.
pub(super) type EndAnswer = Arc<Mutex<Option<Result<i64>>>>;

impl Thread {
    /// Reads what there is room for. Whether there is more.
    pub(super) fn read(&mut self) -> Result<bool> {
        let mut ready = {
            let state = self.held.lock();
            if state.end.is_some() {
                return Ok(false);
            }
            state.ready()
        };
        let mut is_busy = false;
        let mut has_unmatched = false;
        let ticket = self.ticket + 1;
        let count = self.lanes.len();
        let share = share(count);
        let mut batch = Batch::default();
        for _ in 0..count {
            if !has_room(ready) {
                break;
            }
            self.turn = (self.turn + 1) % count;
            let at = self.turn;
            let generation = self.lanes[at].generation;
            let has = self
                .held
                .lock()
                .partition(generation)
                .map(|of| of.ready().0);
            let has_more = self.read_lane(at, &mut batch, share.saturating_sub(has.unwrap_or(0)));
            if let Some(error) = batch.error.take() {
                self.met(&error)?;
            }
            if batch.records.is_empty() {
                is_busy |= has_more;
                continue;
            }
            let pieces = batch.packer.finish();
            let mut state = self.held.lock();
            let Some(partition) = state.partition(generation) else {
                batch.records.clear();
                continue;
            };
            for (offset, record) in batch.records.drain(..) {
                match partition.place(offset) {
                    Place::New => {}
                    Place::Known => continue,
                    Place::Gap => {
                        self.lanes[at].is_lost = true;
                        break;
                    }
                }
                match record {
                    Some(spot) => partition.push(offset, pieces.packed(&spot)),
                    None => {
                        partition.pass(offset, ticket);
                        has_unmatched = true;
                    }
                }
            }
            partition.tidy();
            // Without room it is woken when some of it was taken.
            is_busy |= has_more && partition.ready().0 < share;
            let is_short = partition.is_short();
            ready = state.ready();
            state.changes += 1;
            state.urgent |= is_short;
            drop(state);
            if !is_short {
                self.held.tell_reader();
            }
        }
        if has_unmatched {
            self.pass(ticket);
        }
        Ok(is_busy)
    }

    /// Reads a batch of a partition. Whether there may be more.
    fn read_lane(&mut self, at: usize, batch: &mut Batch, room: usize) -> bool {
        let lane = &mut self.lanes[at];
        // One whose reading failed is taken up anew first.
        let Some(queue) = lane.queue.as_ref().filter(|_| !lane.is_lost) else {
            return false;
        };
        if let Some((due, offset, record)) = lane.waiting.take() {
            if !is_reached(self.clock.reaches(due)) {
                lane.waiting = Some((due, offset, record));
                return false;
            }
            batch.records.push((offset, Some(batch.packer.put(record))));
        }
        if !lane.filled.swap(false, SeqCst) {
            return false;
        }
        let mut bytes = 0;
        for _ in 0..TURN.min(room) {
            if bytes > TURN_BYTES {
                break;
            }
            let record = match queue.poll(Duration::ZERO) {
                None => return false,
                Some(Ok(record)) => record,
                Some(Err(error)) => {
                    lane.is_lost |= error::ends_reading(&error);
                    if !lane.is_lost {
                        batch.error = Some(error);
                    }
                    continue;
                }
            };
            let offset = record.offset();
            bytes += record.payload_len();
            match &mut lane.source {
                Source::Exchange(exchange, answers) => {
                    let kind = wire::kind(&record);
                    let key = kind.map_or(&*self.default_key, |kind| kind.key);
                    let is_ours =
                        self.filter
                            .lets_in(exchange, lane.partition, offset, key, answers);
                    let packed = is_ours.then(|| batch.packer.pack(&record, kind));
                    batch.records.push((offset, packed));
                }
                Source::Retry(step) => {
                    let due = appended(&record) + *step;
                    if *step > 0 && !is_reached(self.clock.reaches(due)) {
                        lane.waiting = Some((due, offset, Packed::copy(&record)));
                        lane.filled.store(true, SeqCst);
                        return false;
                    }
                    batch
                        .records
                        .push((offset, Some(batch.packer.pack_copy(&record))));
                }
            }
        }
        lane.filled.store(true, SeqCst);
        room > 0
    }

    /// Asks whether bindings are known that might let in what none did.
    fn pass(&mut self, ticket: u64) {
        if self.is_ephemeral() {
            let mut state = self.held.lock();
            state
                .partitions
                .iter_mut()
                .for_each(|partition| partition.confirm(ticket));
            self.ticket = ticket;
            return;
        }
        if self.asked.is_some() {
            return;
        }
        self.ticket = ticket;
        let answer = EndAnswer::default();
        let (told, signal) = (answer.clone(), self.held.signal.clone());
        self.registry.ask(Box::new(move |end| {
            *lock(&told) = Some(end);
            signal.raise();
        }));
        self.asked = Some((ticket, answer));
    }

    /// What no binding let in is done when the table was read far enough, and nothing new stood in it.
    pub(super) fn confirm(&mut self) {
        let Some((ticket, answer)) = &self.asked else {
            return;
        };
        let ticket = *ticket;
        let end = match &*lock(answer) {
            None => return,
            Some(end) => end.clone(),
        };
        let is_known = match end {
            // Followed just before.
            Ok(end) => self
                .table
                .as_ref()
                .is_some_and(|table| table.position >= end),
            Err(_) => {
                // Asked again with the next record, or now.
                self.asked = None;
                self.pass(ticket);
                return;
            }
        };
        if !is_known {
            return;
        }
        self.asked = None;
        let mut state = self.held.lock();
        state.changes += 1;
        for partition in &mut state.partitions {
            partition.confirm(ticket);
        }
        let waits = state
            .partitions
            .iter()
            .any(|partition| partition.waits_for(u64::MAX));
        drop(state);
        if waits {
            self.pass(ticket + 1);
        }
    }
}

/// What was read of a partition: its records, and the offsets of records that are not the queue's.
#[derive(Default)]
struct Batch {
    records: Vec<(i64, Option<Spot>)>,
    packer: Packer,
    error: Option<KafkaError>,
}

fn is_reached(due: Option<Instant>) -> bool {
    due.is_some_and(|due| due <= Instant::now())
}

/// When the broker stored a record, in milliseconds since 1970.
fn appended(record: &BorrowedMessage<'_>) -> i64 {
    record.timestamp().to_millis().unwrap_or(0)
}
