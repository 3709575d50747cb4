//! A subscription: the reader, and what settles.

use std::sync::Arc;

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, DeliveryTag, QueueName, QueueSpec, Result, Settle, Settled, Settlement,
    Subscription,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{connection::Connection, error, queue, queue::Taken, state::ConsumerRef};

/// What the reader and the settler of a subscription share. When both are dropped, the process has crashed
/// as far as the broker sees, and the lease begins to run out.
#[derive(Debug)]
struct Link {
    connection: Arc<Connection>,
    consumer: ConsumerRef,
    queue: QueueName,
}

#[derive(Debug)]
struct Reader {
    link: Arc<Link>,
    wake: Arc<Notify>,
    stop: CancellationToken,
}

pub(crate) fn open(connection: &Arc<Connection>, spec: &QueueSpec) -> Result<Subscription> {
    let (consumer, wake) = connection.ask(|state| state.consume(connection.id, spec))?;
    let link = Arc::new(Link {
        connection: connection.clone(),
        consumer,
        queue: spec.name.clone(),
    });
    let stop = CancellationToken::new();
    let reader = Reader {
        link: link.clone(),
        wake,
        stop: stop.clone(),
    };
    Ok(Subscription {
        deliveries: Box::new(reader),
        settle: link,
        stop,
    })
}

impl Link {
    fn take(&self, max: usize) -> Result<Taken> {
        self.connection.check_open()?;
        let taken = self
            .connection
            .shared
            .update(|state| state.take(self.consumer, max));
        match taken {
            None => Err(error::deleted(&self.queue)),
            Some(Taken::Closed) => Err(error::closed()),
            Some(taken) => Ok(taken),
        }
    }

    fn end(&self) {
        self.connection
            .shared
            .update(|state| state.end(self.consumer));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection
            .shared
            .update(|state| state.abandon(self.consumer));
    }
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        // A broker that always has something would otherwise keep its thread from everyone else.
        tokio::task::consume_budget().await;
        loop {
            if self.stop.is_cancelled() {
                self.link.end();
                return Ok(Arrival::Ended);
            }
            let due = match self.link.take(max)? {
                Taken::Arrival(arrival) => return Ok(arrival),
                Taken::Wait(due) => due,
                Taken::Closed => return Err(error::closed()),
            };
            let waiting = Waiting(&self.link);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = reached(due) => {}
            }
            // The next look tells the queue that this reader is back.
            std::mem::forget(waiting);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.link.end();
    }
}

/// A reader that waits. If its future is dropped meanwhile, another one is woken in its place.
struct Waiting<'a>(&'a Link);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let consumer = self.0.consumer;
        self.0
            .connection
            .shared
            .update(|state| state.leave(consumer));
    }
}

/// Waits for this time, or for ever.
pub(crate) async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[async_trait]
impl Settle for Link {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        match self.connection.check_open() {
            Ok(()) => self
                .connection
                .shared
                .update(|state| state.settle(self.consumer, settlements)),
            Err(closed) => queue::all(&settlements, || Err(closed.clone())),
        }
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        self.connection
            .ask(|state| state.isolate(self.consumer, tag))
    }
}
