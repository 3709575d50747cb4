//! A worker runs the handlers of the deliveries it is given: a bounded number at a time, in order per key.

mod alone;
mod dispatch;
mod give_back;

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    hash::RandomState,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use smol_str::SmolStr;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::{
    consumer::QueueRuntime,
    context,
    delivery::{Delivery, DeliveryTag},
    isolation::{Alone, InFlight},
    lane::Lane,
    outcome::Verdict,
    routes::{HandlerSet, LastRoute},
    settler::{Events, Finished, ToSettler},
};

/// What a worker is told by the reader.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Vec<Delivery>),
    /// Starts nothing more of a generation; answers when nothing of it is left here or unsettled.
    Revoke {
        generation: u64,
        done: oneshot::Sender<()>,
    },
    /// Drops what waits of a generation that was taken away.
    Forget {
        generation: u64,
    },
}

/// What a worker of an ordered queue is told by the settler.
#[derive(Debug)]
pub(crate) enum Back {
    /// The next delivery of this key may run.
    Settled(KeyHash),
    /// Run it again after the delay; those of its key wait meanwhile.
    Again {
        delivery: Box<Delivery>,
        delay: Duration,
    },
}

/// Deliveries of one partition key have one hash. A collision costs concurrency, not order.
pub(crate) type KeyHash = u64;

/// Where a worker's messages come from and go to.
pub(crate) struct Channels {
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) back: mpsc::UnboundedReceiver<Back>,
    pub(crate) settler: mpsc::UnboundedSender<ToSettler>,
}

pub(crate) struct Worker {
    queue: Arc<QueueRuntime>,
    /// Which of the queue's workers it is.
    index: usize,
    lanes: Vec<Box<dyn Lane>>,
    /// How many deliveries may be in flight.
    limit: usize,
    channels: Channels,
    /// Whether the reader has ended.
    closed: bool,
    stopping: bool,
    last_route: LastRoute,
    hasher: RandomState,

    /// Deliveries in flight; a lane knows them by their place.
    slots: Vec<Option<Flying>>,
    free: Vec<usize>,
    running: usize,
    /// The one waiting line: while something stands here, what arrives goes behind it, or it would
    /// overtake a message of its own key.
    line: VecDeque<Delivery>,
    /// Keys with something in flight, and what waits for that.
    keys: HashMap<KeyHash, VecDeque<Delivery>>,
    /// Deliveries that may have killed a process: each runs alone.
    suspects: VecDeque<Delivery>,
    /// Held while one of them runs; then its settlement has it.
    alone: Option<Box<Alone>>,
    /// Failed deliveries of an ordered queue that wait here for their next attempt, and their timers.
    parked: HashMap<DeliveryTag, Delivery>,
    timers: FuturesUnordered<BoxFuture<'static, DeliveryTag>>,
    /// Those of them that are due.
    due: VecDeque<Delivery>,
    /// Generations that are about to be taken away.
    revoking: Vec<(u64, oneshot::Sender<()>)>,
    finished: Vec<Finished>,
}

/// A delivery whose handlers run, one after the other.
struct Flying {
    delivery: Delivery,
    /// What was inside, when the message is a CloudEvents document. Copies are made of the document.
    opened: Option<Box<Delivery>>,
    key: Option<KeyHash>,
    attempt: u32,
    /// The handlers that have not run yet.
    todo: HandlerSet,
    /// The one that runs.
    current: usize,
    missing: Option<Vec<SmolStr>>,
    failures: Vec<(SmolStr, Verdict)>,
    events: Events,
    span: Span,
    started: Option<Instant>,
}

impl Flying {
    /// The delivery as the handlers see it.
    fn event(&self) -> &Delivery {
        self.opened.as_deref().unwrap_or(&self.delivery)
    }

    /// Whether it ended well and there is nothing else to say.
    fn is_plain(&self) -> bool {
        self.failures.is_empty()
            && self.events.is_empty()
            && self.missing.is_none()
            && self.started.is_none()
            // Other handlers may have rejected it before.
            && self.delivery.message().headers().get(context::REJECTIONS).is_none()
    }
}

/// What a worker has to wait for outside of its poll.
enum Turn {
    /// Until no suspect runs.
    Enter,
    /// To run a suspect.
    Isolate,
    Ended,
}

impl Worker {
    pub(crate) fn new(
        queue: Arc<QueueRuntime>,
        index: usize,
        limit: usize,
        channels: Channels,
    ) -> Self {
        let lanes = queue
            .handlers
            .iter()
            .map(|handler| handler.make.lane())
            .collect();
        Self {
            queue,
            index,
            lanes,
            limit,
            channels,
            closed: false,
            stopping: false,
            last_route: LastRoute::default(),
            hasher: RandomState::new(),
            slots: Vec::new(),
            free: Vec::new(),
            running: 0,
            line: VecDeque::new(),
            keys: HashMap::new(),
            suspects: VecDeque::new(),
            alone: None,
            parked: HashMap::new(),
            timers: FuturesUnordered::new(),
            due: VecDeque::new(),
            revoking: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// Runs until the reader has ended and nothing is left, or until the service stops at once.
    pub(crate) async fn run(mut self) {
        let queue = self.queue.clone();
        tokio::select! {
            biased;
            () = queue.stop_now.cancelled() => {}
            () = self.work() => {}
        }
        self.give_up();
    }

    async fn work(&mut self) {
        let mut stopped = Box::pin(self.queue.stop.clone().cancelled_owned().fuse());
        let mut in_flight: Option<InFlight> = None;
        loop {
            let turn = poll_fn(|cx| {
                if stopped.poll_unpin(cx).is_ready() {
                    self.stopping = true;
                    self.release_waiting(|_| true);
                }
                self.poll(cx, &mut in_flight)
            })
            .await;
            match turn {
                Turn::Enter => {
                    // Neither a stop nor what the reader says waits for somebody else's suspect.
                    tokio::select! {
                        biased;
                        () = self.queue.stop.cancelled(), if !self.stopping => {}
                        command = self.channels.commands.recv(), if !self.closed => self.obey(command),
                        entered = self.queue.bus.process().enter() => in_flight = Some(entered),
                    }
                    // Whoever wants to run a suspect may not have asked for the gate yet.
                    tokio::task::yield_now().await;
                }
                Turn::Isolate => {
                    in_flight = None;
                    self.run_alone().await;
                }
                Turn::Ended => return,
            }
        }
    }

    /// Moves everything that can move, then says what has to be waited for outside.
    fn poll(&mut self, cx: &mut Context<'_>, in_flight: &mut Option<InFlight>) -> Poll<Turn> {
        self.poll_commands(cx);
        self.poll_back(cx);
        self.poll_timers(cx);
        loop {
            // Also gives what was just started a waker.
            self.poll_lanes(cx);
            if in_flight.is_none() && self.has_waiting() {
                *in_flight = self.queue.bus.process().try_enter();
            }
            if in_flight.is_none() || !self.start_waiting(cx) {
                break;
            }
        }
        self.answer_revoking();
        self.flush();
        if self.running > 0 {
            return Poll::Pending;
        }
        *in_flight = None;
        if !self.suspects.is_empty() {
            return Poll::Ready(Turn::Isolate);
        }
        if self.has_waiting() {
            // Only a suspect keeps them waiting while nothing runs here.
            return Poll::Ready(Turn::Enter);
        }
        if self.closed && self.keys.is_empty() && self.parked.is_empty() {
            return Poll::Ready(Turn::Ended);
        }
        Poll::Pending
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>) {
        while !self.closed {
            let Poll::Ready(command) = self.channels.commands.poll_recv(cx) else {
                return;
            };
            self.obey(command);
        }
    }

    /// Nothing is the end of the reader.
    fn obey(&mut self, command: Option<Command>) {
        let Some(command) = command else {
            self.closed = true;
            return;
        };
        match command {
            Command::Run(batch) if self.stopping => {
                let back = batch
                    .iter()
                    .map(|delivery| Finished::Release(delivery.tag()));
                self.finished.extend(back);
            }
            // The batch becomes the line, without a copy, unless something waits already.
            Command::Run(batch) if self.line.is_empty() => self.line = batch.into(),
            Command::Run(batch) => self.line.extend(batch),
            Command::Revoke { generation, done } => {
                self.release_waiting(|tag| tag.generation == generation);
                self.revoking.push((generation, done));
            }
            Command::Forget { generation } => self.forget_waiting(generation),
        }
    }

    fn poll_back(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(back)) = self.channels.back.poll_recv(cx) {
            match back {
                Back::Settled(key) => self.free_key(key),
                Back::Again { delivery, .. } if self.stopping => self.release_held(*delivery),
                Back::Again { delivery, delay } => {
                    let tag = delivery.tag();
                    self.parked.insert(tag, *delivery);
                    self.timers
                        .push(tokio::time::sleep(delay).map(move |()| tag).boxed());
                }
            }
        }
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(tag)) = self.timers.poll_next_unpin(cx) {
            // Not there when it was given back meanwhile.
            self.due.extend(self.parked.remove(&tag));
        }
    }

    fn flush(&mut self) {
        if !self.finished.is_empty() {
            // The settler outlives its workers, unless the whole service is being dropped.
            let _ = self
                .channels
                .settler
                .send(ToSettler::Finished(std::mem::take(&mut self.finished)));
        }
    }
}
