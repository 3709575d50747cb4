//! Settling deliveries: acknowledgements in batches, copies for retries and dead letters, and runs alone.

mod alone;
mod moves;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    DeliveryTag, Error, ErrorKind, QueueKind, QueueSpec, Result, Settle, Settled, Settlement,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{alone::Alone, moves::Move};
use crate::{error, names, publisher::Outbound, shared::Shared, window::Session, wire::Notes};

/// How long a finished delivery may wait for those before it, to be acknowledged together with them.
const TOGETHER: Duration = Duration::from_millis(20);

/// Settles the deliveries of one subscription.
#[derive(Debug)]
pub(crate) struct Settler {
    me: Weak<Self>,
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
    /// What is being moved, for as long as somebody comes back for what becomes of it.
    moving: HashMap<DeliveryTag, watch::Sender<Option<Result<Settled>>>>,
}

/// Settlements, as far as they are not done at once.
struct Sorted {
    results: Vec<Result<Settled>>,
    /// Sessions with something to acknowledge.
    touched: Vec<Arc<Session>>,
    /// By their tags: in ascending order they keep their places in the queue.
    releases: BTreeMap<DeliveryTag, usize>,
    /// To be moved, and which of those that are being moved are waited for.
    moves: Vec<Move>,
    moving: Vec<(usize, DeliveryTag)>,
    alone: Vec<(usize, Arc<Alone>, Settlement)>,
}

impl Settler {
    pub(crate) fn new(shared: Arc<Shared>, spec: QueueSpec, stop: CancellationToken) -> Arc<Self> {
        let settler = Arc::new_cyclic(|me| Self {
            me: me.clone(),
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
        held.moving.retain(|tag, _| tag.generation != generation);
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

impl Settler {
    /// Does what is done at once, and sorts the rest.
    fn sort(&self, settlements: Vec<Settlement>) -> Sorted {
        let mut sorted = Sorted {
            results: Vec::with_capacity(settlements.len()),
            touched: Vec::new(),
            releases: BTreeMap::new(),
            moves: Vec::new(),
            moving: Vec::new(),
            alone: Vec::new(),
        };
        let (runs_alone, moves) = {
            let held = self.lock();
            (!held.alone.is_empty(), !held.moving.is_empty())
        };
        for (at, settlement) in settlements.into_iter().enumerate() {
            let tag = settlement.tag();
            sorted.results.push(Ok(Settled::Lost));
            if runs_alone && let Some(found) = self.lock().alone.remove(&tag) {
                sorted.alone.push((at, found, settlement));
            } else if !(moves && self.meets_move(at, &settlement, &mut sorted))
                && let Some(session) = self.touch(tag.generation, &mut sorted.touched)
            {
                self.take(at, settlement, session, &mut sorted);
            }
        }
        sorted
    }

    /// Whether a settlement concerns a delivery that is being moved already; then it is dealt with.
    fn meets_move(&self, at: usize, settlement: &Settlement, sorted: &mut Sorted) -> bool {
        let tag = settlement.tag();
        let mut held = self.lock();
        if !held.moving.contains_key(&tag) {
            return false;
        }
        if !matches!(settlement, Settlement::Release(_)) {
            sorted.moving.push((at, tag));
            return true;
        }
        // Nobody comes back for it: it goes where it is on its way to, or back.
        match held
            .moving
            .remove(&tag)
            .and_then(|outcome| outcome.borrow().clone())
        {
            // It is held.
            Some(Err(_)) => {
                sorted.releases.insert(tag, at);
            }
            Some(known) => sorted.results[at] = known,
            None => sorted.results[at] = Ok(Settled::Done),
        }
        true
    }

    /// The session of a generation, taken note of.
    fn touch(&self, generation: u64, touched: &mut Vec<Arc<Session>>) -> Option<Arc<Session>> {
        // Nearly always there is one.
        let known = touched
            .iter()
            .find(|session| session.generation == generation);
        if let Some(session) = known {
            return Some(session.clone());
        }
        let session = self.session(generation)?;
        touched.push(session.clone());
        Some(session)
    }

    fn take(&self, at: usize, settlement: Settlement, session: Arc<Session>, sorted: &mut Sorted) {
        let tag = settlement.tag();
        match settlement {
            Settlement::Ack(_) => {
                if session.finish(tag.number) {
                    sorted.results[at] = Ok(Settled::Done);
                }
            }
            Settlement::Release(_) => {
                sorted.releases.insert(tag, at);
            }
            copy => self.take_to_move(at, copy, session, sorted),
        }
    }

    fn take_to_move(
        &self,
        at: usize,
        settlement: Settlement,
        session: Arc<Session>,
        sorted: &mut Sorted,
    ) {
        let tag = settlement.tag();
        if session.begin_to_move(tag.number) {
            self.lock().moving.insert(tag, watch::Sender::new(None));
            sorted.moving.push((at, tag));
            sorted.moves.push(Move {
                session,
                settlement,
            });
        }
    }

    /// Gives deliveries back, or has them moved to the end of their queue.
    async fn give_back(&self, sorted: &mut Sorted) {
        let releases: Vec<_> = std::mem::take(&mut sorted.releases)
            .into_iter()
            .filter_map(|(tag, at)| Some((tag, at, self.session(tag.generation)?)))
            .collect();
        let kept = |tag: DeliveryTag, session: &Session| {
            session.kept(tag.number).filter(|kept| !kept.suspect)
        };
        for (tag, _, session) in &releases {
            if kept(*tag, session).is_some() {
                session.ended().await;
            }
        }
        for (tag, at, session) in releases {
            match kept(tag, &session) {
                // Once more, and it would be suspected of something. But a copy goes to the end of the queue, which
                // others of its partition key must not get ahead of; and it needs a server that takes it.
                Some(kept) if !session.has_neighbours(tag.number) && !self.shared.is_blocked() => {
                    let again = Settlement::Retry {
                        tag,
                        message: Box::new(kept.message),
                        delay: Duration::ZERO,
                    };
                    self.take_to_move(at, again, session, sorted);
                }
                _ => {
                    if session.release(tag.number) {
                        sorted.results[at] = Ok(Settled::Done);
                    }
                }
            }
        }
    }

    /// Ends the channels of retired sessions that have nothing left. Where that fails, nothing is sure to have been
    /// settled.
    async fn close_emptied(&self, tags: &[DeliveryTag], results: &mut [Result<Settled>]) {
        while let Some(session) = self.emptied() {
            if let Err(error) = self.close(&session).await {
                tracing::debug!(target: "switchboard", queue = %self.spec.name, %error, "cannot end a channel");
                for (result, tag) in results.iter_mut().zip(tags) {
                    if tag.generation == session.generation {
                        *result = Err(error.clone());
                    }
                }
            }
        }
    }
}

#[async_trait]
impl Settle for Settler {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let tags: Vec<DeliveryTag> = settlements.iter().map(Settlement::tag).collect();
        let mut sorted = self.sort(settlements);
        for session in &sorted.touched {
            if session.is_open() {
                self.flush(session);
                continue;
            }
            // Nothing that is written to it arrives.
            for (result, tag) in sorted.results.iter_mut().zip(&tags) {
                if tag.generation == session.generation {
                    *result = Ok(Settled::Lost);
                }
            }
        }
        self.begin(std::mem::take(&mut sorted.moves));
        if !sorted.releases.is_empty() {
            self.give_back(&mut sorted).await;
            for session in &sorted.touched {
                session.flush();
            }
            self.begin(std::mem::take(&mut sorted.moves));
        }
        let mut results = sorted.results;
        self.wait_for(sorted.moving, &mut results).await;
        for (at, ran, settlement) in sorted.alone {
            let tag = settlement.tag();
            results[at] = self.settle_alone(&ran, settlement).await;
            if results[at].is_err() {
                // To be settled again.
                self.lock().alone.insert(tag, ran);
            }
        }
        self.close_emptied(&tags, &mut results).await;
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
