//! Consuming a queue: the reader, and what it does when a channel or a connection is lost.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, Delivery, DeliveryTag, ErrorKind, QueueKind, QueueSpec, Result, Settle,
    Settlement, Subscription,
};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Consumer,
    message::Delivery as Incoming,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    channel, error,
    link::{self, Live},
    names,
    settler::Settler,
    shared::Shared,
    topology,
    window::{Hold, Kept, Session},
    wire::Reading,
};

/// From this many returns on a delivery may have killed those who held it. The server counts what was given back
/// in good order like what came back from a crash; so the second return in good order is a copy that begins
/// anew.
pub(crate) const SUSPICION: u32 = 3;

/// How long handlers that have begun may take before what comes next is read, when deliveries get old.
const REVOKING: Duration = Duration::from_secs(1);

/// How long an ephemeral queue may be without a consumer.
const UNUSED_MILLIS: i64 = 30_000;

/// Opens a subscription.
pub(crate) async fn open(shared: &Arc<Shared>, spec: &QueueSpec) -> Result<Subscription> {
    let stop = CancellationToken::new();
    let settler = Settler::new(shared.clone(), spec.clone(), stop.clone());
    let mut reader = Reader {
        shared: shared.clone(),
        spec: spec.clone(),
        settler: settler.clone(),
        stop: stop.clone(),
        open: None,
        arrivals: VecDeque::new(),
        reading: Reading::default(),
        prefetch: spec.prefetch,
        failures: 0,
    };
    let what = format!("consume queue `{}`", spec.name);
    let live = shared.consuming(&what).await?;
    reader.open = Some(reader.consume(live).await?);
    if spec.kind == QueueKind::Existing {
        reader.say_what_is_missing().await;
    }
    Ok(Subscription {
        deliveries: Box::new(reader),
        settle: settler,
        stop,
    })
}

#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    spec: QueueSpec,
    settler: Arc<Settler>,
    stop: CancellationToken,
    open: Option<Consuming>,
    /// To be told before anything else.
    arrivals: VecDeque<Arrival>,
    reading: Reading,
    prefetch: usize,
    /// How often in a row consuming ended soon after it began.
    failures: u32,
}

/// A channel with a consumer.
#[derive(Debug)]
struct Consuming {
    live: Arc<Live>,
    session: Arc<Session>,
    consumer: Consumer,
    since: Instant,
    /// The end of the consumer, when it was met behind deliveries: with an error, or without.
    end: Option<Option<lapin::Error>>,
}

impl Consuming {
    /// What the consumer says next.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> Option<lapin::Result<Incoming>> {
        match self.end.take() {
            Some(end) => end.map(Err),
            None => self.consumer.next().await,
        }
    }
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        // A broker that always has something would otherwise keep its thread from everyone else.
        tokio::task::consume_budget().await;
        loop {
            if let Some(arrival) = self.arrivals.pop_front() {
                return Ok(arrival);
            }
            if self.stop.is_cancelled() {
                self.end().await?;
                return Ok(Arrival::Ended);
            }
            let Some(open) = &mut self.open else {
                self.consume_again().await?;
                continue;
            };
            let old = open
                .session
                .oldest()
                .map(|oldest| oldest + self.shared.endpoints.consumer_timeout / 2);
            let live = open.live.clone();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                incoming = open.next() => match incoming {
                    Some(Ok(first)) => {
                        let batch = self.take(first, max).await;
                        if !batch.is_empty() {
                            self.failures = 0;
                            return Ok(Arrival::Batch(batch));
                        }
                    }
                    Some(Err(error)) => self.lose(Some(&error)),
                    None => self.cancelled().await?,
                },
                () = live.lost() => self.lose(None),
                () = reached(old) => self.renew().await,
            }
        }
    }
}

/// Waits for this time, or for ever.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Reader {
    /// Makes deliveries of what has arrived, at most `max` of them.
    async fn take(&mut self, first: Incoming, max: usize) -> Vec<Delivery> {
        let Some(open) = &mut self.open else {
            return Vec::new();
        };
        open.live.was_of_use();
        let generation = open.session.generation;
        let mut batch = Vec::new();
        let mut held = Vec::new();
        let mut next = Some(first);
        while let Some(incoming) = next.take() {
            let (delivery, hold) = read(&mut self.reading, self.spec.kind, generation, incoming);
            held.push(hold);
            batch.push(delivery);
            if batch.len() < max {
                next = match open.consumer.next().now_or_never() {
                    Some(Some(Ok(incoming))) => Some(incoming),
                    // It is said once, so it is kept until these deliveries were given.
                    Some(end) => {
                        open.end = Some(end.and_then(Result::err));
                        None
                    }
                    None => None,
                };
            }
        }
        open.session.hold(held);
        batch
    }

    /// Begins to consume once more, when there is a connection.
    async fn consume_again(&mut self) -> Result<()> {
        let wait = match self.failures {
            0 => Duration::ZERO,
            failures => Duration::from_millis(50) * 2u32.pow(failures.min(6)),
        };
        let stop = self.stop.clone();
        let again = async {
            sleep(wait).await;
            let live = self.shared.consume.live().await?;
            self.consume(live).await
        };
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            opened = again => opened,
        };
        match opened {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(error::deleted(&self.spec.name).with_source(error))
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(target: "switchboard", queue = %self.spec.name, %error, "cannot consume again yet");
                self.failures += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn consume(&self, live: Arc<Live>) -> Result<Consuming> {
        let spec = &self.spec;
        let what = format!("consume queue `{}`", spec.name);
        let queue = match spec.kind {
            QueueKind::Ephemeral => self.declare_ephemeral(&live).await?,
            _ => spec.name.to_string(),
        };
        let channel = channel::open(&live).await?;
        let prefetch = u16::try_from(self.prefetch.max(1)).unwrap_or(u16::MAX);
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        channel.answer(&what, qos).await?;
        let generation = link::generation();
        let tag = format!("{}-{generation}", spec.consumer);
        let consumer = channel.basic_consume(
            queue.into(),
            tag.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        // An ephemeral queue goes by itself when this fails.
        let consumer = channel.answer(&what, consumer).await?;
        let session = Arc::new(Session::new(
            generation,
            channel,
            prefetch,
            self.stop.clone(),
        ));
        self.settler.add(session.clone());
        Ok(Consuming {
            live,
            session,
            consumer,
            since: Instant::now(),
            end: None,
        })
    }

    /// A fresh name each time: the one before may still exist for as long as its connection seems to live.
    async fn declare_ephemeral(&self, live: &Arc<Live>) -> Result<String> {
        for binding in &self.spec.bindings {
            topology::exchange(live, &binding.exchange).await?;
        }
        let name = format!("{}.{:016x}", self.spec.name, fastrand::u64(..));
        let on = channel::open(live).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        // It collects messages from now on, and is deleted with its last consumer, which it may never have.
        let unused = AMQPValue::LongLongInt(UNUSED_MILLIS);
        arguments.insert("x-expires".into(), unused);
        let request = on.queue_declare(name.as_str().into(), options, arguments);
        on.answer(&format!("declare queue `{name}`"), request)
            .await?;
        for binding in &self.spec.bindings {
            topology::bind(&on, &name, binding).await?;
        }
        on.end().await;
        Ok(name)
    }

    /// The channel or the connection is gone, and everything that was held on it.
    fn lose(&mut self, why: Option<&lapin::Error>) {
        let Some(open) = self.open.take() else {
            return;
        };
        if let Some(error) = why.filter(|error| error::refusal(error).is_some()) {
            tracing::warn!(target: "switchboard", queue = %self.spec.name, %error, "RabbitMQ ended a channel; consuming anew");
        }
        if open.since.elapsed() < Duration::from_secs(1) {
            self.failures += 1;
        } else {
            self.failures = 0;
        }
        let generation = open.session.generation;
        self.settler.forget(generation);
        self.arrivals.push_back(Arrival::Revoked { generation });
    }

    /// The server ended the consumer: the queue was deleted, or moved to another node.
    async fn cancelled(&mut self) -> Result<()> {
        let live = self.open.as_ref().map(|open| open.live.clone());
        self.lose(None);
        if let Some(live) = live.filter(|live| !live.is_lost())
            && self.spec.kind != QueueKind::Ephemeral
            && let Ok(false) = topology::is_there(&live, &self.spec.name).await
        {
            return Err(error::deleted(&self.spec.name));
        }
        Ok(())
    }

    /// The oldest delivery is held for half of what the server allows. What has not begun goes back, and fewer are
    /// read ahead from now on; what has begun goes on.
    async fn renew(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let generation = open.session.generation;
        let handled = usize::try_from(open.session.settled()).unwrap_or(usize::MAX);
        // Not fewer than what may run at a time: by default a sixteenth.
        let least = (self.spec.prefetch / 16).max(1);
        self.prefetch = handled.clamp(least, self.prefetch.max(least));
        tracing::warn!(
            target: "switchboard",
            queue = %self.spec.name,
            prefetch = self.prefetch,
            "deliveries wait for long compared with the server's consumer timeout; fewer are read ahead from now on"
        );
        // Without an answer the channel is lost anyway, which settles show.
        let _ = self.stop_consuming(open).await;
        let _ = self.settler.retire(generation).await;
        self.arrivals.push_back(Arrival::Revoking {
            generation,
            until: Instant::now() + REVOKING,
        });
    }

    /// Ends a consumer; what was on its way to it goes back at once.
    async fn stop_consuming(&mut self, mut open: Consuming) -> Result<()> {
        let tag = open.consumer.tag();
        let cancel = open
            .session
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        let mut answer = open.session.channel.answer("end a consumer", cancel).await;
        if answer.is_ok() {
            // lapin counts a consumer whose connection is lost as ended, so this is asked for once more.
            answer = open.session.sync().await;
        }
        let (mut held, mut back) = (Vec::new(), Vec::new());
        while let Some(Some(Ok(incoming))) = open.consumer.next().now_or_never() {
            let generation = open.session.generation;
            let (delivery, hold) = read(&mut self.reading, self.spec.kind, generation, incoming);
            held.push(hold);
            back.push(Settlement::Release(delivery.tag()));
        }
        open.session.hold(held);
        open.session.end();
        answer?;
        for result in self.settler.settle(back).await {
            if let Err(error) = result {
                tracing::warn!(target: "switchboard", queue = %self.spec.name, %error, "cannot give a delivery back");
            }
        }
        Ok(())
    }

    /// Ends for good. The answer of the server also says that everything was received that was acknowledged before.
    async fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let session = open.session.clone();
        let ended = self.stop_consuming(open).await;
        let closed = self.settler.retire(session.generation).await;
        match ended.and(closed) {
            Err(_) if session.settled() > 0 => Err(error::unflushed(&self.spec.name)),
            // On a channel that is gone nothing has to be ended.
            _ => Ok(()),
        }
    }

    /// A queue of somebody else's may lack what failures need.
    async fn say_what_is_missing(&self) {
        let Ok(live) = self.shared.consuming("look for queues").await else {
            return;
        };
        let name = &self.spec.name;
        let steps = names::steps(&self.spec.retry_waits).into_iter();
        let retries = steps.map(|step| names::retry(name, step));
        let derived = [names::dead(name), names::probation(name)];
        let mut missing = Vec::new();
        for name in derived.into_iter().chain(retries) {
            if let Ok(false) = topology::is_there(&live, &name).await {
                missing.push(name);
            }
        }
        if !missing.is_empty() {
            tracing::warn!(
                target: "switchboard",
                queue = %name,
                missing = missing.join(", "),
                "an existing queue is used as it is, and queues that failures need are missing: what fails there \
                 is given back instead, again and again; declare them, or let the queue's own service do so"
            );
        }
    }
}

fn read(
    reading: &mut Reading,
    kind: QueueKind,
    generation: u64,
    incoming: Incoming,
) -> (Delivery, Hold) {
    let number = incoming.delivery_tag;
    let received = reading.read(
        incoming.exchange.as_str(),
        incoming.routing_key.as_str(),
        &incoming.properties,
        incoming.data,
    );
    let tag = DeliveryTag { generation, number };
    // Of what comes for the first time, it is a header that some publisher made up.
    let counted = match incoming.redelivered {
        true => received.returns,
        false => 0,
    };
    let returns = counted.max(u32::from(incoming.redelivered));
    let alone = received.notes.alone;
    let suspect = kind == QueueKind::Durable && (alone.is_some() || counted >= SUSPICION);
    let is_kept = kind == QueueKind::Durable && (suspect || counted + 1 >= SUSPICION);
    let kept = is_kept.then(|| Kept {
        message: received.message.clone(),
        alone: alone.unwrap_or(0),
        suspect,
    });
    let hold = Hold {
        tag: number,
        key: received.message.partition_key().map(hash),
        kept,
    };
    let delivery = Delivery::new(received.message, tag)
        .with_redeliveries(returns)
        .with_suspicion(suspect);
    (delivery, hold)
}

/// Two keys that meet here only wait for each other.
fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            // What was answered with `Done` is done.
            open.session.flush_stragglers();
            self.settler.forget(open.session.generation);
        }
    }
}
