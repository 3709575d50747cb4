//! The part that a consumer takes in the group of its queue: what it is given, and what it gives back.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use event_core::{Arrival, ExchangeName, Result};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    bindings::rd_kafka_resp_err_t as Event,
    config::RDKafkaLogLevel,
    consumer::{Consumer as _, ConsumerContext},
    error::KafkaError,
};
use smol_str::SmolStr;

use super::{Client, Kind, Lane, REQUEST, Source, Thread, identity};
use crate::{
    client::{self, Health},
    error,
    partition::Partition,
    progress::Progress,
    shared::lock,
};

/// What the client says to its consumer.
pub(super) struct Context {
    health: Arc<Health>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// How many events came: while there are any, the queue of events is not empty.
    events: AtomicU64,
    /// Partitions are let go at once: nobody is there to do it later.
    inline: AtomicBool,
    /// Topics that it met, each with its id.
    pub(super) topics: Mutex<Vec<(SmolStr, SmolStr)>>,
    /// What it logs for its developers was asked for.
    is_debugged: bool,
}

struct Rebalance {
    is_assigned: bool,
    is_lost: bool,
    partitions: TopicPartitionList,
}

impl Context {
    pub(super) fn new(health: &Arc<Health>, is_debugged: bool) -> Self {
        Self {
            health: health.clone(),
            rebalances: Mutex::default(),
            events: AtomicU64::new(0),
            inline: AtomicBool::new(false),
            topics: Mutex::default(),
            is_debugged,
        }
    }

    /// How many events came so far.
    pub(super) fn events(&self) -> u64 {
        self.events.load(SeqCst)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.fetch_add(1, SeqCst);
        if let Some(topic) = identity::of_line(message) {
            lock(&self.topics).push(topic);
        }
        if self.is_debugged || !matches!(level, RDKafkaLogLevel::Debug) {
            client::log(level, facility, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.fetch_add(1, SeqCst);
        self.health.met(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, client: &Client, event: Event, partitions: &mut TopicPartitionList) {
        self.events.fetch_add(1, SeqCst);
        let is_assigned = event == Event::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.inline.load(SeqCst) {
            // Nothing else would end the consumer.
            answer(client, is_assigned, partitions);
            return;
        }
        lock(&self.rebalances).push_back(Rebalance {
            is_assigned,
            // Only true in this moment.
            is_lost: client.assignment_lost(),
            partitions: partitions.clone(),
        });
    }
}

/// Answers a rebalance at the end of a consumer, which takes nothing and gives everything. Without an answer it does
/// not leave its group.
fn answer(client: &Client, is_assigned: bool, partitions: &TopicPartitionList) {
    let answered = match is_assigned {
        true => client.incremental_assign(&TopicPartitionList::new()),
        false => unassign(client, partitions),
    };
    if let Err(error) = answered {
        tracing::debug!(target: "switchboard", %error, "a rebalance was over already");
    }
}

/// Lets partitions go.
fn unassign(client: &Client, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
    let Err(error) = client.incremental_unassign(partitions) else {
        return Ok(());
    };
    // One that is not assigned has the whole list refused, and without an answer everything stands still.
    let assigned = client.assignment().map_err(|_| error)?;
    let mut rest = TopicPartitionList::new();
    for one in assigned.elements() {
        if partitions
            .find_partition(one.topic(), one.partition())
            .is_some()
        {
            rest.add_partition(one.topic(), one.partition());
        }
    }
    client.incremental_unassign(&rest)
}

/// Partitions that go elsewhere when what is held of them is settled.
pub(super) struct Leaving {
    partitions: TopicPartitionList,
    generations: Vec<u64>,
    until: Instant,
    /// The change after which the broker knows what is done, and when that is given up.
    last: Option<(u64, Instant)>,
}

impl Thread {
    pub(super) fn rebalance(&mut self) -> Result<()> {
        while self.leaving.is_none() {
            let next = lock(&self.client.context().rebalances).pop_front();
            let Some(next) = next else { return Ok(()) };
            if !next.is_assigned {
                self.revoke(next);
                continue;
            }
            let assigned = self.assign(&next.partitions);
            if assigned.is_ok() {
                self.held.joined();
            }
            if let Err(error) = assigned {
                if !error.is_retryable() {
                    return Err(error);
                }
                tracing::warn!(
                    target: "switchboard", queue = %self.queue, %error,
                    "partitions were assigned, and it is not known where to begin; it is tried again"
                );
                lock(&self.client.context().rebalances).push_front(next);
                self.held.signal.wait(Duration::from_millis(200));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a rebalance waits for its answer.
    pub(super) fn is_rebalancing(&self) -> bool {
        self.leaving.is_some() || !lock(&self.client.context().rebalances).is_empty()
    }

    /// Begins with partitions where the queue was, or where it was declared.
    fn assign(&mut self, partitions: &TopicPartitionList) -> Result<()> {
        let what = format!("begin with partitions of queue `{}`", self.queue);
        let failed = |error: KafkaError| error::of(&what, &error);
        if partitions.count() == 0 {
            // Until it is answered, everything stands still.
            return self.client.incremental_assign(partitions).map_err(failed);
        }
        let parts = self.refresh()?;
        let Kind::Durable { life } = &self.kind else {
            return Ok(());
        };
        let life = life.clone();
        let committed = self
            .client
            .committed_offsets(partitions.clone(), REQUEST)
            .map_err(failed)?;
        let (lows, highs) = (
            self.bounds(partitions, Offset::Beginning).map_err(failed)?,
            self.bounds(partitions, Offset::End).map_err(failed)?,
        );
        let mut begun = Vec::new();
        for partition in committed.elements() {
            let place = (partition.topic().to_owned(), partition.partition());
            let source = self.source(&place.0);
            let stored = match partition.offset() {
                Offset::Offset(offset) if partition.metadata().is_empty() => {
                    tracing::warn!(
                        target: "switchboard", queue = %self.queue, topic = place.0, partition = place.1, offset,
                        "somebody else committed for the queue; it goes on from there"
                    );
                    Some(Progress::at(offset))
                }
                Offset::Offset(offset) => Progress::from_text(offset, partition.metadata(), &life),
                _ => None,
            };
            let start = match (&source, stored) {
                (_, Some(progress)) => progress,
                (Source::Retry(_), None) => Progress::at(0),
                (Source::Exchange(exchange, _), None) => match parts.marks.get(&place) {
                    Some(mark) => {
                        tracing::warn!(
                            target: "switchboard", queue = %self.queue, topic = place.0, partition = place.1, offset = mark.offset,
                            "what the queue committed is not there any more; it goes on from what it noted last, and \
                             repeats what it did since"
                        );
                        Progress::at(mark.offset).of(mark.topic.as_deref())
                    }
                    None => {
                        let topic = parts.topics.get(&place.0).map(String::as_str);
                        Progress::at(parts.start(exchange, place.1)).of(topic)
                    }
                },
            };
            let (low, high) = (
                lows.get(&place).copied().unwrap_or(0),
                highs.get(&place).copied().unwrap_or(i64::MAX),
            );
            if let Source::Exchange(exchange, _) = &source
                && parts.begins_after(exchange, place.1, high)
            {
                self.renew(exchange)?;
            }
            let start = self.within(start, &place, low, high, matches!(source, Source::Retry(_)));
            begun.push((place, source, start));
        }
        // One answer for all: what came after it could be taken for the answer to the next rebalance.
        let mut all = TopicPartitionList::new();
        let mut opened = Vec::new();
        for ((topic, partition), source, progress) in begun {
            if !self.has(&topic, partition) {
                let topic = SmolStr::from(topic);
                let start = Offset::Offset(progress.offset);
                opened.push(self.open_lane(&topic, partition, source, progress)?);
                all.add_partition_offset(&topic, partition, start)
                    .map_err(failed)?;
            }
        }
        if let Err(error) = self.client.incremental_assign(&all) {
            tracing::warn!(
                target: "switchboard", queue = %self.queue, %error,
                "partitions cannot be read yet; each is tried again by itself"
            );
            for lane in &mut self.lanes {
                lane.is_lost |= opened.contains(&lane.generation);
            }
            self.client
                .incremental_assign(&TopicPartitionList::new())
                .map_err(failed)?;
        }
        Ok(())
    }

    /// The topic of an exchange was deleted and made again: bindings that began in the old one begin with the new one.
    pub(super) fn renew(&mut self, exchange: &ExchangeName) -> Result<()> {
        let (Kind::Durable { life }, Some(parts)) = (&self.kind, self.parts()) else {
            return Ok(());
        };
        let facts = parts.renewed(&self.queue, life, exchange);
        if facts.is_empty() {
            return Ok(());
        }
        tracing::error!(
            target: "switchboard", queue = %self.queue, %exchange,
            "the topic of an exchange was deleted and made again; the queue begins with the new one"
        );
        let what = format!("renew the bindings of queue `{}`", self.queue);
        self.write(&what, &facts).map(drop)
    }

    /// Where to begin, when what was to be read is still there; otherwise it is said what is lost.
    pub(super) fn within(
        &self,
        start: Progress,
        place: &(String, i32),
        low: i64,
        high: i64,
        is_swept: bool,
    ) -> Progress {
        let (topic, partition) = (place.0.as_str(), place.1);
        if start.offset > high {
            tracing::error!(
                target: "switchboard", queue = %self.queue, topic, partition, offset = start.offset, end = high,
                "the topic ends before what was read of it: it was deleted and made again; it is read from its beginning"
            );
            // Still as of the old topic: who learns that it is another renews the bindings.
            return Progress::at(low).of(Some(&start.topic));
        }
        if start.offset >= low {
            return start;
        }
        // What is done already is not lost.
        let mut lost = low - start.offset;
        for (from, to) in &start.finished {
            lost -= (*to).min(low) - (*from).min(low);
        }
        if lost > 0 && !is_swept {
            tracing::error!(
                target: "switchboard", queue = %self.queue, topic, partition, lost,
                "records were removed by the retention of the topic before they were read: they are lost"
            );
        }
        Progress {
            topic: start.topic,
            offset: low,
            finished: start
                .finished
                .into_iter()
                .filter(|(from, _)| *from >= low)
                .collect(),
            lent: start.lent.max(low),
            suspects: start.suspects.max(low),
            alone: start.alone,
        }
    }

    fn revoke(&mut self, rebalance: Rebalance) {
        let partitions = rebalance.partitions;
        let mut generations = Vec::new();
        let is_taken = |lane: &Lane| {
            partitions
                .find_partition(&lane.topic, lane.partition)
                .is_some()
        };
        for lane in self.lanes.extract_if(.., |lane| is_taken(lane)) {
            generations.push(lane.generation);
        }
        let until = Instant::now() + self.drain;
        let mut state = self.held.lock();
        if rebalance.is_lost {
            state
                .partitions
                .retain(|partition| !generations.contains(&partition.generation()));
            let lost = generations.iter().map(|generation| Arrival::Revoked {
                generation: *generation,
            });
            state.arrivals.extend(lost);
            drop(state);
            tracing::warn!(
                target: "switchboard", queue = %self.queue, partitions = partitions.count(),
                "partitions were lost; what was in flight is handled again"
            );
            self.held.tell_reader();
            self.unassign(&partitions);
            return;
        }
        for generation in &generations {
            let Some(partition) = state.partition(*generation) else {
                continue;
            };
            partition.leave();
            if partition.held() > 0 {
                state.arrivals.push_back(Arrival::Revoking {
                    generation: *generation,
                    until: until.into(),
                });
            }
        }
        drop(state);
        self.held.tell_reader();
        self.leaving = Some(Leaving {
            partitions,
            generations,
            until,
            last: None,
        });
    }

    pub(super) fn unassign(&self, partitions: &TopicPartitionList) {
        if let Err(error) = unassign(&self.client, partitions) {
            tracing::warn!(target: "switchboard", queue = %self.queue, %error, "partitions cannot be let go");
        }
    }

    /// Lets partitions go when what was held of them is settled and the broker knows it.
    pub(super) fn let_go(&mut self) {
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        let now = Instant::now();
        let mut state = self.held.lock();
        let is_theirs =
            |partition: &Partition| leaving.generations.contains(&partition.generation());
        let Some((changes, give_up)) = leaving.last else {
            let held: usize = state
                .partitions
                .iter()
                .filter(|p| is_theirs(p))
                .map(Partition::held)
                .sum();
            if held > 0 && now < leaving.until {
                return;
            }
            for partition in state
                .partitions
                .iter_mut()
                .filter(|partition| is_theirs(partition))
            {
                partition.let_go();
            }
            state.changes += 1;
            state.urgent = true;
            leaving.last = Some((state.changes, now + REQUEST));
            drop(state);
            self.held.signal.raise();
            return;
        };
        if self.held.told_up_to() < changes && now < give_up {
            return;
        }
        let mut revoked = Vec::new();
        for partition in state
            .partitions
            .extract_if(.., |partition| is_theirs(partition))
        {
            if partition.held() > 0 {
                let generation = partition.generation();
                revoked.push(Arrival::Revoked { generation });
            }
        }
        state.arrivals.extend(revoked);
        drop(state);
        self.held.tell_reader();
        if let Some(leaving) = self.leaving.take() {
            self.unassign(&leaving.partitions);
        }
    }

    /// What was taken away meanwhile is not committed.
    pub(super) fn take_what_is_lost(&mut self) {
        let lost = {
            let mut rebalances = lock(&self.client.context().rebalances);
            let lost = rebalances.iter().position(|rebalance| rebalance.is_lost);
            lost.and_then(|at| rebalances.remove(at))
        };
        if let Some(lost) = lost {
            self.revoke(lost);
        }
    }

    /// Leaves the group, which happens when the client is dropped after this.
    ///
    /// Its last partitions are taken away then, and it leaves only if that is answered after the client was told to
    /// end: the answer to anything before would have it stop reading first, and the end not wait for that. So what is
    /// open is answered at the very end, and nothing is polled from here on.
    pub(super) fn leave(&mut self) {
        let context = self.client.context().clone();
        context.inline.store(true, SeqCst);
        self.lanes.clear();
        if self.is_ephemeral() {
            return;
        }
        if !self.is_rebalancing() {
            self.wait_for_the_group();
        }
        // Who has no partitions leaves with this.
        self.client.unsubscribe();
    }

    /// Answers a rebalance that is open, at the very end: the client waits for that, and asks again only for partitions
    /// that it still has. It is told to end first, and then takes any answer for giving up everything.
    pub(super) fn answer_what_is_open(&self) {
        if self.is_ephemeral() || !self.is_rebalancing() {
            return;
        }
        if let Err(error) = self.client.close_queue() {
            tracing::debug!(target: "switchboard", queue = %self.queue, %error, "a consumer ended already");
        }
        answer(&self.client, true, &TopicPartitionList::new());
    }

    /// Waits until the group has agreed: the client does not leave while it joins, and the others would wait for it
    /// until its lease is over.
    fn wait_for_the_group(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            let client = self.admin.asking().client();
            let found = client.fetch_group_list(Some(&self.queue), Duration::from_secs(1));
            let Ok(found) = found else { return };
            let group = found
                .groups()
                .iter()
                .find(|group| group.name() == &*self.queue);
            if group.is_none_or(|group| !group.state().contains("Rebalance")) {
                return;
            }
            drop(self.client.poll(Duration::from_millis(20)));
        }
    }
}
