//! Settling deliveries: acknowledgements in batches, copies for retries and dead letters, and runs alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    DeliveryTag, Error, ErrorKind, Message, QueueKind, QueueSpec, Result, Settle, Settled,
    Settlement,
};
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{self, Owned},
    error, names,
    publisher::Outbound,
    shared::Shared,
    window::{Kept, Session},
    wire::{Notes, Reading},
};

/// How long a finished delivery may wait for those before it, to be acknowledged together with them.
const TOGETHER: Duration = Duration::from_millis(20);

/// Settles the deliveries of one subscription.
#[derive(Debug)]
pub(crate) struct Settler {
    shared: Arc<Shared>,
    spec: QueueSpec,
    stop: CancellationToken,
    held: Mutex<Held>,
    stragglers: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Held {
    sessions: Vec<Arc<Session>>,
    /// Those that nothing new comes on.
    retired: Vec<u64>,
    /// What runs alone, by the tag that it was delivered with.
    alone: HashMap<DeliveryTag, Arc<Alone>>,
}

/// A suspect that runs alone: the copy in the probation queue that stands for it, held on a channel of its own.
#[derive(Debug)]
struct Alone {
    message: Message,
    /// How often it began to run alone before.
    before: u32,
    channel: Owned,
    tag: u64,
}

impl Settler {
    pub(crate) fn new(shared: Arc<Shared>, spec: QueueSpec, stop: CancellationToken) -> Arc<Self> {
        let settler = Arc::new(Self {
            shared,
            spec,
            stop,
            held: Mutex::default(),
            stragglers: Arc::default(),
        });
        tokio::spawn(acknowledge_stragglers(
            Arc::downgrade(&settler),
            settler.stragglers.clone(),
        ));
        settler
    }

    pub(crate) fn add(&self, session: Arc<Session>) {
        self.lock().sessions.push(session);
    }

    /// A session is gone with all that it held.
    pub(crate) fn forget(&self, generation: u64) {
        let mut held = self.lock();
        held.sessions
            .retain(|session| session.generation != generation);
        held.retired.retain(|retired| *retired != generation);
    }

    /// Nothing new comes on a session: its channel ends when everything on it is settled. If that is so already,
    /// this does it.
    pub(crate) async fn retire(&self, generation: u64) -> Result<()> {
        self.lock().retired.push(generation);
        match self.emptied() {
            Some(session) => self.close(&session).await,
            None => Ok(()),
        }
    }

    /// Ends the channel of a session. The answer says that everything was taken that was acknowledged before.
    async fn close(&self, session: &Session) -> Result<()> {
        if !session.is_open() {
            return Ok(());
        }
        let closing = async {
            self.settle_down(session).await?;
            let close = session.channel.close(200, "done".into());
            session.channel.answer("close a channel", close).await
        };
        let closed = closing.await;
        closed.map_err(|error| error::unflushed(&self.spec.name).with_source(error))
    }

    /// Waits until the queue has taken what was settled on a session.
    async fn settle_down(&self, session: &Session) -> Result<()> {
        match self.spec.kind {
            // On the node of its connection, and told what its channel is told.
            QueueKind::Ephemeral => session.sync().await,
            _ if session.settled() == 0 => Ok(()),
            _ => session.settle_down(&self.spec.name).await,
        }
    }

    /// A retired session that has nothing left, taken out.
    fn emptied(&self) -> Option<Arc<Session>> {
        let mut held = self.lock();
        let held = &mut *held;
        let at = held.sessions.iter().position(|session| {
            held.retired.contains(&session.generation) && (session.is_empty() || !session.is_open())
        })?;
        let session = held.sessions.swap_remove(at);
        held.retired
            .retain(|generation| *generation != session.generation);
        Some(session)
    }

    fn session(&self, generation: u64) -> Option<Arc<Session>> {
        let held = self.lock();
        let session = held
            .sessions
            .iter()
            .find(|session| session.generation == generation);
        session.filter(|session| session.is_open()).cloned()
    }

    /// Acknowledges what can be acknowledged together, and the rest after a moment; at once when the reader is to
    /// end.
    fn flush(&self, session: &Session) {
        if !session.flush() {
            return;
        }
        if self.stop.is_cancelled() {
            session.flush_stragglers();
        } else {
            self.stragglers.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the copy that a settlement asks for, and the queue that it goes to.
    async fn copy(&self, settlement: Settlement) -> Result<Outbound> {
        let queue = self.spec.name.as_str();
        match settlement {
            Settlement::Retry { message, delay, .. } => {
                let to = self.shared.retry_queue(&self.spec, delay).await?;
                Ok(Outbound::copy(*message, to, Notes::default()))
            }
            Settlement::DeadLetter { message, .. } => {
                let notes = Notes {
                    letter: Some(letter_id()),
                    ..Notes::default()
                };
                Ok(Outbound::copy(*message, names::dead(queue), notes))
            }
            Settlement::Ack(_) | Settlement::Release(_) => Err(Error::new(
                ErrorKind::Internal,
                "an acknowledgement makes no copy",
            )),
        }
    }

    /// Stores copies, each with what is to be done when it is stored.
    async fn move_all(
        &self,
        moves: Vec<(usize, Arc<Session>, u64, Outbound)>,
        results: &mut [Result<Settled>],
    ) {
        let mut places = Vec::with_capacity(moves.len());
        let mut copies = Vec::with_capacity(moves.len());
        for (at, session, tag, copy) in moves {
            places.push((at, session, tag));
            copies.push(copy);
        }
        let stored = self.shared.store(copies).await;
        for ((at, session, tag), stored) in places.into_iter().zip(stored) {
            results[at] = match stored {
                Err(error) => {
                    if error.kind() == ErrorKind::NotFound {
                        // Somebody deleted a queue for retries: it is declared again the next time.
                        self.shared.forget_retries(&self.spec.name);
                    }
                    session.not_moved(tag);
                    Err(error)
                }
                // When the channel was lost meanwhile, the original comes again beside its copy.
                Ok(_) if session.is_open() && session.moved(tag) => Ok(Settled::Done),
                Ok(_) => Ok(Settled::Lost),
            };
            self.flush(&session);
        }
    }

    /// Settles what ran alone.
    async fn settle_alone(&self, alone: &Alone, settlement: Settlement) -> Result<Settled> {
        if !alone.channel.status().connected() {
            return Ok(Settled::Lost);
        }
        let copy = match settlement {
            Settlement::Ack(_) => None,
            Settlement::Release(_) => {
                // It stays a suspect, and this run does not count.
                let notes = Notes {
                    alone: Some(alone.before),
                    ..Notes::default()
                };
                let queue = self.spec.name.to_string();
                Some(Outbound::copy(alone.message.clone(), queue, notes))
            }
            other => Some(self.copy(other).await?),
        };
        if let Some(copy) = copy {
            self.shared.store_one(copy).await?;
        }
        let ack = alone
            .channel
            .basic_ack(alone.tag, BasicAckOptions::default());
        if alone
            .channel
            .answer("acknowledge what ran alone", ack)
            .await
            .is_err()
        {
            return Ok(Settled::Lost);
        }
        // Answered when the acknowledgement was taken: a crash afterwards is not blamed on it.
        alone.channel.end().await;
        Ok(Settled::Done)
    }

    /// Has a suspect stand in the probation queue, with one run more, and held there; then takes it off its queue.
    /// If this process ends, it goes back to its queue after a moment, and says how often it ran alone.
    async fn put_on_probation(
        &self,
        session: &Session,
        tag: DeliveryTag,
        kept: Kept,
    ) -> Result<Alone> {
        let probation = names::probation(&self.spec.name);
        let what = format!("record a run alone in queue `{probation}`");
        let run = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let notes = Notes {
            alone: Some(kept.alone + 1),
            run: Some(run.clone()),
            ..Notes::default()
        };
        let live = self.shared.consuming(&what).await?;
        let channel = channel::open(&live).await?;
        let copy = Outbound::copy(kept.message.clone(), probation.clone(), notes);
        self.shared.store_one(copy).await?;
        let mut others = Vec::new();
        let mut mine = None;
        let until = Instant::now() + Duration::from_millis(names::PROBATION_MILLIS);
        while mine.is_none() && Instant::now() < until {
            let get = channel.basic_get(probation.as_str().into(), BasicGetOptions::default());
            let found = match channel.answer(&what, get).await {
                Ok(Some(found)) => found,
                // Somebody else looks for theirs at this moment, and gives ours back.
                Ok(None) => {
                    sleep(Duration::from_millis(5)).await;
                    continue;
                }
                // The copy is stored: it goes back to its queue, and the original has to go.
                Err(error) => {
                    tracing::warn!(target: "switchboard", queue = %self.spec.name, %error, "cannot run a suspect alone");
                    break;
                }
            };
            let read = Reading::default().read(
                found.exchange.as_str(),
                found.routing_key.as_str(),
                &found.properties,
                Vec::new(),
            );
            if read.notes.run.as_deref() == Some(&run) {
                mine = Some(found.delivery_tag);
            } else {
                others.push(found.delivery_tag);
            }
        }
        for other in others {
            let back = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            // Otherwise they go back with the channel.
            let _ = channel.basic_nack(other, back).await;
        }
        // From here on there are two of it, one of which has to go; at once, also when others are before it.
        let gone = !session.finish(tag.number);
        session.flush_stragglers();
        let Some(mine) = mine else {
            // It went back to its queue, where it is a suspect still.
            return Err(not_held(tag));
        };
        // Before it runs, so that a crash leaves the one that counts.
        let taken_off = self.settle_down(session).await;
        if gone || taken_off.is_err() || !session.is_open() {
            return Err(not_held(tag));
        }
        Ok(Alone {
            message: kept.message,
            before: kept.alone,
            channel,
            tag: mine,
        })
    }
}

fn not_held(tag: DeliveryTag) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("delivery {tag} no longer belongs to this consumer"),
    )
}

/// The id of a dead letter: later ones sort behind earlier ones.
pub(crate) fn letter_id() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:016x}{:016x}", since.as_micros(), fastrand::u64(..))
}

#[async_trait]
impl Settle for Settler {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut results: Vec<Result<Settled>> = Vec::with_capacity(settlements.len());
        let mut touched: Option<Arc<Session>> = None;
        let mut releases: BTreeMap<DeliveryTag, usize> = BTreeMap::new();
        let mut copies: Vec<(usize, Arc<Session>, u64, Settlement)> = Vec::new();
        let mut alone: Vec<(usize, Arc<Alone>, Settlement)> = Vec::new();
        let runs_alone = !self.lock().alone.is_empty();
        let generations: Vec<u64> = settlements
            .iter()
            .map(|settlement| settlement.tag().generation)
            .collect();
        for (at, settlement) in settlements.into_iter().enumerate() {
            let tag = settlement.tag();
            results.push(Ok(Settled::Lost));
            if runs_alone && let Some(found) = self.lock().alone.remove(&tag) {
                alone.push((at, found, settlement));
                continue;
            }
            let session = match &touched {
                Some(session) if session.generation == tag.generation => session.clone(),
                _ => {
                    if let Some(before) = touched.take() {
                        self.flush(&before);
                    }
                    let Some(session) = self.session(tag.generation) else {
                        continue;
                    };
                    touched.insert(session).clone()
                }
            };
            match settlement {
                Settlement::Ack(_) => {
                    if session.finish(tag.number) {
                        results[at] = Ok(Settled::Done);
                    }
                }
                Settlement::Release(_) => {
                    releases.insert(tag, at);
                }
                copy => {
                    if session.begin_to_move(tag.number) {
                        copies.push((at, session, tag.number, copy));
                    }
                }
            }
        }
        if let Some(session) = &touched {
            if !session.is_open() {
                // Nothing that is written to it arrives.
                for (result, generation) in results.iter_mut().zip(&generations) {
                    if *generation == session.generation {
                        *result = Ok(Settled::Lost);
                    }
                }
            } else {
                self.flush(session);
            }
        }
        let mut moves = Vec::new();
        // In ascending order, which is how they keep their places.
        for (tag, at) in releases {
            let Some(session) = self.session(tag.generation) else {
                continue;
            };
            let kept = session.kept(tag.number).filter(|kept| !kept.suspect);
            if kept.is_some() {
                session.ended().await;
            }
            match kept {
                // Once more, and it would be suspected of something. But a copy goes to the end of the queue, which
                // others of its partition key must not get ahead of.
                Some(kept) if !session.has_neighbours(tag.number) => {
                    if session.begin_to_move(tag.number) {
                        let queue = self.spec.name.to_string();
                        let copy = Outbound::copy(kept.message, queue, Notes::default());
                        moves.push((at, session, tag.number, copy));
                    }
                }
                _ => {
                    if session.release(tag.number) {
                        results[at] = Ok(Settled::Done);
                    }
                }
            }
        }
        if let Some(session) = &touched {
            session.flush();
        }
        for (at, session, tag, settlement) in copies {
            match self.copy(settlement).await {
                Ok(copy) => moves.push((at, session, tag, copy)),
                Err(error) => {
                    session.not_moved(tag);
                    results[at] = Err(error);
                }
            }
        }
        if !moves.is_empty() {
            self.move_all(moves, &mut results).await;
        }
        for (at, ran, settlement) in alone {
            let tag = settlement.tag();
            results[at] = self.settle_alone(&ran, settlement).await;
            if results[at].is_err() {
                // To be settled again.
                self.lock().alone.insert(tag, ran);
            }
        }
        while let Some(session) = self.emptied() {
            if let Err(error) = self.close(&session).await {
                for (result, generation) in results.iter_mut().zip(&generations) {
                    if *generation == session.generation {
                        *result = Err(error.clone());
                    }
                }
            }
        }
        results
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        if let Some(alone) = self.lock().alone.get(&tag) {
            return Ok(alone.before);
        }
        let session = self.session(tag.generation).ok_or_else(|| not_held(tag))?;
        let kept = session.kept(tag.number).ok_or_else(|| not_held(tag))?;
        let alone = self.put_on_probation(&session, tag, kept).await?;
        let before = alone.before;
        self.lock().alone.insert(tag, Arc::new(alone));
        Ok(before)
    }
}

/// Acknowledges what is finished behind something that is not, after a moment.
async fn acknowledge_stragglers(settler: Weak<Settler>, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        sleep(TOGETHER).await;
        let Some(settler) = settler.upgrade() else {
            return;
        };
        let sessions = settler.lock().sessions.clone();
        for session in sessions {
            session.flush_stragglers();
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        for session in &self.lock().sessions {
            // What was answered with `Done` is done.
            session.flush_stragglers();
        }
        self.stragglers.notify_one();
    }
}
