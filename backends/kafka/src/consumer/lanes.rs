//! The partitions that a consumer reads: beginning with one, and reading it again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use event_core::{Arrival, ExchangeName, Result};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError,
};
use smol_str::SmolStr;

use super::{Context, Kind, REQUEST, Thread};
use crate::{
    admin,
    filter::Answers,
    names,
    partition::{Partition, Stage},
    progress::Progress,
    wire::Packed,
};

/// How often an ephemeral subscription looks for new partitions.
const LOOK: Duration = Duration::from_secs(5);
/// Generations differ over all subscriptions of a process.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// One partition as the client gives it.
pub(super) struct Lane {
    pub(super) topic: SmolStr,
    pub(super) partition: i32,
    pub(super) generation: u64,
    /// Nothing while it is taken away.
    pub(super) queue: Option<PartitionQueue<Context>>,
    /// There may be something in the queue.
    pub(super) filled: Arc<AtomicBool>,
    pub(super) source: Source,
    /// What was read and is not due before this, on the broker's clock.
    pub(super) waiting: Option<(i64, i64, Packed)>,
    /// Reading it failed; it has to be looked at where it begins and ends.
    pub(super) is_lost: bool,
}

pub(super) enum Source {
    Exchange(ExchangeName, Answers),
    /// Retries that wait for so many milliseconds.
    Retry(i64),
}

impl Thread {
    pub(super) fn bounds(
        &self,
        partitions: &TopicPartitionList,
        bound: Offset,
    ) -> Result<HashMap<(String, i32), i64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions.elements() {
            asked.add_partition_offset(partition.topic(), partition.partition(), bound)?;
        }
        admin::bounds(self.admin.asking(), asked)
    }

    /// Whether it has begun with a partition.
    pub(super) fn has(&self, topic: &str, partition: i32) -> bool {
        let mut lanes = self.lanes.iter();
        lanes.any(|lane| lane.topic == topic && lane.partition == partition)
    }

    pub(super) fn source(&self, topic: &str) -> Source {
        let prefix = format!("{}.retry.", self.queue);
        let step = topic
            .strip_prefix(&prefix)
            .and_then(|step| step.parse().ok());
        if let Some(step) = step {
            return Source::Retry(step);
        }
        let mut exchanges = self.filter.exchanges();
        let exchange = exchanges
            .find(|exchange| names::exchange(&self.template, exchange).is_ok_and(|of| of == topic));
        match exchange {
            Some(exchange) => Source::Exchange(exchange.clone(), Answers::default()),
            // Its last binding was removed in this moment.
            None => Source::Retry(0),
        }
    }

    /// Begins with a partition, which the client is to be told to read. Answers its generation.
    pub(super) fn open_lane(
        &mut self,
        topic: &SmolStr,
        partition: i32,
        source: Source,
        progress: Progress,
    ) -> Result<u64> {
        let generation = GENERATIONS.fetch_add(1, SeqCst);
        let (exchange, source) = match source {
            Source::Exchange(exchange, _) => {
                let answers = self.filter.fresh_answers(&exchange, partition);
                (exchange.clone(), Source::Exchange(exchange, answers))
            }
            // Copies say where they came from.
            Source::Retry(step) => (ExchangeName::new("unknown")?, Source::Retry(step)),
        };
        let mut lane = Lane {
            topic: topic.clone(),
            partition,
            generation,
            queue: None,
            filled: Arc::new(AtomicBool::new(true)),
            source,
            waiting: None,
            is_lost: false,
        };
        self.split(&mut lane);
        let mut opened = Partition::new(
            topic.clone(),
            partition,
            generation,
            exchange,
            self.prefetch,
            progress,
        );
        if self.is_ephemeral() {
            opened.told(i64::MAX);
        }
        let mut state = self.held.lock();
        state.partitions.push(opened);
        state.changes += 1;
        state.urgent = true;
        drop(state);
        self.lanes.push(lane);
        self.is_unidentified = true;
        Ok(generation)
    }

    /// Has the client put what it reads of a partition into a queue of its own. That comes before it reads, so that
    /// nothing goes another way.
    fn split(&self, lane: &mut Lane) {
        // The queues of one partition are one: the end of an old one would take the callback of the new one along.
        lane.queue = None;
        let queue = self
            .client
            .split_partition_queue(&lane.topic, lane.partition);
        let Some(mut queue) = queue else {
            lane.is_lost = true;
            return;
        };
        let (signal, filled) = (self.held.signal.clone(), lane.filled.clone());
        queue.set_nonempty_callback(move || {
            filled.store(true, SeqCst);
            signal.raise();
        });
        lane.queue = Some(queue);
        lane.filled.store(true, SeqCst);
    }

    /// Begins with a partition outside of a rebalance.
    pub(super) fn open_alone(
        &mut self,
        topic: &SmolStr,
        partition: i32,
        source: Source,
        progress: Progress,
    ) -> Result<()> {
        let start = Offset::Offset(progress.offset);
        let generation = self.open_lane(topic, partition, source, progress)?;
        let mut one = TopicPartitionList::new();
        let assigned = one
            .add_partition_offset(topic, partition, start)
            .and_then(|()| self.client.incremental_assign(&one));
        if let Err(error) = assigned {
            tracing::warn!(
                target: "switchboard", queue = %self.queue, %topic, partition, %error,
                "a partition cannot be read yet; it is tried again"
            );
            for lane in &mut self.lanes {
                lane.is_lost |= lane.generation == generation;
            }
        }
        Ok(())
    }

    /// An ephemeral subscription has no group that tells it of new partitions.
    pub(super) fn look_for_partitions(&mut self) -> Result<()> {
        let Kind::Ephemeral { starts, .. } = &self.kind else {
            return Ok(());
        };
        if self.looked_at.elapsed() < LOOK {
            return Ok(());
        }
        self.looked_at = Instant::now();
        let mut new = Vec::new();
        for (exchange, topic, _) in starts {
            let Ok(metadata) = self.admin.asking().fetch_metadata(Some(topic), REQUEST) else {
                continue;
            };
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let count = found.map_or(0, |found| found.partitions().len());
            for partition in 0..i32::try_from(count).unwrap_or(0) {
                if !self.has(topic, partition) {
                    new.push((exchange.clone(), topic.clone(), partition));
                }
            }
        }
        for (exchange, topic, partition) in new {
            let source = Source::Exchange(exchange, Answers::default());
            self.open_alone(&topic, partition, source, Progress::at(0))?;
        }
        Ok(())
    }

    /// Reads again what was given back, and looks at partitions whose reading failed.
    pub(super) fn reread(&mut self) -> Result<()> {
        let mut again = Vec::new();
        let mut state = self.held.lock();
        let is_ending = state.end.is_some();
        if std::mem::take(&mut state.back) && !is_ending {
            for partition in &mut state.partitions {
                if partition.stage() == Stage::Ours
                    && let Some(from) = partition.reread()
                {
                    again.push((partition.generation(), from));
                }
            }
        }
        drop(state);
        for (generation, from) in again {
            self.seek(generation, from);
        }
        // In the middle of a rebalance that would be taken for its answer.
        if self.is_rebalancing() {
            return Ok(());
        }
        let lost = self.lanes.iter().filter(|lane| lane.is_lost);
        let lost: Vec<_> = lost.map(|lane| lane.generation).collect();
        if lost.is_empty() || self.restored_at.elapsed() < Duration::from_millis(100) {
            return Ok(());
        }
        self.restored_at = Instant::now();
        lost.into_iter()
            .try_for_each(|generation| self.restore(generation))
    }

    pub(super) fn seek(&mut self, generation: u64, offset: i64) {
        let Some(lane) = self
            .lanes
            .iter_mut()
            .find(|lane| lane.generation == generation)
        else {
            return;
        };
        // It comes again in its turn.
        lane.waiting = lane.waiting.take().filter(|(_, at, _)| *at < offset);
        lane.filled.store(true, SeqCst);
        let sought = self.client.seek(
            &lane.topic,
            lane.partition,
            Offset::Offset(offset),
            Duration::from_millis(100),
        );
        if let Err(error) = sought {
            tracing::debug!(target: "switchboard", queue = %self.queue, %error, "a partition is taken up anew");
            lane.is_lost = true;
        }
    }

    /// Takes a partition up anew, where it was, or where it begins if that is not there any more.
    fn restore(&mut self, generation: u64) -> Result<()> {
        let Some(at) = self
            .lanes
            .iter()
            .position(|lane| lane.generation == generation)
        else {
            return Ok(());
        };
        let lane = &self.lanes[at];
        let place = (lane.topic.to_string(), lane.partition);
        let mut one = TopicPartitionList::new();
        one.add_partition(&lane.topic, lane.partition);
        let bounds = self
            .bounds(&one, Offset::Beginning)
            .and_then(|low| Ok((low, self.bounds(&one, Offset::End)?)));
        let Ok((low, high)) = bounds else {
            // Nobody answers: it is asked again.
            return Ok(());
        };
        let (Some(low), Some(high)) = (low.get(&place).copied(), high.get(&place).copied()) else {
            return Ok(());
        };
        let is_retry = matches!(lane.source, Source::Retry(_));
        let exchange = match &lane.source {
            Source::Exchange(exchange, _) => Some(exchange.clone()),
            Source::Retry(_) => None,
        };
        let progress = {
            let mut state = self.held.lock();
            let Some(partition) = state.partition(generation) else {
                return Ok(());
            };
            // It did not end anybody.
            partition.let_go();
            partition.progress()
        };
        let another = self.another(&place.0, &progress.topic).cloned();
        let parts = self.parts();
        if let Some(exchange) = exchange
            && (another.is_some()
                || parts.is_some_and(|parts| parts.begins_after(&exchange, place.1, high)))
            && let Err(error) = self.renew(&exchange)
        {
            tracing::warn!(target: "switchboard", queue = %self.queue, %error, "it is tried again");
            return Ok(());
        }
        let progress = match another {
            Some(id) => {
                tracing::error!(
                    target: "switchboard", queue = %self.queue, topic = place.0, partition = place.1,
                    "the topic was deleted and made again; it is read from its beginning"
                );
                Progress::at(low).of(Some(&id))
            }
            None => self.within(progress, &place, low, high, is_retry),
        };
        // One that came meanwhile would be answered by this.
        self.serve_events()?;
        if self.is_rebalancing() {
            return Ok(());
        }
        self.unassign(&one);
        let mut lane = self.lanes.swap_remove(at);
        // With a generation of its own, so that nothing of before is taken for something of it.
        let mut state = self.held.lock();
        state
            .partitions
            .retain(|partition| partition.generation() != generation);
        state.arrivals.push_back(Arrival::Revoked { generation });
        drop(state);
        self.held.tell_reader();
        lane.queue = None;
        let source = lane.source;
        if let Err(error) = self.open_alone(&lane.topic, lane.partition, source, progress) {
            tracing::warn!(target: "switchboard", queue = %self.queue, %error, "a partition is not read");
        }
        Ok(())
    }
}
