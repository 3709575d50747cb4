//! What everything on one transport shares.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use event_core::{ConnectionState, Error, ErrorKind, Intake, Message, Receipt, Result};
use futures_util::future::join_all;
use rdkafka::error::RDKafkaErrorCode as Code;
use smol_str::SmolStr;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Purpose},
    client::{Health, PATIENCE},
    clock::BrokerClock,
    error,
    producer::Producer,
    registry::Registry,
    subscription::Held,
    table::Fact,
    topology,
    url::Endpoints,
};

/// How many messages may be without an answer at a time, over all callers.
const UNANSWERED: u32 = 16_384;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) health: Arc<Health>,
    pub(crate) clock: Arc<BrokerClock>,
    pub(crate) admin: Arc<Admin>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) producer: Arc<Producer>,
    intake: Intake<Message>,
    closing: CancellationToken,
    /// Topics of queues that are known to be there.
    topics: Mutex<HashSet<SmolStr>>,
    subscriptions: Mutex<Vec<Weak<Held>>>,
}

impl Shared {
    pub(crate) async fn connect(endpoints: Endpoints) -> Result<Arc<Self>> {
        let (endpoints, health) = (Arc::new(endpoints), Health::new());
        let admin = Arc::new(Admin::connect(&endpoints, &health).await?);
        admin.ensure(&endpoints.topology, Purpose::Topology).await?;
        let clock = Arc::new(BrokerClock::default());
        let registry = Registry::start(&endpoints, &admin, &clock)?;
        let producer = Producer::start(&endpoints, &health, &clock, &admin, &registry)?;
        // It shows the broker's clock, and takes the time that a first message takes.
        tokio::spawn(note(Arc::downgrade(&producer), registry.topic().to_owned()));
        // A receipt that counts queues is to know all of them.
        registry.current(Instant::now() + PATIENCE).await?;
        let of = producer.clone();
        Ok(Arc::new(Self {
            endpoints,
            health,
            clock,
            admin,
            registry,
            intake: Intake::direct(UNANSWERED, move |orders| of.take(orders)),
            producer,
            closing: CancellationToken::new(),
            topics: Mutex::default(),
            subscriptions: Mutex::default(),
        }))
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.health.state()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(error::closed());
        }
        Ok(())
    }

    pub(crate) async fn publish(
        &self,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        if let Err(closed) = self.check_open() {
            return vec![Err(closed); batch.len()];
        }
        self.intake
            .publish(batch, deadline, || self.producer.late())
            .await
    }

    /// Sees to it that a topic of a queue is there.
    pub(crate) async fn topic(&self, topic: &SmolStr, purpose: Purpose) -> Result<()> {
        if !self.knows(topic) {
            self.admin.ensure(topic, purpose).await?;
            self.producer.look_for(topic).await;
            lock(&self.topics).insert(topic.clone());
        }
        Ok(())
    }

    pub(crate) fn knows(&self, topic: &str) -> bool {
        lock(&self.topics).contains(topic)
    }

    /// Has the topics of a queue looked for again, if one was not there.
    pub(crate) fn forget_topics(&self, queue: &str, code: Code) {
        if error::says_gone(code) || code == Code::MessageTimedOut {
            let prefix = format!("{queue}.");
            lock(&self.topics).retain(|topic| !topic.starts_with(&prefix));
        }
    }

    /// Notes a subscription, to be closed with the transport.
    pub(crate) fn keep(&self, held: &Arc<Held>) {
        let mut subscriptions = lock(&self.subscriptions);
        subscriptions.retain(|held| held.strong_count() > 0);
        subscriptions.push(Arc::downgrade(held));
    }

    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        self.closing.cancel();
        let subscriptions: Vec<_> = lock(&self.subscriptions)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let given_back = join_all(subscriptions.iter().map(|held| held.close()));
        let given_back = timeout_at(deadline, given_back).await;
        // After that: subscriptions note how far they are.
        let flushed = self.producer.close(deadline).await;
        self.registry.stop();
        self.health.set(ConnectionState::Closed);
        if given_back.is_ok() && flushed {
            Ok(())
        } else {
            Err(Error::retryable(
                ErrorKind::Timeout,
                "something was still to be confirmed when the time to close was over; each publish has its answer, \
                 and what was held comes back after its lease",
            ))
        }
    }
}

/// Writes something to the topology topic, until that has worked.
async fn note(producer: Weak<Producer>, topic: String) {
    let mut wait = Duration::from_millis(100);
    while let Some(producer) = producer.upgrade() {
        let record = topology::record(&topic, &Fact::note());
        let deadline = Instant::now() + PATIENCE;
        match producer.store(vec![record], deadline).await.pop() {
            // Who only publishes need not know the broker's clock.
            Some(Err(Code::TopicAuthorizationFailed | Code::PurgeQueue)) => return,
            Some(Err(code)) => {
                tracing::warn!(target: "switchboard", topic, %code, "the topology topic cannot be written to; delayed retries wait");
            }
            _ => return,
        }
        drop(producer);
        sleep(wait).await;
        wait = (2 * wait).min(PATIENCE);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.closing.cancel();
        self.registry.stop();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
