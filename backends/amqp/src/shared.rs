//! What everything on one transport shares.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use event_core::{
    ConnectionState, Error, ErrorKind, Intake, Message, QueueKind, QueueName, QueueSpec, Receipt,
    Result, intake,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    channel, error,
    link::{Link, Live, Phase, Role},
    names,
    publisher::{self, Outbound, Publisher},
    topology::{self, Declared},
    url::Endpoints,
};

/// How many messages may be without an answer at a time, over all callers.
const UNANSWERED: u32 = 8_192;

/// How long a copy may take to be stored, before its original is settled in another way.
const COPY: Duration = Duration::from_secs(30);

/// How long somebody may be kept waiting for a copy: whoever waits holds up others.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a request other than a publish waits for a connection that is being made again.
const CONNECTION: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) declared: Arc<Declared>,
    pub(crate) publish: Arc<Link>,
    pub(crate) consume: Arc<Link>,
    pub(crate) closing: CancellationToken,
    intake: Intake<Outbound>,
    publisher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    state: watch::Receiver<ConnectionState>,
    /// Queues for retries that were declared.
    retries: Mutex<HashSet<(QueueName, u64)>>,
}

impl Shared {
    pub(crate) async fn connect(endpoints: Endpoints) -> Result<Arc<Self>> {
        let endpoints = Arc::new(endpoints);
        let declared = Arc::new(Declared::default());
        let open = |role| Link::open(endpoints.clone(), declared.clone(), role);
        // One after the other: a mistake in the URL is said once.
        let consume = Arc::new(open(Role::Consume).await?);
        let publish = Arc::new(open(Role::Publish).await?);
        let (intake, orders) = intake(UNANSWERED);
        let closing = CancellationToken::new();
        let publisher = Publisher::new(publish.clone(), orders);
        let publisher = tokio::spawn(publisher.run(closing.clone()));
        let state = ConnectionState::of_both(publish.phase(), consume.phase(), Phase::state);
        Ok(Arc::new(Self {
            endpoints,
            declared,
            publish,
            consume,
            closing,
            intake,
            publisher: tokio::sync::Mutex::new(Some(publisher)),
            state,
            retries: Mutex::default(),
        }))
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(error::closed());
        }
        Ok(())
    }

    /// The connection for everything but publishing.
    pub(crate) async fn consuming(&self, what: &str) -> Result<Arc<Live>> {
        self.check_open()?;
        self.consume.live_within(CONNECTION, what).await
    }

    pub(crate) async fn publish(
        &self,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        if let Err(closed) = self.check_open() {
            return vec![Err(closed); batch.len()];
        }
        self.send(batch.into_iter().map(Outbound::event).collect(), deadline)
            .await
    }

    /// Stores copies straight in queues. When an answer is `Ok`, its copy is there.
    pub(crate) async fn store(&self, copies: Vec<Outbound>) -> Vec<Result<Receipt>> {
        self.send(copies, Instant::now() + COPY).await
    }

    /// Stores one copy, soon or not at all.
    pub(crate) async fn store_one(&self, copy: Outbound) -> Result<()> {
        if self.is_blocked() {
            return Err(self.late());
        }
        let stored = self.send(vec![copy], Instant::now() + 2 * PATIENCE);
        // No answer is none that may be relied on.
        let answer = stored
            .await
            .pop()
            .unwrap_or_else(|| Err(error::silent("store a copy")));
        answer.map(drop)
    }

    /// Ends when a copy was waited for long enough: at once while RabbitMQ takes no publishes.
    pub(crate) async fn patience(&self) {
        let blocked = async {
            if let Ok(live) = self.publish.live().await {
                // An error is a connection that is gone, which takes none either.
                let _ = live.watch_blocked().wait_for(Option::is_some).await;
            }
        };
        let _ = timeout(PATIENCE, blocked).await;
    }

    /// Whether RabbitMQ takes no publishes at present.
    pub(crate) fn is_blocked(&self) -> bool {
        match &*self.publish.phase().borrow() {
            Phase::Up(live) => live.blocked().is_some(),
            _ => false,
        }
    }

    /// What somebody is told who does not wait for a publish any longer.
    pub(crate) fn late(&self) -> Error {
        match &*self.publish.phase().borrow() {
            Phase::Up(live) => publisher::late(Some(live)),
            _ => publisher::late(None),
        }
    }

    async fn send(&self, batch: Vec<Outbound>, deadline: Instant) -> Vec<Result<Receipt>> {
        self.intake.publish(batch, deadline, || self.late()).await
    }

    /// The queue in which a retry waits, declared if it is not there yet.
    pub(crate) async fn retry_queue(&self, spec: &QueueSpec, delay: Duration) -> Result<String> {
        let Some(step) = event_core::retry_step(delay) else {
            return Ok(spec.name.to_string());
        };
        let name = names::retry(&spec.name, step);
        let known = (spec.name.clone(), step);
        if spec.kind == QueueKind::Durable && !self.retries().contains(&known) {
            let live = self.consuming(&format!("declare queue `{name}`")).await?;
            let on = channel::open(&live).await?;
            topology::retry(&on, &spec.name, step).await?;
            on.end().await;
            self.retries().insert(known);
        }
        Ok(name)
    }

    /// Queues for retries may be gone: they are declared again before they are used.
    pub(crate) fn forget_retries(&self, queue: &str) {
        self.retries().retain(|(known, _)| known.as_str() != queue);
    }

    fn retries(&self) -> MutexGuard<'_, HashSet<(QueueName, u64)>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        self.closing.cancel();
        // Whoever closes it a second time waits for the first, which may have been given up.
        let mut publisher = self.publisher.lock().await;
        let mut flushed = true;
        if let Some(running) = publisher.as_mut() {
            flushed = timeout_at(deadline, &mut *running).await.is_ok();
            if !flushed {
                running.abort();
            }
        }
        *publisher = None;
        // A moment more, for the server to hear of it.
        let end = deadline.max(Instant::now() + Duration::from_millis(200));
        tokio::join!(self.publish.close(end), self.consume.close(end));
        if flushed {
            Ok(())
        } else {
            Err(Error::retryable(
                ErrorKind::Timeout,
                "messages were still to be confirmed when the time to close was over; each publish has its answer",
            ))
        }
    }
}
