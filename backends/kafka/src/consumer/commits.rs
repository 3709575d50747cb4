//! Telling the broker what is done.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use event_core::Result;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::{Client, Kind, Source, Thread};
use crate::{
    error, partition::Partition, signal::Signal, subscription::State, table::Fact, topology,
};

/// How often the broker is told what is done, when nothing is urgent.
const COMMIT: Duration = Duration::from_millis(200);
/// How often it is noted in the topology topic how far the queue is.
const MARK: Duration = Duration::from_secs(3_600);
/// How often handled retries are removed.
const SWEEP: Duration = Duration::from_secs(30);

/// The one commit that is under way.
#[derive(Default)]
pub(super) struct Commit {
    under_way: Option<UnderWay>,
    not_before: Option<Instant>,
}

struct UnderWay {
    changes: u64,
    lent: Vec<(u64, i64)>,
    result: mpsc::Receiver<Vec<Result<(), KafkaError>>>,
}

/// Something to commit: that waits for the broker, and so has a thread of its own.
pub(super) struct Job {
    offsets: TopicPartitionList,
    /// A result for each.
    told: mpsc::Sender<Vec<Result<(), KafkaError>>>,
    signal: Arc<Signal>,
}

/// Commits, one job after the other, until nobody has any more.
pub(super) fn run_commits(client: Arc<Client>, jobs: &mpsc::Receiver<Job>) {
    for Job {
        offsets,
        told,
        signal,
    } in jobs
    {
        let all = client.commit(&offsets, CommitMode::Sync);
        let results = match all {
            // The error of one is said of all.
            Err(error) if offsets.count() > 1 && !is_of_the_member(&error) => {
                commit_each(&client, &offsets)
            }
            result => vec![result; offsets.count()],
        };
        let _ = told.send(results);
        signal.raise();
    }
    // The last one ends the client, which waits.
    drop(client);
}

/// Whether a commit was refused because of who made it. Made again by then, it has the client forget that it has joined
/// anew, and the group wait for somebody who is not there.
fn is_of_the_member(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress)
    )
}

fn commit_each(client: &Client, offsets: &TopicPartitionList) -> Vec<Result<(), KafkaError>> {
    let each = offsets.elements();
    each.iter()
        .map(|one| {
            let mut alone = TopicPartitionList::new();
            let mut element = alone.add_partition(one.topic(), one.partition());
            element.set_metadata(one.metadata());
            element.set_offset(one.offset())?;
            client.commit(&alone, CommitMode::Sync)
        })
        .collect()
}

impl Thread {
    /// Tells the broker what is done, in a moment or now.
    pub(super) fn commit(&mut self) {
        if self.is_ephemeral() {
            let state = self.held.lock();
            self.held.told(state.changes);
            return;
        }
        self.take_result();
        let now = Instant::now();
        if self.commit.under_way.is_some() || self.commit.not_before.is_some_and(|at| now < at) {
            return;
        }
        let Kind::Durable { life } = &self.kind else {
            return;
        };
        let mut state = self.held.lock();
        if self.beat_at.elapsed() >= COMMIT {
            self.beat_at = now;
            state.partitions.iter_mut().for_each(Partition::beat);
        }
        if !state.urgent && self.told_at.elapsed() < COMMIT {
            return;
        }
        state.urgent = false;
        let changes = state.changes;
        let mut offsets = TopicPartitionList::new();
        let mut lent = Vec::new();
        for partition in state
            .partitions
            .iter_mut()
            .filter(|partition| partition.has_changed())
        {
            let progress = partition.progress();
            lent.push((partition.generation(), progress.lent));
            let mut element = offsets.add_partition(&partition.topic, partition.number);
            element.set_metadata(progress.to_text(life));
            if let Err(error) = element.set_offset(Offset::Offset(progress.offset)) {
                tracing::error!(target: "switchboard", queue = %self.queue, %error, "an offset that cannot be");
            }
        }
        drop(state);
        self.told_at = now;
        if lent.is_empty() {
            self.held.told(changes);
            return;
        }
        let (told, result) = mpsc::channel();
        let job = Job {
            offsets,
            told,
            signal: self.held.signal.clone(),
        };
        if let Some((commits, _)) = &self.commits
            && commits.send(job).is_err()
        {
            tracing::error!(target: "switchboard", queue = %self.queue, "the thread that commits has ended");
        }
        self.commit.under_way = Some(UnderWay {
            changes,
            lent,
            result,
        });
    }

    /// How long until there is something to tell the broker.
    pub(super) fn next_commit(&self) -> Option<Duration> {
        if self.is_ephemeral() {
            return None;
        }
        let state = self.held.lock();
        if self.commit.under_way.is_some() || !state.partitions.iter().any(Partition::has_changed) {
            return None;
        }
        Some(match self.commit.not_before {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => COMMIT.saturating_sub(self.told_at.elapsed()),
        })
    }

    fn take_result(&mut self) {
        let Some(under_way) = &self.commit.under_way else {
            return;
        };
        let results = match under_way.result.try_recv() {
            Ok(results) => results,
            Err(mpsc::TryRecvError::Empty) => return,
            // Its thread has ended.
            Err(mpsc::TryRecvError::Disconnected) => Vec::new(),
        };
        let Some(UnderWay { changes, lent, .. }) = self.commit.under_way.take() else {
            return;
        };
        let mut state = self.held.lock();
        let mut failed = None;
        for (at, (generation, lent)) in lent.into_iter().enumerate() {
            let result = results
                .get(at)
                .cloned()
                .unwrap_or(Err(KafkaError::Canceled));
            let Some(partition) = state.partition(generation) else {
                continue;
            };
            match result {
                Ok(()) => partition.told(lent),
                // There is nothing left to be told of.
                Err(error) if error::is_gone(&error) => partition.told(lent),
                Err(error) => {
                    partition.not_told();
                    failed = Some(error);
                }
            }
        }
        match failed {
            None => {
                drop(state);
                self.commit.not_before = None;
                self.held.told(changes);
            }
            Some(error) => {
                state.urgent = true;
                drop(state);
                tracing::debug!(target: "switchboard", queue = %self.queue, %error, "a commit failed; it is tried again");
                self.commit.not_before = Some(Instant::now() + Duration::from_millis(100));
            }
        }
        self.held.tell_reader();
    }

    /// Notes from time to time how far it is, for when committed offsets have expired, and removes handled retries.
    pub(super) fn sweep(&mut self) {
        if self.is_ephemeral() {
            return;
        }
        if self.marked_at.elapsed() >= MARK {
            self.mark();
        }
        if self.swept_at.elapsed() < SWEEP {
            return;
        }
        self.swept_at = Instant::now();
        let mut before = TopicPartitionList::new();
        let state = self.held.lock();
        for lane in &self.lanes {
            let partition = state.look_at(lane.generation);
            let (Source::Retry(_), Some(partition)) = (&lane.source, partition) else {
                continue;
            };
            let (place, lowest) = ((lane.topic.clone(), lane.partition), partition.lowest());
            let swept = self.swept.entry(place).or_insert(0);
            if lowest > *swept
                && before
                    .add_partition_offset(&lane.topic, lane.partition, Offset::Offset(lowest))
                    .is_ok()
            {
                *swept = lowest;
            }
        }
        drop(state);
        if before.count() > 0 {
            let admin = self.admin.clone();
            self.runtime.spawn(async move {
                if let Err(error) = admin.delete_records(before).await {
                    tracing::debug!(target: "switchboard", %error, "handled retries stay for now");
                }
            });
        }
    }

    /// Notes how far the partitions are, for when what is committed has expired.
    fn mark(&mut self) {
        self.marked_at = Instant::now();
        let marks = self.marks(&self.held.lock());
        self.note(&marks);
    }

    /// How far the partitions are.
    pub(super) fn marks(&self, state: &State) -> Vec<Fact> {
        let Kind::Durable { life } = &self.kind else {
            return Vec::new();
        };
        let mut facts = Vec::new();
        for lane in &self.lanes {
            let partition = state.look_at(lane.generation);
            if let (Source::Exchange(..), Some(partition)) = (&lane.source, partition) {
                let (topic, number) = (lane.topic.as_str(), lane.partition);
                let mark = partition.mark();
                facts.push(Fact::mark(&self.queue, life, topic, number, &mark));
            }
        }
        facts
    }

    /// Writes to the topology topic without waiting for it: what is not stored is made up for later.
    pub(super) fn note(&self, facts: &[Fact]) {
        let topic = self.registry.topic();
        let records = facts.iter().map(|fact| topology::record(topic, fact));
        drop(self.producer.send(records.collect()));
    }
}
