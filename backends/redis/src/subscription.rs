//! A subscription: the reader of its deliveries, and the task that keeps its leases.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, Delivery, DeliveryTag, ErrorKind, ExchangeName, QueueKind, QueueSpec,
    Result, Settle, Settled, Settlement, Subscription,
};
use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Duration, Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ephemeral, error,
    held::{Held, Stream},
    lane::{self, Inbox, Lane, WeakInbox},
    link::Request,
    scripts,
    shared::Shared,
    topology,
};

/// How often it is looked whether the queue has been bound to another exchange, and whose consumers are gone.
const LOOK: Duration = Duration::from_secs(5);
/// After this long without a read, a consumer that holds nothing is gone.
const IDLE: Duration = Duration::from_secs(600);

pub(crate) async fn open(shared: &Arc<Shared>, spec: &QueueSpec) -> Result<Subscription> {
    shared.check_open()?;
    if spec.kind == QueueKind::Ephemeral {
        return ephemeral::open(shared, spec).await;
    }
    let Some(mut exchanges) = topology::exchanges(shared, &spec.name).await? else {
        return Err(error::unknown_queue(&spec.name));
    };
    if spec.kind == QueueKind::Durable {
        exchanges.extend(spec.bindings.iter().map(|binding| binding.exchange.clone()));
    }
    let held = Arc::new(Held::new(shared, spec));
    let (inbox, received) = mpsc::unbounded_channel();
    let alive = Alive::new();
    add_lanes(&held, &exchanges, &inbox, &alive.gone);
    let keeping = keep(held.clone(), inbox.downgrade(), alive.gone.clone());
    tokio::spawn(until(alive.gone.clone(), keeping));
    shared.keep(&held);
    Ok(Subscription {
        stop: held.stop.clone(),
        deliveries: Box::new(Reader {
            held: held.clone(),
            received,
            waiting: VecDeque::new(),
            _alive: alive.clone(),
        }),
        settle: Arc::new(Settler {
            held,
            _alive: alive,
        }),
    })
}

/// Lives as long as anything of a subscription does. When it is dropped all tasks end in the middle of what they
/// do: a crash, as far as others see.
#[derive(Debug)]
pub(crate) struct Alive {
    pub(crate) gone: CancellationToken,
    _guard: DropGuard,
}

impl Alive {
    pub(crate) fn new() -> Arc<Self> {
        let gone = CancellationToken::new();
        Arc::new(Self {
            _guard: gone.clone().drop_guard(),
            gone,
        })
    }
}

/// Runs until this is cancelled.
pub(crate) async fn until(gone: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = gone.cancelled() => {}
        () = task => {}
    }
}

fn add_lanes(
    held: &Arc<Held>,
    exchanges: &[ExchangeName],
    inbox: &Inbox,
    gone: &CancellationToken,
) {
    for exchange in exchanges {
        if let Some(stream) = held.add(exchange) {
            let lane = Lane::new(held, stream, inbox.clone());
            tokio::spawn(until(gone.clone(), lane.run()));
        }
    }
}

/// Renews the leases of what is held, and follows the queue to new exchanges.
async fn keep(held: Arc<Held>, inbox: WeakInbox, gone: CancellationToken) {
    let renewing = async {
        let third = (held.spec.lease / 3).max(Duration::from_millis(1));
        loop {
            sleep(third).await;
            // All at once: one that does not answer is not to cost the others their leases.
            let renewed = held.streams().into_iter().map(|stream| {
                let held = held.clone();
                async move { renew(&held, &stream).await }
            });
            for renewed in join_all(renewed).await {
                if let Err(error) = renewed {
                    tracing::warn!(target: "switchboard", queue = %held.spec.name, %error, "leases may end");
                }
            }
        }
    };
    let looking = async {
        loop {
            tokio::select! {
                biased;
                () = held.stop.cancelled() => break,
                () = sleep(LOOK) => {}
            }
            look_around(&held, &inbox, &gone).await;
        }
        // Nothing more is read; the leases of what is held go on.
        held.wake_all().await;
    };
    tokio::join!(renewing, looking);
}

async fn look_around(held: &Arc<Held>, inbox: &WeakInbox, gone: &CancellationToken) {
    let looked = timeout(LOOK, topology::exchanges(&held.shared, &held.spec.name)).await;
    if let (Ok(Ok(Some(exchanges))), Some(inbox)) = (looked, inbox.upgrade()) {
        add_lanes(held, &exchanges, &inbox, gone);
    }
    for stream in held.streams() {
        let keys = [&stream.keys.stream, &stream.keys.robbed].map(String::as_str);
        let idle = u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX);
        let call = scripts::TIDY.call(keys).arg(idle);
        if let Ok(Ok(live)) = timeout(LOOK, stream.link.live()).await {
            // There is always another time.
            let _ = timeout(LOOK, call.send(&live)).await;
        }
    }
}

/// Renews what one stream has given, and notes what went elsewhere.
async fn renew(held: &Held, stream: &Stream) -> Result<()> {
    let before = held.of(stream);
    let what = format!("renew the leases of queue `{}`", held.spec.name);
    let call = scripts::RENEW
        .call([stream.keys.stream.as_str(), stream.keys.holder.as_str()])
        .arg(&held.me)
        .arg(held.lease());
    let deadline = Instant::now() + held.spec.lease / 3;
    let ours = match stream.link.request(&what, deadline, &call).await {
        Ok(ours) => lane::ids(ours),
        // Its reader sees to it; nothing of what was held is there any more.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        // Nothing is at stake.
        Err(_) if before.is_empty() => return Ok(()),
        Err(error) => return Err(error),
    };
    let ours: HashSet<_> = ours.into_iter().collect();
    // A read of a connection that was given up may have reached the server after what it took was looked for. Nobody
    // else would ever get it, as this renews it too.
    let after = held.of(stream);
    let known: HashSet<_> = before.iter().chain(&after).map(|(_, id)| *id).collect();
    if ours.iter().any(|id| !known.contains(id)) {
        // Or it is just arriving, which the reader knows.
        stream.stray.store(true, Relaxed);
    }
    let gone = before
        .into_iter()
        .filter(|(_, id)| !ours.contains(id))
        .map(|(number, _)| number);
    let gone = held.forget(gone);
    if gone > 0 {
        tracing::warn!(
            target: "switchboard", queue = %held.spec.name, count = gone,
            "the leases of deliveries ended before they were renewed: others handle them as well"
        );
    }
    Ok(())
}

#[derive(Debug)]
struct Reader {
    held: Arc<Held>,
    received: mpsc::UnboundedReceiver<Result<Vec<Delivery>>>,
    waiting: VecDeque<Delivery>,
    _alive: Arc<Alive>,
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        loop {
            while !self.waiting.is_empty() {
                let mut batch: Vec<_> = if self.waiting.len() <= max {
                    std::mem::take(&mut self.waiting).into()
                } else {
                    self.waiting.drain(..max.max(1)).collect()
                };
                // Some may have gone elsewhere meanwhile.
                self.held.keep_held(&mut batch);
                if !batch.is_empty() {
                    return Ok(Arrival::Batch(batch));
                }
            }
            match self.received.recv().await {
                Some(Ok(arrived)) => self.waiting = arrived.into(),
                Some(Err(error)) => return Err(error),
                None => {
                    self.held.shared.check_open()?;
                    self.held.leave().await;
                    return Ok(Arrival::Ended);
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Without that it is a crash, and what was not begun comes back after the lease.
        if self.held.stop.is_cancelled() {
            let mut unread: Vec<_> = self.waiting.iter().map(Delivery::tag).collect();
            while let Ok(Ok(arrived)) = self.received.try_recv() {
                unread.extend(arrived.iter().map(Delivery::tag));
            }
            if let (false, Ok(runtime)) = (unread.is_empty(), Handle::try_current()) {
                let held = self.held.clone();
                runtime.spawn(async move { held.release(unread).await });
            }
        }
        self.held.stop.cancel();
    }
}

#[derive(Debug)]
struct Settler {
    held: Arc<Held>,
    _alive: Arc<Alive>,
}

#[async_trait]
impl Settle for Settler {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        self.held.settle(settlements).await
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        self.held.isolate(tag).await
    }
}
