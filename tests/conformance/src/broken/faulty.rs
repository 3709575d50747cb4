//! What each fault does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Binding, DeadLetters, Deliveries, Delivery, DeliveryTag, Message, Pattern, QueueKind,
    QueueName, QueueSpec, Receipt, Removal, Result, Selection, Settle, Settled, Settlement,
    Subscription, Topology, Transport,
};
use tokio::time::{Instant, sleep};

use super::Fault;
use crate::intercept::Intercept;

/// One fault at work.
#[derive(Debug)]
pub(super) struct Faulty {
    fault: Fault,
    /// The real transport, for what is published behind the framework's back.
    inner: Arc<dyn Transport>,
    memory: Mutex<Memory>,
}

/// What a fault has to remember.
#[derive(Debug, Default)]
struct Memory {
    published: u64,
    declared: HashSet<QueueName>,
    lease: Duration,
    held: HashMap<DeliveryTag, Message>,
    settle: Vec<Weak<dyn Settle>>,
}

/// Where the framework counts attempts.
const ATTEMPT: &str = "switchboard-attempt";

/// Longer than any case waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

impl Faulty {
    pub(super) fn new(fault: Fault, inner: Arc<dyn Transport>) -> Self {
        Self {
            fault,
            inner,
            memory: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a copy as if it came from its sender.
    async fn requeue(inner: &dyn Transport, message: Message) {
        // Nobody is told how it went: that is part of the fault.
        let _ = inner
            .publish(vec![message], Instant::now() + Duration::from_secs(10))
            .await;
    }

    /// Whether it is the third publish of three.
    fn is_third(&self) -> bool {
        let mut memory = self.memory();
        memory.published += 1;
        memory.published.is_multiple_of(3)
    }

    /// What a release becomes when it counts as an attempt.
    fn counted(&self, tag: DeliveryTag) -> Settlement {
        let Some(mut message) = self.memory().held.remove(&tag) else {
            return Settlement::Release(tag);
        };
        let attempt = Delivery::new(message.clone(), tag).attempt() + 1;
        message.headers_mut().set(ATTEMPT, attempt.to_string());
        Settlement::Retry {
            tag,
            message: Box::new(message),
            delay: Duration::ZERO,
        }
    }

    async fn settle_one(&self, inner: &dyn Settle, settlement: Settlement) -> Result<Settled> {
        let instead = match (self.fault, settlement) {
            (Fault::DropsAcks, Settlement::Ack(_)) => return Ok(Settled::Done),
            // It was done when it was read.
            (Fault::AcksBeforeHandling, Settlement::Ack(_)) => return Ok(Settled::Done),
            (Fault::LosesReleases, Settlement::Release(tag)) => Settlement::Ack(tag),
            (Fault::CountsReleases, Settlement::Release(tag)) => self.counted(tag),
            (Fault::LosesDeadLetters, Settlement::DeadLetter { tag, .. }) => Settlement::Ack(tag),
            (
                Fault::RetriesEarly,
                Settlement::Retry {
                    tag,
                    message,
                    delay,
                },
            ) => Settlement::Retry {
                tag,
                message,
                delay: delay / 2,
            },
            (
                Fault::ForgetsAttempts,
                Settlement::Retry {
                    tag,
                    mut message,
                    delay,
                },
            ) => {
                message.headers_mut().remove(ATTEMPT);
                Settlement::Retry {
                    tag,
                    message,
                    delay,
                }
            }
            (
                Fault::RetriesThroughTheExchange,
                Settlement::Retry {
                    tag,
                    message,
                    delay,
                },
            ) => {
                let done = settle_alone(inner, Settlement::Ack(tag)).await?;
                // Where a process may be killed.
                tokio::task::yield_now().await;
                let inner = self.inner.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    Self::requeue(&*inner, *message).await;
                });
                return Ok(done);
            }
            (_, settlement) => settlement,
        };
        let settled = settle_alone(inner, instead).await?;
        Ok(match self.fault {
            Fault::HidesLostSettlements => Settled::Done,
            _ => settled,
        })
    }
}

async fn settle_alone(inner: &dyn Settle, settlement: Settlement) -> Result<Settled> {
    inner
        .settle(vec![settlement])
        .await
        .pop()
        .unwrap_or(Ok(Settled::Lost))
}

#[async_trait]
impl Intercept for Faulty {
    async fn declare(&self, inner: &dyn Transport, topology: &Topology) -> Result<()> {
        let mut topology = topology.clone();
        if self.fault == Fault::RoutesHashAsOneOrMore {
            for queue in &mut topology.queues {
                queue.bindings.iter_mut().for_each(narrow);
            }
        }
        if self.fault == Fault::DeclaresLater {
            let mut memory = self.memory();
            let names = topology.queues.iter().map(|queue| queue.name.clone());
            let known = names
                .filter(|name| !memory.declared.insert(name.clone()))
                .count();
            if known > 0 {
                let inner = self.inner.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_millis(50)).await;
                    // Nobody is told how it went: that is part of the fault.
                    let _ = inner.declare(&topology).await;
                });
                return Ok(());
            }
        }
        inner.declare(&topology).await?;
        if self.fault == Fault::PrunesAtDeclaration {
            for queue in topology
                .queues
                .iter()
                .filter(|queue| queue.kind == QueueKind::Durable)
            {
                let removal = Removal::OtherBindings {
                    queue: queue.name.clone(),
                    keep: queue.bindings.clone(),
                };
                inner.remove(&removal).await?;
            }
        }
        Ok(())
    }

    async fn publish(
        &self,
        inner: &dyn Transport,
        mut batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        match self.fault {
            Fault::ConfirmsWithoutStoring => {
                let mut results = Vec::with_capacity(batch.len());
                for message in batch {
                    if self.is_third() {
                        results.push(Ok(Receipt::new(message.id().clone(), Some(1))));
                    } else {
                        results.extend(inner.publish(vec![message], deadline).await);
                    }
                }
                results
            }
            Fault::StoresTwice => {
                let doubled = batch
                    .iter()
                    .flat_map(|message| [message.clone(), message.clone()]);
                let results = inner.publish(doubled.collect(), deadline).await;
                results.into_iter().step_by(2).collect()
            }
            Fault::IgnoresMandatory => {
                let batch = batch
                    .into_iter()
                    .map(|message| message.with_mandatory(false));
                inner.publish(batch.collect(), deadline).await
            }
            Fault::IgnoresDeadlines => inner.publish(batch, Instant::now() + FOR_EVER).await,
            Fault::DropsWithTheFuture => {
                tokio::task::yield_now().await;
                inner.publish(batch, deadline).await
            }
            Fault::MixesUpResults => {
                let mut results = inner.publish(batch, deadline).await;
                results.reverse();
                results
            }
            Fault::LosesHeaders => {
                for message in &mut batch {
                    message.headers_mut().retain(|_| false);
                }
                inner.publish(batch, deadline).await
            }
            _ => inner.publish(batch, deadline).await,
        }
    }

    async fn consume(&self, inner: &dyn Transport, queue: &QueueSpec) -> Result<Subscription> {
        let mut queue = queue.clone();
        self.memory().lease = queue.lease;
        if self.fault == Fault::RoutesHashAsOneOrMore {
            queue.bindings.iter_mut().for_each(narrow);
        }
        let subscription = inner.consume(&queue).await?;
        // Weak, so that dropping the subscription is still a crash.
        self.memory()
            .settle
            .push(Arc::downgrade(&subscription.settle));
        Ok(subscription)
    }

    async fn next(
        &self,
        inner: &mut dyn Deliveries,
        settle: &dyn Settle,
        max: usize,
    ) -> Result<Arrival> {
        let asked = match self.fault {
            Fault::OverfillsBatches => max * 2,
            _ => max,
        };
        let mut batch = match inner.next(asked).await? {
            Arrival::Batch(batch) => batch,
            Arrival::Ended if self.fault == Fault::NeverEnds => std::future::pending().await,
            other => return Ok(other),
        };
        match self.fault {
            Fault::AcksBeforeHandling => {
                let acks = batch.iter().map(|delivery| Settlement::Ack(delivery.tag()));
                for settled in settle.settle(acks.collect()).await {
                    settled?;
                }
            }
            Fault::Reorders => batch.reverse(),
            Fault::ForgetsToRenew => {
                let all = self.memory().settle.clone();
                let lease = self.memory().lease;
                let releases: Vec<_> = batch
                    .iter()
                    .map(|delivery| Settlement::Release(delivery.tag()))
                    .collect();
                tokio::spawn(async move {
                    sleep(lease).await;
                    // Those that were settled in time, and those of other subscriptions, are `Lost`.
                    for settle in all.iter().filter_map(Weak::upgrade) {
                        let _ = settle.settle(releases.clone()).await;
                    }
                });
            }
            Fault::CountsReleases => {
                let held = batch
                    .iter()
                    .map(|delivery| (delivery.tag(), delivery.message().clone()));
                self.memory().held.extend(held);
            }
            Fault::NeverSuspects => {
                for delivery in &mut batch {
                    *delivery = unsuspected(delivery);
                }
            }
            _ => {}
        }
        Ok(Arrival::Batch(batch))
    }

    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        if self.fault == Fault::MixesUpResults {
            let mut results = inner.settle(settlements).await;
            results.reverse();
            return results;
        }
        let mut results = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            results.push(self.settle_one(inner, settlement).await);
        }
        results
    }

    async fn isolate(&self, inner: &dyn Settle, tag: DeliveryTag) -> Result<u32> {
        let crashes = inner.isolate(tag).await?;
        Ok(match self.fault {
            Fault::CondemnsNeighbours => crashes + 5,
            _ => crashes,
        })
    }

    async fn remove(&self, inner: &dyn Transport, removal: &Removal) -> Result<()> {
        let mut removal = removal.clone();
        if self.fault == Fault::RoutesHashAsOneOrMore {
            match &mut removal {
                Removal::Binding { binding, .. } => narrow(binding),
                Removal::OtherBindings { keep, .. } => keep.iter_mut().for_each(narrow),
                _ => {}
            }
        }
        inner.remove(&removal).await
    }

    async fn replay(&self, inner: &dyn DeadLetters, selection: &Selection) -> Result<u64> {
        if self.fault != Fault::ReplaysThroughTheExchange {
            return inner.replay(selection).await;
        }
        let letters = inner.list(None, 1_000).await?;
        let selected = letters.into_iter().filter(|letter| match selection {
            Selection::All => true,
            Selection::Ids(ids) => ids.contains(letter.id()),
        });
        for letter in selected {
            Self::requeue(&*self.inner, letter.into_replay()).await;
        }
        inner.purge(selection).await
    }
}

/// Lets `#` stand for one word at least.
fn narrow(binding: &mut Binding) {
    let words: Vec<_> = binding
        .pattern
        .as_str()
        .split('.')
        .map(|word| if word == "#" { "*.#" } else { word })
        .collect();
    // Two bytes longer, which may be too long: then it is right for once.
    if let Ok(pattern) = Pattern::new(words.join(".")) {
        binding.pattern = pattern;
    }
}

fn unsuspected(delivery: &Delivery) -> Delivery {
    Delivery::new(delivery.message().clone(), delivery.tag())
        .with_redeliveries(delivery.redeliveries())
}
