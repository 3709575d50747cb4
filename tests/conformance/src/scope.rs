//! Names of its own for each case: what a case calls `order` is another exchange on the broker.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use event_core::{
    Arrival, Binding, Capabilities, ConnectionState, DeadLetter, DeadLetterId, DeadLetters,
    Deliveries, Delivery, DeliveryTag, ExchangeName, Message, QueueKind, QueueName, QueueSpec,
    Receipt, Removal, Result, Selection, Settle, Settled, Settlement, Subscription, Topology,
    Transport,
};
use tokio::{sync::watch, time::Instant};

/// What all connections of one case share: the prefix of its names, and the queues that it declared.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    prefix: Arc<str>,
    queues: Arc<Mutex<BTreeSet<QueueName>>>,
}

impl Scope {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            queues: Arc::default(),
        }
    }

    /// The queues that were declared, by their names on the broker.
    pub(crate) fn declared(&self) -> Vec<QueueName> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().cloned().collect()
    }

    /// A transport that gives everything names of this scope.
    pub(crate) fn around(&self, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        let scope = self.clone();
        Arc::new(Scoped { inner, scope })
    }

    fn exchange(&self, name: &ExchangeName) -> Result<ExchangeName> {
        ExchangeName::new(format!("{}{name}", self.prefix))
    }

    fn queue(&self, name: &str) -> Result<QueueName> {
        QueueName::new(format!("{}{name}", self.prefix))
    }

    fn binding(&self, binding: &Binding) -> Result<Binding> {
        let exchange = self.exchange(&binding.exchange)?;
        Ok(Binding {
            exchange,
            pattern: binding.pattern.clone(),
        })
    }

    fn spec(&self, spec: &QueueSpec) -> Result<QueueSpec> {
        let mut scoped = spec.clone();
        scoped.name = self.queue(&spec.name)?;
        scoped.bindings = spec
            .bindings
            .iter()
            .map(|binding| self.binding(binding))
            .collect::<Result<_>>()?;
        Ok(scoped)
    }

    fn out(&self, message: Message) -> Result<Message> {
        let exchange = self.exchange(message.exchange())?;
        Ok(readdress(&message, exchange))
    }

    fn back(&self, message: &Message) -> Message {
        let name = message.exchange().strip_prefix(&*self.prefix);
        // A message of another program's may carry any name.
        let exchange = name.and_then(|name| ExchangeName::new(name).ok());
        readdress(
            message,
            exchange.unwrap_or_else(|| message.exchange().clone()),
        )
    }
}

/// The same message with another exchange.
fn readdress(message: &Message, exchange: ExchangeName) -> Message {
    let mut copy = Message::new(exchange, message.key().clone(), message.payload().clone())
        .with_id(message.id().clone())
        .with_source(message.source())
        .with_content_type(message.content_type())
        .with_mandatory(message.is_mandatory());
    if let Some(time) = message.time() {
        copy = copy.with_time(time);
    }
    if let Some(key) = message.partition_key() {
        copy = copy.with_partition_key(key);
    }
    *copy.headers_mut() = message.headers().clone();
    copy
}

#[derive(Debug)]
struct Scoped<T: ?Sized> {
    scope: Scope,
    inner: T,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Transport for Scoped<Arc<dyn Transport>> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.state()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        let exchanges = topology
            .exchanges
            .iter()
            .map(|exchange| self.scope.exchange(exchange))
            .collect::<Result<_>>()?;
        let queues: Vec<_> = topology
            .queues
            .iter()
            .map(|queue| self.scope.spec(queue))
            .collect::<Result<_>>()?;
        {
            let mut declared = self
                .scope
                .queues
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let durable = queues
                .iter()
                .filter(|queue| queue.kind == QueueKind::Durable);
            declared.extend(durable.map(|queue| queue.name.clone()));
        }
        self.inner.declare(&Topology { exchanges, queues }).await
    }

    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        let count = batch.len();
        match batch
            .into_iter()
            .map(|message| self.scope.out(message))
            .collect()
        {
            Ok(batch) => self.inner.publish(batch, deadline).await,
            Err(error) => vec![Err(error); count],
        }
    }

    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription> {
        let Subscription {
            deliveries,
            settle,
            stop,
        } = self.inner.consume(&self.scope.spec(queue)?).await?;
        let scope = self.scope.clone();
        let deliveries = Box::new(Scoped {
            inner: deliveries,
            scope: scope.clone(),
        });
        let settle = Arc::new(Scoped {
            inner: settle,
            scope,
        });
        Ok(Subscription {
            deliveries,
            settle,
            stop,
        })
    }

    async fn remove(&self, removal: &Removal) -> Result<()> {
        let scope = &self.scope;
        let removal = match removal {
            Removal::Binding { queue, binding } => Removal::Binding {
                queue: scope.queue(queue)?,
                binding: scope.binding(binding)?,
            },
            Removal::OtherBindings { queue, keep } => Removal::OtherBindings {
                queue: scope.queue(queue)?,
                keep: keep
                    .iter()
                    .map(|binding| scope.binding(binding))
                    .collect::<Result<_>>()?,
            },
            Removal::Queue(queue) => Removal::Queue(scope.queue(queue)?),
            other => other.clone(),
        };
        self.inner.remove(&removal).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>> {
        let inner = self.inner.dead_letters(&self.scope.queue(queue)?).await?;
        let scope = self.scope.clone();
        Ok(Box::new(Scoped { inner, scope }))
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.inner.close(deadline).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Deliveries for Scoped<Box<dyn Deliveries>> {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        Ok(match self.inner.next(max).await? {
            Arrival::Batch(batch) => Arrival::Batch(
                batch
                    .into_iter()
                    .map(|delivery| {
                        Delivery::new(self.scope.back(delivery.message()), delivery.tag())
                            .with_redeliveries(delivery.redeliveries())
                            .with_suspicion(delivery.is_suspect())
                    })
                    .collect(),
            ),
            other => other,
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Settle for Scoped<Arc<dyn Settle>> {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let count = settlements.len();
        let out = |message: Box<Message>| self.scope.out(*message).map(Box::new);
        let settlements = settlements
            .into_iter()
            .map(|settlement| {
                Ok(match settlement {
                    Settlement::Retry {
                        tag,
                        message,
                        delay,
                    } => Settlement::Retry {
                        tag,
                        message: out(message)?,
                        delay,
                    },
                    Settlement::DeadLetter { tag, message } => Settlement::DeadLetter {
                        tag,
                        message: out(message)?,
                    },
                    other => other,
                })
            })
            .collect();
        match settlements {
            Ok(settlements) => self.inner.settle(settlements).await,
            Err(error) => vec![Err(error); count],
        }
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        self.inner.isolate(tag).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl DeadLetters for Scoped<Box<dyn DeadLetters>> {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let letters = self.inner.list(after, limit).await?;
        let back = |letter: DeadLetter| {
            DeadLetter::new(letter.id().clone(), self.scope.back(letter.message()))
        };
        Ok(letters.into_iter().map(back).collect())
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        self.inner.replay(selection).await
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        self.inner.purge(selection).await
    }
}
