//! What everything on one transport shares.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use event_core::{
    ConnectionState, Error, ErrorKind, ExchangeName, Intake, Message, Receipt, Result, intake,
};
use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    durability, error,
    held::Held,
    keys::{self, ExchangeKeys},
    link::{Link, Phase},
    publisher::{self, Publisher, Trouble},
    server::Servers,
    url::Endpoints,
};

/// How many messages of one exchange may be without an answer at a time, over all callers.
const UNANSWERED: u32 = 16_384;

/// How long a request other than a publish is tried.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) servers: Arc<Servers>,
    pub(crate) closing: CancellationToken,
    /// For everything but publishing, whose answers may have to wait for replicas.
    requests: Links,
    publishes: Links,
    publishers: Mutex<HashMap<ExchangeName, Lane>>,
    max_message: usize,
    state: watch::Receiver<ConnectionState>,
    subscriptions: Mutex<Vec<Weak<Held>>>,
}

/// The way into the publisher of one exchange.
#[derive(Clone, Debug)]
struct Lane {
    intake: Arc<Intake<Message>>,
    link: Arc<Link>,
    trouble: Trouble,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Connections for one purpose: one to the only server, or in a cluster one for each exchange.
#[derive(Debug)]
struct Links {
    servers: Arc<Servers>,
    patience: Duration,
    first: Arc<Link>,
    others: Mutex<HashMap<String, Arc<Link>>>,
}

impl Links {
    async fn open(servers: &Arc<Servers>, patience: Duration) -> Result<Self> {
        let exchange = servers.is_cluster().then(|| keys::REGISTRY.to_owned());
        let first = Link::open(servers.clone(), exchange, patience).await?;
        Ok(Self {
            servers: servers.clone(),
            patience,
            first: Arc::new(first),
            others: Mutex::default(),
        })
    }

    fn to(&self, tag: &str) -> Arc<Link> {
        if !self.servers.is_cluster() || tag == keys::REGISTRY {
            return self.first.clone();
        }
        let mut others = lock(&self.others);
        let link = others.entry(tag.to_owned()).or_insert_with(|| {
            Arc::new(Link::start(
                self.servers.clone(),
                Some(tag.to_owned()),
                self.patience,
                None,
            ))
        });
        link.clone()
    }

    async fn close(&self, deadline: Instant) {
        let others: Vec<_> = lock(&self.others).values().cloned().collect();
        join_all(others.iter().map(|link| link.close(deadline))).await;
        self.first.close(deadline).await;
    }
}

impl Shared {
    pub(crate) async fn connect(endpoints: Endpoints) -> Result<Arc<Self>> {
        let servers = Arc::new(Servers::new(endpoints));
        // One after the other: a mistake in the URL is said once.
        let heartbeat = servers.endpoints.heartbeat;
        let requests = Links::open(&servers, heartbeat).await?;
        let live = requests.first.live().await?;
        let found = durability::look(&live, &servers.endpoints).await?;
        // Batches that wait for replicas stand before a sign of life.
        let waits = match servers.endpoints.wait {
            0 => Duration::ZERO,
            _ => servers.endpoints.wait_timeout * publisher::WINDOW,
        };
        let publishes = Links::open(&servers, heartbeat + waits).await?;
        let state = ConnectionState::of_both(
            publishes.first.phase(),
            requests.first.phase(),
            Phase::state,
        );
        Ok(Arc::new(Self {
            servers,
            closing: CancellationToken::new(),
            requests,
            publishes,
            publishers: Mutex::default(),
            max_message: found.max_message,
            state,
            subscriptions: Mutex::default(),
        }))
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.servers.endpoints.prefix
    }

    pub(crate) fn exchange(&self, exchange: &str) -> ExchangeKeys {
        ExchangeKeys::new(self.prefix(), exchange)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(error::closed());
        }
        Ok(())
    }

    /// The connection for requests about an exchange.
    pub(crate) fn link(&self, exchange: &str) -> Arc<Link> {
        self.requests.to(exchange)
    }

    /// The connection for requests about queues without regard to an exchange.
    pub(crate) fn registry(&self) -> Arc<Link> {
        self.requests.to(keys::REGISTRY)
    }

    pub(crate) async fn publish(
        &self,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        if let Err(closed) = self.check_open() {
            return vec![Err(closed); batch.len()];
        }
        let Some(first) = batch.first() else {
            return Vec::new();
        };
        let one = first.exchange();
        if batch.iter().all(|message| message.exchange() == one) {
            let lane = self.lane(&one.clone());
            return lane.publish(batch, deadline).await;
        }
        let mut parts: HashMap<ExchangeName, (Vec<usize>, Vec<Message>)> = HashMap::new();
        let mut results = vec![Err(error::closed()); batch.len()];
        for (at, message) in batch.into_iter().enumerate() {
            let part = parts.entry(message.exchange().clone()).or_default();
            part.0.push(at);
            part.1.push(message);
        }
        let parts = parts.into_iter().map(|(exchange, (places, messages))| {
            let lane = self.lane(&exchange);
            async move { (places, lane.publish(messages, deadline).await) }
        });
        for (places, answers) in join_all(parts).await {
            for (at, answer) in places.into_iter().zip(answers) {
                results[at] = answer;
            }
        }
        results
    }

    fn lane(&self, exchange: &ExchangeName) -> Lane {
        let mut publishers = lock(&self.publishers);
        if let Some(lane) = publishers.get(exchange) {
            return lane.clone();
        }
        let (intake, orders) = intake(UNANSWERED);
        let endpoints = &self.servers.endpoints;
        let wait = (endpoints.wait > 0).then_some((endpoints.wait, endpoints.wait_timeout));
        let (link, trouble) = (self.publishes.to(exchange), Trouble::default());
        let publisher = Publisher::new(
            exchange.clone(),
            self.exchange(exchange),
            link.clone(),
            wait,
            self.max_message,
            orders,
            trouble.clone(),
        );
        let task = tokio::spawn(publisher.run(self.closing.clone()));
        let lane = Lane {
            intake: Arc::new(intake),
            link,
            trouble,
            task: Arc::new(Mutex::new(Some(task))),
        };
        publishers.insert(exchange.clone(), lane.clone());
        lane
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
        let given_back = timeout_at(
            deadline,
            join_all(subscriptions.iter().map(|held| held.close())),
        );
        let publishers: Vec<_> = lock(&self.publishers).values().cloned().collect();
        let flushed = join_all(publishers.iter().map(|lane| lane.end(deadline)));
        let (given_back, flushed) = tokio::join!(given_back, flushed);
        // A moment more, to end in good order.
        let end = deadline.max(Instant::now() + Duration::from_millis(200));
        tokio::join!(self.publishes.close(end), self.requests.close(end));
        if given_back.is_ok() && flushed.into_iter().all(|flushed| flushed) {
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

impl Lane {
    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        self.intake
            .publish(batch, deadline, || self.trouble.late(&self.link))
            .await
    }

    /// Waits until everything is answered; not so at the deadline.
    async fn end(&self, deadline: Instant) -> bool {
        let task = lock(&self.task).take();
        let Some(mut task) = task else { return true };
        let flushed = timeout_at(deadline, &mut task).await.is_ok();
        if !flushed {
            task.abort();
        }
        flushed
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Something that nobody else has.
pub(crate) fn token() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
