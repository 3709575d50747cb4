//! A subscription: the reader, and what settles.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, Delivery, DeliveryTag, Error, ErrorKind, ExchangeName, QueueSpec, Result,
    RoutingKey, Settle, Settled, Settlement, Subscription, retry_step,
};
use smol_str::{SmolStr, format_smolstr};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::PATIENCE,
    consumer, error, names,
    partition::{Partition, Stage, Taken},
    producer::{Answered, Record, answer},
    shared::{Shared, lock},
    signal::Signal,
    topology,
    wire::Reading,
};

/// How long the end of a subscription may take before it goes on without the broker.
const ENDING: Duration = Duration::from_secs(8);

/// What the reader, the settler and the thread of a consumer share.
#[derive(Debug)]
pub(crate) struct Held {
    state: Mutex<State>,
    /// Something for the reader.
    arrived: Notify,
    /// Something for the thread.
    pub(crate) signal: Arc<Signal>,
    /// Up to which change the broker was told.
    told: watch::Sender<u64>,
    /// It has partitions, or is told that there are none for it.
    joined: watch::Sender<bool>,
    /// The thread has nothing more to do with the broker.
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Copies that had no answer when they were waited for: they may still be stored, and are not made again before.
    copies: HashMap<DeliveryTag, Answered>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) arrivals: VecDeque<Arrival>,
    pub(crate) fatal: Option<Error>,
    pub(crate) end: Option<End>,
    /// Counts changes that the broker is to be told of.
    pub(crate) changes: u64,
    /// It is to be told now, not in a moment.
    pub(crate) urgent: bool,
    /// Something was given back.
    pub(crate) back: bool,
    /// Whose turn it is.
    turn: usize,
}

/// How a subscription ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing more is handed out, and it ends when everything is settled.
    Stopped,
    /// It ends at once, and nothing is suspected.
    Closed,
    /// Nobody is there any more: what is held may have ended somebody.
    Abandoned,
}

/// The two halves of a subscription. When both are dropped, nobody is there any more.
#[derive(Debug)]
struct Halves {
    shared: Arc<Shared>,
    held: Arc<Held>,
    spec: QueueSpec,
}

#[derive(Debug)]
struct Reader {
    halves: Arc<Halves>,
    reading: Reading,
    stop: CancellationToken,
}

pub(crate) async fn open(shared: &Arc<Shared>, spec: &QueueSpec) -> Result<Subscription> {
    shared.check_open()?;
    let held = Arc::new(Held {
        state: Mutex::default(),
        arrived: Notify::new(),
        signal: Arc::default(),
        told: watch::channel(0).0,
        joined: watch::channel(false).0,
        ended: watch::channel(false).0,
    });
    shared.keep(&held);
    consumer::start(shared, spec, &held).await?;
    // It may have been closed meanwhile.
    if let Err(closed) = shared.check_open() {
        held.end(End::Closed);
        return Err(closed);
    }
    let halves = Arc::new(Halves {
        shared: shared.clone(),
        held,
        spec: spec.clone(),
    });
    let stop = CancellationToken::new();
    let reader = Reader {
        halves: halves.clone(),
        reading: Reading::new(RoutingKey::new(&shared.endpoints.default_key)?),
        stop: stop.clone(),
    };
    Ok(Subscription {
        deliveries: Box::new(reader),
        settle: halves,
        stop,
    })
}

impl Held {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells the reader that there is something.
    pub(crate) fn tell_reader(&self) {
        self.arrived.notify_one();
    }

    /// Up to which change the broker knows everything.
    pub(crate) fn told_up_to(&self) -> u64 {
        *self.told.borrow()
    }

    /// The broker knows everything up to this change.
    pub(crate) fn told(&self, changes: u64) {
        self.told.send_replace(changes);
    }

    /// The group answered.
    pub(crate) fn joined(&self) {
        self.joined.send_replace(true);
    }

    /// Waits until the group has answered, at most for so long.
    pub(crate) async fn wait_joined(&self, most: Duration) {
        let mut joined = self.joined.subscribe();
        // Without an answer it goes on: partitions come when they come.
        let _ = tokio::time::timeout(most, joined.wait_for(|joined| *joined)).await;
    }

    /// The broker has nothing more to do with it.
    pub(crate) fn ended(&self) {
        self.ended.send_replace(true);
        self.arrived.notify_one();
    }

    /// Ends it, unless it is ending already in a stricter way.
    fn end(&self, how: End) {
        let mut state = self.lock();
        if matches!(state.end, None | Some(End::Stopped)) {
            state.end = Some(how);
            if how != End::Stopped {
                self.arrived.notify_one();
            }
        }
        drop(state);
        self.signal.raise();
    }

    /// Ends it without a suspicion, and waits until it has ended.
    pub(crate) async fn close(&self) {
        self.end(End::Closed);
        // It lives as long as this.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    async fn wait_ended(&self) -> bool {
        let mut ended = self.ended.subscribe();
        let deadline = Instant::now() + ENDING;
        let ended = timeout_at(deadline, ended.wait_for(|ended| *ended)).await;
        matches!(ended, Ok(Ok(_)))
    }

    /// Waits until the broker was told of a change. Not so when it does not answer.
    async fn wait_told(&self, changes: u64) -> bool {
        let mut told = self.told.subscribe();
        let deadline = Instant::now() + PATIENCE;
        let told = timeout_at(deadline, told.wait_for(|told| *told >= changes)).await;
        matches!(told, Ok(Ok(_)))
    }
}

impl State {
    pub(crate) fn partition(&mut self, generation: u64) -> Option<&mut Partition> {
        self.partitions
            .iter_mut()
            .find(|partition| partition.generation() == generation)
    }

    /// The same to look at.
    pub(crate) fn look_at(&self, generation: u64) -> Option<&Partition> {
        self.partitions
            .iter()
            .find(|partition| partition.generation() == generation)
    }

    /// How much was read and not handed out: messages, and bytes of them.
    pub(crate) fn ready(&self) -> (usize, usize) {
        let ready = self.partitions.iter().map(Partition::ready);
        ready.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    pub(crate) fn held(&self) -> usize {
        self.partitions.iter().map(Partition::held).sum()
    }

    /// Takes from one partition after the other, and whose they are. Also whether there is room now to read on.
    fn take(&mut self, most: usize) -> (Vec<Taken>, Option<ExchangeName>, bool) {
        let mut taken = Vec::new();
        let mut exchange = None;
        let count = self.partitions.len();
        let before = self.ready();
        let mut has_room = false;
        for step in 0..count {
            let at = (self.turn + step) % count;
            if let Some(partition) = self.partitions.get_mut(at) {
                let (before, _) = partition.ready();
                partition.take(most, &mut taken);
                let (after, _) = partition.ready();
                let low = consumer::share(count) / 2;
                has_room |= after <= low && before > low;
                self.urgent |= partition.is_nearly_short();
            }
            if !taken.is_empty() {
                // A batch is of one partition, so that tags ascend.
                exchange = self.partitions.get(at).map(|of| of.exchange().clone());
                self.turn = at + 1;
                break;
            }
        }
        // Not with each that is taken: waking the thread costs as much as reading several.
        let has_room = has_room || consumer::is_low(self.ready()) && !consumer::is_low(before);
        (taken, exchange, has_room)
    }
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        // A broker that always has something would otherwise keep its thread from everyone else.
        tokio::task::consume_budget().await;
        let held = self.halves.held.clone();
        loop {
            if self.stop.is_cancelled() {
                return self.stopped().await;
            }
            {
                let mut state = held.lock();
                if let Some(arrival) = state.arrivals.pop_front() {
                    return Ok(arrival);
                }
                if let Some(fatal) = &state.fatal {
                    return Err(fatal.clone());
                }
                if state.end == Some(End::Closed) {
                    return Err(error::closed());
                }
                let (taken, exchange, has_room) = state.take(max);
                let urgent = state.urgent;
                drop(state);
                // It reads on when there is room, and lends more when that is asked for.
                if urgent || has_room {
                    held.signal.raise();
                }
                if let Some(exchange) = exchange {
                    let made = taken.into_iter().map(|taken| {
                        let message = self.reading.message(&exchange, &taken.record);
                        Delivery::new(message, taken.tag).with_suspicion(taken.is_suspect)
                    });
                    return Ok(Arrival::Batch(made.collect()));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = held.arrived.notified() => {}
            }
        }
    }
}

impl Reader {
    /// Ends; when nothing is held, after the group was left, so that others take over at once.
    async fn stopped(&self) -> Result<Arrival> {
        let held = &self.halves.held;
        held.end(End::Stopped);
        let is_held = {
            let state = held.lock();
            if state.end == Some(End::Closed) {
                return Err(error::closed());
            }
            state.held() > 0
        };
        if !is_held {
            let is_left = held.wait_ended().await;
            let changes = held.lock().changes;
            if held.told_up_to() < changes {
                return Err(error::silent("commit what is done"));
            }
            if !is_left {
                tracing::warn!(
                    target: "switchboard",
                    queue = %self.halves.spec.name,
                    "the broker did not answer when the consumer left; others take over after its lease"
                );
            }
        }
        Ok(Arrival::Ended)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // What is settled afterwards is still told to the broker.
        self.halves.held.end(End::Stopped);
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        self.held.end(End::Abandoned);
    }
}

/// A copy to be stored before its original counts as done.
struct Copy {
    at: usize,
    tag: DeliveryTag,
    target: Target,
    record: Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Retry(u64),
    Dead,
}

#[async_trait]
impl Settle for Halves {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        if let Err(closed) = self.shared.check_open() {
            return vec![Err(closed); settlements.len()];
        }
        let mut results = vec![Ok(Settled::Lost); settlements.len()];
        let (copies, mut wait) = self.settle_at_once(settlements, &mut results);
        if !copies.is_empty() {
            wait = self.settle_copies(copies, &mut results).await.or(wait);
        }
        if let Some(wait) = wait {
            self.flush(wait, &mut results).await;
        }
        results
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        self.shared.check_open()?;
        let lost = || Error::new(ErrorKind::NotFound, "the delivery is no longer held");
        let (before, changes) = {
            let mut state = self.held.lock();
            let partition = state.partition(tag.generation).ok_or_else(lost)?;
            let before = partition.isolate(tag.number).ok_or_else(lost)?;
            state.changes += 1;
            state.urgent = true;
            (before, state.changes)
        };
        self.held.signal.raise();
        if !self.held.wait_told(changes).await {
            return Err(error::silent("record that a delivery runs alone"));
        }
        let mut state = self.held.lock();
        let partition = state.partition(tag.generation).ok_or_else(lost)?;
        if partition.holds(tag.number) {
            Ok(before)
        } else {
            Err(lost())
        }
    }
}

/// What has to have happened before a settlement is answered.
#[derive(Clone, Copy, Debug)]
enum Wait {
    Told(u64),
    Ended(u64),
}

impl Halves {
    /// Settles what needs no copy.
    fn settle_at_once(
        &self,
        settlements: Vec<Settlement>,
        results: &mut [Result<Settled>],
    ) -> (Vec<Copy>, Option<Wait>) {
        let mut copies = Vec::new();
        let mut alone = false;
        let mut state = self.held.lock();
        state.changes += 1;
        for (at, settlement) in settlements.into_iter().enumerate() {
            let tag = settlement.tag();
            let Some(partition) = state.partition(tag.generation) else {
                continue;
            };
            if !partition.holds(tag.number) {
                continue;
            }
            let (target, message) = match settlement {
                Settlement::Ack(_) => {
                    alone |= partition.runs_alone(tag.number);
                    partition.finish(tag.number);
                    results[at] = Ok(Settled::Done);
                    continue;
                }
                Settlement::Release(_) => {
                    alone |= partition.runs_alone(tag.number);
                    partition.give_back(tag.number);
                    state.back = true;
                    results[at] = Ok(Settled::Done);
                    continue;
                }
                Settlement::Retry { message, delay, .. } => {
                    (Target::Retry(retry_step(delay).unwrap_or(0)), message)
                }
                Settlement::DeadLetter { message, .. } => (Target::Dead, message),
            };
            let offset = partition.offset(tag.number).unwrap_or_default();
            let key = match target {
                Target::Retry(_) => message.partition_key().map(SmolStr::new),
                // A copy that is made twice is one dead letter, and no two messages have one key.
                Target::Dead => Some(format_smolstr!(
                    "{}/{}/{offset}/{:.100}",
                    partition.topic,
                    partition.number,
                    message.id()
                )),
            };
            copies.push(Copy {
                at,
                tag,
                target,
                record: Record::copy(&message, key),
            });
        }
        let wait = self.settled(&mut state, alone);
        (copies, wait)
    }

    /// After something was settled: tidies up, and says whether the broker has to know before it is answered.
    fn settled(&self, state: &mut State, alone: bool) -> Option<Wait> {
        let mut leaving = false;
        for partition in &mut state.partitions {
            partition.tidy();
            leaving |= partition.stage() == Stage::Leaving;
        }
        state.urgent |= alone;
        let wait = match state.end {
            // The last one ends it: then the group is left, and others take over at once.
            Some(End::Stopped) if state.held() == 0 => Some(Wait::Ended(state.changes)),
            _ if alone => Some(Wait::Told(state.changes)),
            _ => None,
        };
        if state.back || leaving || wait.is_some() {
            self.held.signal.raise();
        }
        wait
    }

    async fn flush(&self, wait: Wait, results: &mut [Result<Settled>]) {
        let is_told = match wait {
            Wait::Told(changes) => self.held.wait_told(changes).await,
            Wait::Ended(changes) => {
                self.held.wait_ended().await && *self.held.told.borrow() >= changes
            }
        };
        if !is_told {
            for result in results {
                if matches!(result, Ok(Settled::Done)) {
                    *result = Err(error::silent("commit what is done"));
                }
            }
        }
    }

    /// Stores copies, and settles those that are stored.
    async fn settle_copies(
        &self,
        mut copies: Vec<Copy>,
        results: &mut [Result<Settled>],
    ) -> Option<Wait> {
        let deadline = Instant::now() + PATIENCE;
        let mut targets: Vec<Target> = copies.iter().map(|copy| copy.target).collect();
        targets.dedup();
        for target in targets {
            let topic = match target {
                Target::Retry(step) => topology::retry(&self.shared, &self.spec.name, step).await,
                Target::Dead => topology::dead(&self.shared, &self.spec.name).await,
            };
            match topic {
                Ok(topic) => {
                    for copy in copies.iter_mut().filter(|copy| copy.target == target) {
                        copy.record.topic = topic.clone();
                    }
                }
                Err(error) => {
                    for copy in copies.extract_if(.., |copy| copy.target == target) {
                        results[copy.at] = Err(error.clone());
                    }
                }
            }
        }
        let mut answers = self.send(&mut copies);
        let mut stored = Vec::with_capacity(copies.len());
        for answered in &mut answers {
            stored.push(answer(answered, deadline).await);
        }
        let mut alone = false;
        let mut state = self.held.lock();
        state.changes += 1;
        for ((copy, stored), answered) in copies.iter().zip(stored).zip(answers) {
            let what = match copy.target {
                Target::Retry(_) => "store a retry",
                Target::Dead => "store a dead letter",
            };
            match stored {
                Some(Ok(_)) => {}
                Some(Err(code)) => {
                    self.shared.forget_topics(&self.spec.name, code);
                    results[copy.at] = Err(match error::says_too_large(code) {
                        true => error::copy_too_large(what, &self.topic(copy.target)),
                        false => error::failed(what, code),
                    });
                    continue;
                }
                None => {
                    state.copies.insert(copy.tag, answered);
                    results[copy.at] = Err(error::silent(what));
                    continue;
                }
            }
            if let Some(partition) = state.partition(copy.tag.generation) {
                alone |= partition.runs_alone(copy.tag.number);
                if partition.finish(copy.tag.number) {
                    results[copy.at] = Ok(Settled::Done);
                }
            }
        }
        self.settled(&mut state, alone)
    }

    fn topic(&self, target: Target) -> String {
        match target {
            Target::Retry(step) => names::retry(&self.spec.name, step),
            Target::Dead => names::dead(&self.spec.name),
        }
    }

    /// Sends copies. One that was sent before, and has no answer yet, is not sent again.
    fn send(&self, copies: &mut [Copy]) -> Vec<Answered> {
        let mut state = self.held.lock();
        let sent: Vec<_> = copies
            .iter()
            .map(|copy| state.copies.remove(&copy.tag))
            .collect();
        drop(state);
        let new = copies.iter_mut().zip(&sent);
        let new = new.filter(|(_, sent)| sent.is_none());
        let new = new.map(|(copy, _)| std::mem::take(&mut copy.record));
        let mut new = self.shared.producer.send(new.collect()).into_iter();
        sent.into_iter()
            .filter_map(|sent| sent.or_else(|| new.next()))
            .collect()
    }
}
