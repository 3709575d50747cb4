//! Standing between the framework and a transport, to interfere in one place.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use event_core::{
    Arrival, Capabilities, ConnectionState, DeadLetter, DeadLetterId, DeadLetters, Deliveries,
    DeliveryTag, Message, QueueSpec, Receipt, Removal, Result, Selection, Settle, Settled,
    Settlement, Subscription, Topology, Transport,
};
use tokio::{sync::watch, time::Instant};

/// What is done differently. Each method is given the real thing and by default does just that.
#[async_trait]
pub trait Intercept: fmt::Debug + Send + Sync + 'static {
    /// What the backend says that it can do.
    fn capabilities<'a>(&'a self, inner: &'a dyn Transport) -> &'a Capabilities {
        inner.capabilities()
    }

    /// Declares.
    async fn declare(&self, inner: &dyn Transport, topology: &Topology) -> Result<()> {
        inner.declare(topology).await
    }

    /// Publishes.
    async fn publish(
        &self,
        inner: &dyn Transport,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Receipt>> {
        inner.publish(batch, deadline).await
    }

    /// Starts to consume; what comes and goes passes [`next`](Self::next) and [`settle`](Self::settle).
    async fn consume(&self, inner: &dyn Transport, queue: &QueueSpec) -> Result<Subscription> {
        inner.consume(queue).await
    }

    /// Reads.
    async fn next(
        &self,
        inner: &mut dyn Deliveries,
        _settle: &dyn Settle,
        max: usize,
    ) -> Result<Arrival> {
        inner.next(max).await
    }

    /// Settles.
    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        inner.settle(settlements).await
    }

    /// Records a run alone.
    async fn isolate(&self, inner: &dyn Settle, tag: DeliveryTag) -> Result<u32> {
        inner.isolate(tag).await
    }

    /// Removes.
    async fn remove(&self, inner: &dyn Transport, removal: &Removal) -> Result<()> {
        inner.remove(removal).await
    }

    /// Opens the dead letters of a queue.
    async fn dead_letters(
        &self,
        inner: &dyn Transport,
        queue: &str,
    ) -> Result<Box<dyn DeadLetters>> {
        inner.dead_letters(queue).await
    }

    /// Lists dead letters.
    async fn list(
        &self,
        inner: &dyn DeadLetters,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        inner.list(after, limit).await
    }

    /// Replays dead letters.
    async fn replay(&self, inner: &dyn DeadLetters, selection: &Selection) -> Result<u64> {
        inner.replay(selection).await
    }
}

/// A transport with an [`Intercept`] before it.
#[derive(Debug)]
pub struct Intercepted<I: ?Sized, T: ?Sized = Arc<dyn Transport>> {
    intercept: Arc<I>,
    inner: T,
}

impl<I: Intercept> Intercepted<I> {
    /// Puts it around a transport.
    pub fn around(inner: Arc<dyn Transport>, intercept: I) -> Arc<dyn Transport> {
        let intercept = Arc::new(intercept);
        Arc::new(Self { intercept, inner })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<I: Intercept> Transport for Intercepted<I> {
    fn capabilities(&self) -> &Capabilities {
        self.intercept.capabilities(&*self.inner)
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.state()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.intercept.declare(&*self.inner, topology).await
    }

    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        self.intercept.publish(&*self.inner, batch, deadline).await
    }

    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription> {
        let Subscription {
            deliveries,
            settle,
            stop,
        } = self.intercept.consume(&*self.inner, queue).await?;
        let intercept = self.intercept.clone();
        let reader = Reader {
            intercept: intercept.clone(),
            deliveries,
            settle: settle.clone(),
        };
        let settle = Intercepted {
            intercept,
            inner: settle,
        };
        Ok(Subscription {
            deliveries: Box::new(reader),
            settle: Arc::new(settle),
            stop,
        })
    }

    async fn remove(&self, removal: &Removal) -> Result<()> {
        self.intercept.remove(&*self.inner, removal).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>> {
        let inner = self.intercept.dead_letters(&*self.inner, queue).await?;
        let intercept = self.intercept.clone();
        Ok(Box::new(Intercepted { intercept, inner }))
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.inner.close(deadline).await
    }
}

/// A reader with what settles, for intercepts that settle while they read.
#[derive(Debug)]
struct Reader<I> {
    intercept: Arc<I>,
    deliveries: Box<dyn Deliveries>,
    settle: Arc<dyn Settle>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<I: Intercept> Deliveries for Reader<I> {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        self.intercept
            .next(&mut *self.deliveries, &*self.settle, max)
            .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<I: Intercept> Settle for Intercepted<I, Arc<dyn Settle>> {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        self.intercept.settle(&*self.inner, settlements).await
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        self.intercept.isolate(&*self.inner, tag).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<I: Intercept> DeadLetters for Intercepted<I, Box<dyn DeadLetters>> {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.intercept.list(&*self.inner, after, limit).await
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        self.intercept.replay(&*self.inner, selection).await
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        self.inner.purge(selection).await
    }
}
