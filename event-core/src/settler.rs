//! The settler publishes what handlers returned, concludes, and settles deliveries in batches.

mod conclude;
mod publish;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use smol_str::SmolStr;
use tokio::sync::{mpsc, oneshot};

use self::{conclude::conclude, publish::publish};
use crate::{
    conclude::Ended,
    consumer::QueueRuntime,
    counters::add,
    delivery::{DeliveryTag, Settled, Settlement},
    error::{Error, ErrorKind, Result},
    fate::Fate,
    isolation::Alone,
    outgoing::Outgoing,
    worker::{Back, KeyHash},
};

/// What the settler is told.
pub(crate) enum ToSettler {
    Finished(Vec<Finished>),
    /// Answers when everything that was said before is settled.
    Flush(oneshot::Sender<()>),
}

/// A delivery that a worker is done with.
pub(crate) enum Finished {
    /// All its handlers ended well, and there is nothing else to say.
    Ack(DeliveryTag),
    Release(DeliveryTag),
    /// The broker took it away before it was started.
    Forgotten,
    /// Anything else. Boxed, because it is rare and large.
    Handled(Box<Handled>),
}

/// What handlers returned to be published, by the handler's name.
pub(crate) type Events = Vec<(SmolStr, Vec<Result<Outgoing>>)>;

pub(crate) struct Handled {
    pub(crate) ended: Ended,
    /// What to publish first.
    pub(crate) events: Events,
    pub(crate) elapsed: Option<Duration>,
    /// Which worker waits for this key, in an ordered queue.
    pub(crate) back: Option<(usize, KeyHash)>,
    /// Held until a suspect is settled: until then a crash counts against it, and the next suspect may be the
    /// one that kills.
    pub(crate) alone: Option<Box<Alone>>,
}

/// A settlement on its way, with what it means.
struct Pending {
    settlement: Settlement,
    fate: Fate,
    back: Option<(usize, KeyHash)>,
    alone: Option<Box<Alone>>,
    /// How often the broker did not do it.
    failures: u32,
}

/// How often a copy is tried to be stored before its delivery is given back to the broker.
const COPY_TRIES: u32 = 5;

type Work = Pin<Box<dyn Future<Output = Vec<Pending>> + Send>>;

pub(crate) struct Settler {
    queue: Arc<QueueRuntime>,
    workers: Vec<mpsc::UnboundedSender<Back>>,
    /// What is ready to be settled.
    ready: Vec<Pending>,
    /// Publishes of what handlers returned, and settlements that wait to be tried again.
    under_way: FuturesUnordered<Work>,
    flushes: Vec<oneshot::Sender<()>>,
    /// How many deliveries the broker did not settle before the service stopped at once.
    given_up: Arc<AtomicUsize>,
}

impl Settler {
    pub(crate) fn new(queue: Arc<QueueRuntime>, workers: Vec<mpsc::UnboundedSender<Back>>) -> Self {
        let (ready, under_way, flushes) = (Vec::new(), FuturesUnordered::new(), Vec::new());
        Self {
            queue,
            workers,
            ready,
            under_way,
            flushes,
            given_up: Arc::default(),
        }
    }

    /// Runs until reader and workers have ended and everything is settled, or has been given up because the
    /// service stopped at once and the broker did not do it, which is an error.
    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<ToSettler>) -> Result<()> {
        let mut open = true;
        let mut received = Vec::new();
        while open || !self.under_way.is_empty() || !self.ready.is_empty() {
            if self.ready.is_empty() {
                tokio::select! {
                    count = inbox.recv_many(&mut received, 64), if open => open = count > 0,
                    Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.ready.extend(done),
                    else => {}
                }
            }
            for message in received.drain(..) {
                match message {
                    ToSettler::Finished(finished) => self.take(finished),
                    ToSettler::Flush(done) => self.flushes.push(done),
                }
            }
            while let Some(Some(done)) = self.under_way.next().now_or_never() {
                self.ready.extend(done);
            }
            self.settle().await;
            if self.ready.is_empty() && self.under_way.is_empty() {
                for flush in self.flushes.drain(..) {
                    // The reader gave up waiting at its deadline.
                    let _ = flush.send(());
                }
            }
        }
        match self.given_up.load(Relaxed) {
            0 => Ok(()),
            count => Err(Error::retryable(
                ErrorKind::Timeout,
                format!(
                    "the broker did not settle {count} deliveries of queue `{}` in time; they come back after the lease",
                    self.queue.name()
                ),
            )),
        }
    }

    fn take(&mut self, finished: Vec<Finished>) {
        let mut publishing = Vec::new();
        let mut forgotten = 0;
        self.ready.reserve(finished.len());
        for finished in finished {
            match finished {
                Finished::Ack(tag) => self
                    .ready
                    .push(Pending::new(Settlement::Ack(tag), Fate::Handled)),
                Finished::Release(tag) => self
                    .ready
                    .push(Pending::new(Settlement::Release(tag), Fate::Released)),
                Finished::Forgotten => forgotten += 1,
                Finished::Handled(handled) if handled.events.is_empty() => {
                    let pending = conclude(&self.queue, &self.workers, *handled);
                    self.ready.extend(pending);
                }
                Finished::Handled(handled) => publishing.push(*handled),
            }
        }
        self.queue.held.remove(forgotten);
        if !publishing.is_empty() {
            self.under_way.push(Box::pin(publish(
                self.queue.clone(),
                self.workers.clone(),
                publishing,
            )));
        }
    }

    async fn settle(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let ready = std::mem::take(&mut self.ready);
        let settlements = ready
            .iter()
            .map(|pending| pending.settlement.clone())
            .collect();
        let results = self.queue.settle.settle(settlements).await;
        debug_assert_eq!(
            results.len(),
            ready.len(),
            "a backend answers for each settlement"
        );
        let mut count = Count::default();
        let mut again = Vec::new();
        for (pending, result) in ready.into_iter().zip(results) {
            match result {
                Ok(Settled::Done) => count.done(pending.fate),
                Ok(Settled::Lost) => count.lost += 1,
                Err(error) => {
                    tracing::warn!(
                        target: "switchboard",
                        queue = self.queue.name(), tag = %pending.settlement.tag(), %error,
                        "a delivery could not be settled; it is tried again"
                    );
                    again.push(pending.failed());
                    continue;
                }
            }
            if let Some((worker, key)) = pending.back {
                // A worker that stopped at once has no use for it.
                let _ = self.workers[worker].send(Back::Settled(key));
            }
        }
        self.queue.held.remove(count.total());
        count.report(&self.queue);
        if !again.is_empty() {
            self.try_again(again);
        }
    }

    /// Settles again later, or not at all when the service stops at once: the broker then gives the
    /// deliveries to someone else.
    fn try_again(&mut self, again: Vec<Pending>) {
        let (queue, given_up) = (self.queue.clone(), self.given_up.clone());
        let failures = again
            .iter()
            .map(|pending| pending.failures)
            .max()
            .unwrap_or(0);
        let wait = Duration::from_millis(100 << failures.min(6)).min(Duration::from_secs(5));
        self.under_way.push(Box::pin(async move {
            tokio::select! {
                biased;
                () = queue.stop_now.cancelled() => {
                    queue.held.remove(again.len());
                    given_up.fetch_add(again.len(), Relaxed);
                    Vec::new()
                }
                () = tokio::time::sleep(wait) => again,
            }
        }));
    }
}

impl Pending {
    fn new(settlement: Settlement, fate: Fate) -> Self {
        Self {
            settlement,
            fate,
            back: None,
            alone: None,
            failures: 0,
        }
    }

    /// The same once more. A copy that cannot be stored gives way: the broker keeps the original. Not in an
    /// ordered queue, where those of its key would overtake it.
    fn failed(mut self) -> Self {
        self.failures += 1;
        if self.failures >= COPY_TRIES {
            // A broker in trouble should not hold up the whole process.
            self.alone = None;
        }
        let copies = matches!(
            self.settlement,
            Settlement::Retry { .. } | Settlement::DeadLetter { .. }
        );
        if copies && self.back.is_none() && self.failures >= COPY_TRIES {
            self.settlement = Settlement::Release(self.settlement.tag());
            self.fate = Fate::Released;
        }
        self
    }
}

/// What became of a batch.
#[derive(Default)]
struct Count {
    handled: u64,
    lost: u64,
    others: Vec<Fate>,
}

impl Count {
    fn done(&mut self, fate: Fate) {
        if fate == Fate::Handled {
            self.handled += 1
        } else {
            self.others.push(fate)
        }
    }

    fn total(&self) -> usize {
        usize::try_from(self.handled + self.lost).unwrap_or(usize::MAX) + self.others.len()
    }

    fn report(self, queue: &QueueRuntime) {
        let tally = queue.bus.tally();
        add(Fate::Handled.counter(tally), self.handled);
        for fate in self.others {
            add(fate.counter(tally), 1);
        }
        if self.lost > 0 {
            add(&queue.bus.tally().lost, self.lost);
            tracing::warn!(
                target: "switchboard",
                queue = queue.name(), count = self.lost,
                "deliveries were settled too late: the broker had given them to someone else, and delivers them again"
            );
        }
    }
}
