//! One queue being consumed: a reader, its workers and a settler.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use smol_str::SmolStr;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    delivery::Delivery,
    error::Result,
    lane::MakeLane,
    name::QueueName,
    observe::Observer,
    once::Once,
    retry::RetryPolicy,
    routes::{HandlerSet, RouteTable},
    settler::{Finished, Settler, ToSettler},
    topology::{QueueKind, QueueSpec},
    transport::{Arrival, Deliveries, Settle, Subscription},
    worker::{Channels, Command, Worker},
};

/// A queue with everything that is known before anything arrives.
pub(crate) struct ReadyQueue {
    pub(crate) spec: QueueSpec,
    pub(crate) handlers: Vec<NamedHandler>,
    pub(crate) routes: RouteTable,
    pub(crate) policy: RetryPolicy,
    pub(crate) concurrency: usize,
    pub(crate) workers: usize,
}

/// A handler with its name and how to run it.
pub(crate) struct NamedHandler {
    pub(crate) name: SmolStr,
    pub(crate) make: MakeLane,
}

/// What the reader, the workers and the settler of a queue share.
pub(crate) struct QueueRuntime {
    name: QueueName,
    pub(crate) service: SmolStr,
    pub(crate) kind: QueueKind,
    pub(crate) ordered: bool,
    pub(crate) handlers: Vec<NamedHandler>,
    pub(crate) routes: RouteTable,
    pub(crate) policy: RetryPolicy,
    pub(crate) bus: Bus,
    pub(crate) observer: Option<Observer>,
    pub(crate) settle: Arc<dyn Settle>,
    pub(crate) held: Held,
    /// Keys that nothing here knows and that were warned about.
    pub(crate) unknown: Once,
    /// Take nothing more, give back what has not been started.
    pub(crate) stop: CancellationToken,
    /// Give back what is running as well.
    pub(crate) stop_now: CancellationToken,
}

/// How the tasks of a service are told to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops {
    pub(crate) stop: CancellationToken,
    pub(crate) stop_now: CancellationToken,
    readers: Vec<CancellationToken>,
}

impl Stops {
    pub(crate) fn add_reader(&mut self, stop: CancellationToken) {
        self.readers.push(stop);
    }

    pub(crate) fn stop(&self) {
        // First, so that a backend knows what the releases that follow are for: a reader that is still being fed
        // would get them again.
        self.readers.iter().for_each(CancellationToken::cancel);
        self.stop.cancel();
    }

    pub(crate) fn stop_now(&self) {
        self.stop();
        self.stop_now.cancel();
    }
}

impl QueueRuntime {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The names of the handlers in a set, in order.
    pub(crate) fn names(&self, set: HandlerSet) -> impl Iterator<Item = SmolStr> {
        let named = self.handlers.iter().enumerate();
        named
            .filter(move |(at, _)| set & (1 << at) != 0)
            .map(|(_, handler)| handler.name.clone())
    }

    /// Of the handlers that a message waits for: those that are here and take its key, and the others.
    pub(crate) fn split_handlers(
        &self,
        takes: HandlerSet,
        left: Vec<SmolStr>,
    ) -> (HandlerSet, Vec<SmolStr>) {
        let mut here = 0;
        let elsewhere = left
            .into_iter()
            .filter(|name| {
                let bit = self
                    .handlers
                    .iter()
                    .position(|handler| handler.name == *name)
                    .map_or(0, |at| 1 << at);
                here |= bit & takes;
                bit & takes == 0
            })
            .collect();
        (here, elsewhere)
    }
}

/// How many deliveries this consumer holds. Counted in batches, so that reading is bounded without a
/// permit for each.
#[derive(Debug)]
pub(crate) struct Held {
    count: AtomicUsize,
    most: usize,
    less: Notify,
}

impl Held {
    fn new(most: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            most,
            less: Notify::new(),
        }
    }

    fn add(&self, count: usize) {
        self.count.fetch_add(count, SeqCst);
    }

    pub(crate) fn remove(&self, count: usize) {
        if count > 0 {
            self.count.fetch_sub(count, SeqCst);
            // Only the reader waits.
            self.less.notify_one();
        }
    }

    /// Waits for room, and says how much there is.
    async fn room(&self) -> usize {
        loop {
            let count = self.count.load(SeqCst);
            if count < self.most {
                return self.most - count;
            }
            self.less.notified().await;
        }
    }

    /// Waits until everything is settled, or the service stops at once.
    async fn emptied(&self, stop_now: &CancellationToken) {
        let wait = async {
            while self.count.load(SeqCst) > 0 {
                self.less.notified().await;
            }
        };
        let give_up = async {
            stop_now.cancelled().await;
            // For what is being given back to arrive, if the broker answers at all.
            tokio::time::sleep(Duration::from_secs(5)).await;
        };
        tokio::select! {
            () = wait => {}
            () = give_up => {}
        }
    }
}

/// Starts the tasks of a queue in the set. Aborting them is a crash, as far as the broker sees.
pub(crate) fn spawn(
    queue: ReadyQueue,
    subscription: Subscription,
    service: SmolStr,
    bus: Bus,
    observer: Option<Observer>,
    stops: &Stops,
    tasks: &mut JoinSet<Result<()>>,
) {
    let Subscription {
        deliveries, settle, ..
    } = subscription;
    let ReadyQueue {
        spec,
        handlers,
        routes,
        policy,
        concurrency,
        workers,
    } = queue;
    let runtime = Arc::new(QueueRuntime {
        name: spec.name,
        service,
        kind: spec.kind,
        ordered: spec.ordered,
        handlers,
        routes,
        policy,
        bus,
        observer,
        settle,
        held: Held::new(spec.prefetch),
        unknown: Once::default(),
        stop: stops.stop.clone(),
        stop_now: stops.stop_now.clone(),
    });
    let (to_settler, inbox) = mpsc::unbounded_channel::<ToSettler>();
    let (mut commands, mut backs) = (Vec::new(), Vec::new());
    for index in 0..workers {
        let (command, commands_here) = mpsc::unbounded_channel();
        let (back, back_here) = mpsc::unbounded_channel();
        commands.push(command);
        backs.push(back);
        // Shared out so that the sum is the concurrency, and each has at least one.
        let limit = (concurrency / workers + usize::from(index < concurrency % workers)).max(1);
        let channels = Channels {
            commands: commands_here,
            back: back_here,
            settler: to_settler.clone(),
        };
        let worker = Worker::new(runtime.clone(), index, limit, channels);
        tasks.spawn(async move {
            worker.run().await;
            Ok(())
        });
    }
    let settler = Settler::new(runtime.clone(), backs);
    tasks.spawn(settler.run(inbox));
    let reader = Reader {
        queue: runtime,
        workers: commands,
        settler: to_settler,
        hasher: RandomState::new(),
        next_worker: 0,
    };
    tasks.spawn(reader.run(deliveries));
}

struct Reader {
    queue: Arc<QueueRuntime>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    settler: mpsc::UnboundedSender<ToSettler>,
    hasher: RandomState,
    next_worker: usize,
}

impl Reader {
    /// Runs until the subscription ends. Its senders are dropped with it, which ends the workers.
    async fn run(mut self, mut deliveries: Box<dyn Deliveries>) -> Result<()> {
        loop {
            let room = self.queue.held.room().await;
            match deliveries.next(room).await? {
                Arrival::Batch(batch) => {
                    self.queue.held.add(batch.len());
                    self.share_out(batch);
                }
                Arrival::Revoking { generation, until } => self.revoke(generation, until).await,
                Arrival::Revoked { generation } => {
                    for worker in &self.workers {
                        let _ = worker.send(Command::Forget { generation });
                    }
                }
                Arrival::Ended => break,
            }
        }
        // The subscription has to live until everything is settled: it is what the backend's leases
        // hang on.
        self.workers.clear();
        self.queue.held.emptied(&self.queue.stop_now).await;
        drop(deliveries);
        Ok(())
    }

    /// Deliveries of one partition key go to one worker.
    fn share_out(&mut self, batch: Vec<Delivery>) {
        if let [worker] = &self.workers[..] {
            self.give(worker, batch);
            return;
        }
        let count = self.workers.len();
        let mut shares: Vec<Vec<Delivery>> = Vec::with_capacity(count);
        shares.resize_with(count, || Vec::with_capacity(batch.len().div_ceil(count)));
        for delivery in batch {
            let worker = match delivery.message().partition_key() {
                Some(key) => usize::try_from(self.hasher.hash_one(key) % count as u64).unwrap_or(0),
                None => {
                    self.next_worker = (self.next_worker + 1) % count;
                    self.next_worker
                }
            };
            shares[worker].push(delivery);
        }
        for (worker, share) in self.workers.iter().zip(shares) {
            if !share.is_empty() {
                self.give(worker, share);
            }
        }
    }

    /// A worker is gone only when the service stops at once: what it would have been given goes back.
    fn give(&self, worker: &mpsc::UnboundedSender<Command>, share: Vec<Delivery>) {
        if let Err(mpsc::error::SendError(Command::Run(share))) = worker.send(Command::Run(share)) {
            let back = share
                .iter()
                .map(|delivery| Finished::Release(delivery.tag()));
            // The settler ends after the reader, unless the whole service is being dropped.
            let _ = self.settler.send(ToSettler::Finished(back.collect()));
        }
    }

    /// Has everything of a generation finished and settled, as far as there is time.
    async fn revoke(&self, generation: u64, until: Instant) {
        let answers: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (done, answer) = oneshot::channel();
                let _ = worker.send(Command::Revoke { generation, done });
                answer
            })
            .collect();
        for answer in answers {
            // An error is a worker that has ended, which has nothing left either.
            if timeout_at(until, answer).await.is_err() {
                tracing::warn!(
                    target: "switchboard",
                    queue = self.queue.name(),
                    "deliveries were still in flight when they were taken away; they are handled again elsewhere"
                );
                return;
            }
        }
    }
}
