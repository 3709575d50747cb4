//! Publishing: one idempotent producer, replaced when it ends.

mod record;
mod reports;
mod running;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use event_core::{Error, ErrorKind, ExchangeName, Message, Order, Receipt, Result};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use smol_str::SmolStr;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

pub(crate) use self::record::{Answered, Record, answer};
use self::{
    reports::Desk,
    running::{Running, batch},
};
use crate::{
    admin::Admin,
    client::{Health, PATIENCE},
    clock::BrokerClock,
    registry::Registry,
    shared::lock,
    threads,
    url::Endpoints,
    wire,
};

/// What is known of the topic of an exchange.
enum Target {
    Ready(Ready),
    /// It is being looked for or made; this is to be published to it then.
    Opening(Vec<Order<Message>>),
}

/// The topic of an exchange that is there.
#[derive(Clone)]
struct Ready {
    topic: SmolStr,
    /// It takes less than a batch, so each message goes alone. Nothing while no batch was refused.
    is_narrow: Option<bool>,
}

/// A message whose fate depends on what the topology topic or the broker says now.
enum Late {
    /// It was stored, and no queue is known that takes it.
    Stored(Order<Message>),
    /// The first is mandatory, and no queue is known that takes it; the others come after it.
    Mandatory(Vec<Order<Message>>),
    /// Its topic is gone.
    Homeless(Order<Message>),
    /// The topic takes less than the batch that it was in.
    TooLarge(Order<Message>),
}

/// Publishes to the topics of exchanges and of queues.
pub(crate) struct Producer {
    endpoints: Arc<Endpoints>,
    admin: Arc<Admin>,
    desk: Arc<Desk>,
    /// Nothing only while it is dropped.
    running: Mutex<Option<Arc<Running>>>,
    /// The client for messages that go alone; nothing while there were none.
    alone: Mutex<Option<Arc<Running>>>,
    targets: Mutex<HashMap<ExchangeName, Target>>,
    runtime: Handle,
}

impl Producer {
    pub(crate) fn start(
        endpoints: &Arc<Endpoints>,
        health: &Arc<Health>,
        clock: &Arc<BrokerClock>,
        admin: &Arc<Admin>,
        registry: &Arc<Registry>,
    ) -> Result<Arc<Self>> {
        let (late, received) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk::new(health, clock, registry, late));
        let producer = Arc::new(Self {
            endpoints: endpoints.clone(),
            admin: admin.clone(),
            running: Mutex::new(Some(Running::start(endpoints, &desk, false)?)),
            alone: Mutex::default(),
            desk,
            targets: Mutex::default(),
            runtime: Handle::current(),
        });
        tokio::spawn(work_late(Arc::downgrade(&producer), received));
        Ok(producer)
    }

    /// Publishes messages, in their order.
    pub(crate) fn take(self: &Arc<Self>, orders: Vec<Order<Message>>) {
        let mut targets = lock(&self.targets);
        self.dispatch(&mut targets, orders);
    }

    fn dispatch(
        self: &Arc<Self>,
        targets: &mut HashMap<ExchangeName, Target>,
        orders: Vec<Order<Message>>,
    ) {
        // Dropped, they are answered.
        let Some(running) = self.running() else {
            return;
        };
        let mut held = Vec::new();
        for order in orders {
            let message = order.item();
            if let Err(error) = self.check(message) {
                order.finish(Err(error));
                continue;
            }
            match targets.get_mut(message.exchange()) {
                Some(Target::Opening(waiting)) => waiting.push(order),
                Some(Target::Ready(_)) if !held.is_empty() => held.push(order),
                Some(Target::Ready(_))
                    if message.is_mandatory() && self.desk.queues(message.address()) == 0 =>
                {
                    held.push(order);
                }
                Some(Target::Ready(ready)) if ready.is_narrow == Some(true) => {
                    if let Some(alone) = self.alone() {
                        alone.publish(&ready.topic, order);
                    }
                }
                Some(Target::Ready(ready)) => running.publish(&ready.topic, order),
                None => {
                    let exchange = message.exchange().clone();
                    targets.insert(exchange.clone(), Target::Opening(vec![order]));
                    let opening = self.clone().open(exchange);
                    self.runtime.spawn(opening);
                }
            }
        }
        if !held.is_empty() {
            self.desk.hand(Late::Mandatory(held));
        }
    }

    fn check(&self, message: &Message) -> Result<()> {
        let (size, most) = (wire::size(message), self.endpoints.max_message);
        if size > most {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a message of {size} bytes is larger than {most}, what `?max_message=` allows; raise it together \
                     with `max.message.bytes` of the topic, or send a reference instead of the data"
                ),
            ));
        }
        Ok(())
    }

    /// Looks for the topic of an exchange, and makes it if need be; then publishes what waits for it.
    async fn open(self: Arc<Self>, exchange: ExchangeName) {
        loop {
            let found = self.admin.exchange(&exchange).await;
            if let Ok(topic) = &found {
                self.look_for(topic).await;
            }
            if self.opened(&exchange, found) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Has the client look for a topic that is there now: it would refuse for a while what it knew to be missing.
    pub(crate) async fn look_for(&self, topic: &SmolStr) {
        let Some(running) = self.running() else {
            return;
        };
        let topic = topic.clone();
        let looked = tokio::task::spawn_blocking(move || running.look_for(&topic));
        if let Ok(Err(error)) = looked.await {
            tracing::debug!(target: "switchboard", %error, "the producer does not find a topic yet");
        }
    }

    /// Publishes what waits for a topic, or says that it cannot be had. Not so when it is to be tried again.
    fn opened(self: &Arc<Self>, exchange: &ExchangeName, found: Result<SmolStr>) -> bool {
        let mut targets = lock(&self.targets);
        let Some(Target::Opening(waiting)) = targets.get_mut(exchange) else {
            return true;
        };
        match found {
            Ok(topic) => {
                let waiting = std::mem::take(waiting);
                let is_narrow = None;
                targets.insert(exchange.clone(), Target::Ready(Ready { topic, is_narrow }));
                self.dispatch(&mut targets, waiting);
                true
            }
            Err(error) => {
                let now = Instant::now();
                let is_over =
                    |order: &mut Order<Message>| !error.is_retryable() || order.deadline() <= now;
                for order in waiting.extract_if(.., is_over) {
                    order.finish(Err(error.clone()));
                }
                let is_over = waiting.is_empty();
                if is_over {
                    targets.remove(exchange);
                }
                is_over
            }
        }
    }

    /// Has the topic of an exchange looked for again, with this to be published to it.
    fn reopen(self: &Arc<Self>, order: Order<Message>) {
        let exchange = order.item().exchange().clone();
        let mut targets = lock(&self.targets);
        if let Some(Target::Opening(waiting)) = targets.get_mut(&exchange) {
            waiting.push(order);
            return;
        }
        targets.insert(exchange.clone(), Target::Opening(vec![order]));
        self.admin.forget(&exchange);
        self.runtime.spawn(self.clone().open(exchange));
    }

    /// Publishes once more what was refused with the batch that it was in, alone.
    async fn publish_alone(self: &Arc<Self>, order: Order<Message>) {
        let exchange = order.item().exchange().clone();
        let ready = match lock(&self.targets).get(&exchange) {
            Some(Target::Ready(ready)) => ready.clone(),
            // It is gone meanwhile.
            _ => return self.take(vec![order]),
        };
        if ready.is_narrow.is_none() {
            let largest = self.admin.largest(&ready.topic).await;
            let most = batch(&self.endpoints);
            // What is larger than a batch was alone in it, and says nothing of batches.
            let is_narrow =
                largest.map_or_else(|| wire::size(order.item()) < most, |largest| largest < most);
            if is_narrow {
                tracing::warn!(
                    target: "switchboard", topic = %ready.topic, largest,
                    "the topic takes less than a batch, so its messages are sent one by one; set `max_message` to what \
                     the topic takes (`max.message.bytes`), or raise that"
                );
            }
            if let Some(Target::Ready(ready)) = lock(&self.targets).get_mut(&exchange) {
                ready.is_narrow = Some(is_narrow);
            }
        }
        // Of one that is closing nobody would hear any more.
        if let Some(alone) = self.alone().filter(|alone| !alone.is_stopping()) {
            alone.publish(&ready.topic, order);
        }
    }

    /// Sends records to topics of ours. Each has its answer later.
    pub(crate) fn send(&self, records: Vec<Record>) -> Vec<Answered> {
        let running = self.running();
        let send = |record| {
            let (answer, answered) = oneshot::channel();
            if let Some(running) = &running {
                running.store(record, answer);
            }
            answered
        };
        records.into_iter().map(send).collect()
    }

    /// Stores records in topics of ours, each to be waited for until the deadline.
    pub(crate) async fn store(
        &self,
        records: Vec<Record>,
        deadline: Instant,
    ) -> Vec<Result<i64, Code>> {
        let mut results = Vec::with_capacity(records.len());
        for mut answered in self.send(records) {
            let result = answer(&mut answered, deadline).await;
            results.push(result.unwrap_or(Err(Code::MessageTimedOut)));
        }
        results
    }

    /// What to say of a message that has no answer at its deadline.
    pub(crate) fn late(&self) -> Error {
        let text = match self.desk.health.is_down() {
            true => {
                "Kafka cannot be reached, and the time to publish is over; the message may have been stored"
            }
            false => "Kafka did not confirm the message in time; it may have been stored",
        };
        Error::retryable(ErrorKind::Timeout, text)
    }

    /// The client. One that has ended is replaced by a new one.
    fn running(&self) -> Option<Arc<Running>> {
        let mut slot = lock(&self.running);
        let running = slot.as_ref()?;
        if running.is_broken() && !running.is_stopping() {
            self.replace(&mut slot, false);
        }
        slot.clone()
    }

    /// The client for messages that go alone.
    fn alone(&self) -> Option<Arc<Running>> {
        let is_over = self.running()?.is_stopping();
        let mut slot = lock(&self.alone);
        let is_broken = |running: &Arc<Running>| running.is_broken();
        if !is_over && slot.as_ref().is_none_or(is_broken) {
            self.replace(&mut slot, true);
        }
        slot.clone()
    }

    fn replace(&self, slot: &mut Option<Arc<Running>>, is_alone: bool) {
        match Running::start(&self.endpoints, &self.desk, is_alone) {
            Ok(next) => {
                let Some(before) = slot.replace(next) else {
                    return;
                };
                tracing::warn!(target: "switchboard", "the producer met an error that ended it; it was replaced");
                before.stop();
                threads::end(before);
            }
            Err(error) => {
                tracing::error!(target: "switchboard", %error, "a producer cannot be started");
            }
        }
    }

    fn both(&self) -> impl Iterator<Item = Arc<Running>> {
        let (running, alone) = (lock(&self.running).clone(), lock(&self.alone).clone());
        running.into_iter().chain(alone)
    }

    /// Sends what is under way, and ends. Whether all of it was answered by the deadline.
    pub(crate) async fn close(&self, deadline: Instant) -> bool {
        // What was refused with its batch may be on its way to the second while the first ends.
        let clients: Vec<_> = self.both().collect();
        let ended = tokio::task::spawn_blocking(move || {
            for running in clients {
                running.stop();
                running.join();
            }
        });
        timeout_at(deadline, ended).await.is_ok()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for slot in [&self.running, &self.alone] {
            if let Some(running) = lock(slot).take() {
                running.stop();
                threads::end(running);
            }
        }
    }
}

/// Works on what depends on the topology topic, or on a topic that is made again.
async fn work_late(producer: Weak<Producer>, mut received: mpsc::UnboundedReceiver<Late>) {
    let mut batch = Vec::new();
    while received.recv_many(&mut batch, 1_000).await > 0 {
        let Some(producer) = producer.upgrade() else {
            return;
        };
        let table = producer
            .desk
            .registry
            .current(Instant::now() + PATIENCE)
            .await;
        for late in batch.drain(..) {
            match (late, &table) {
                (Late::Homeless(order), _) => producer.reopen(order),
                (Late::TooLarge(order), _) => producer.publish_alone(order).await,
                (Late::Stored(order), table) => {
                    let queues = table.as_ref().ok();
                    let queues = queues
                        .map(|table| table.count(order.item().exchange(), order.item().key()));
                    let receipt = Receipt::new(order.item().id().clone(), queues);
                    order.finish(Ok(receipt));
                }
                (Late::Mandatory(orders), Ok(table)) => {
                    let mut routed = Vec::new();
                    for order in orders {
                        let message = order.item();
                        if message.is_mandatory()
                            && table.count(message.exchange(), message.key()) == 0
                        {
                            let error = unroutable(message);
                            order.finish(Err(error));
                        } else {
                            routed.push(order);
                        }
                    }
                    // The table that was asked for is the one that is looked at from now on.
                    producer.take(routed);
                }
                (Late::Mandatory(orders), Err(error)) => {
                    for order in orders {
                        order.finish(Err(error.clone()));
                    }
                }
            }
        }
    }
}

fn unroutable(message: &Message) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!("no queue is bound for {}", message.address()),
    )
}

fn code(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Unknown)
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}
