//! A connection to the memory broker, as event-core sees it.

use std::sync::Arc;

use async_trait::async_trait;
use event_core::{
    Capabilities, ConnectionState, DeadLetters, Message, QueueSpec, Receipt, Removal, Result,
    Subscription, Topology, Transport,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    broker::MemoryBroker, connection::Connection, dead_letters::Letters, error,
    publishing::Published, subscription, url,
};

/// The memory broker does all of the contract by itself.
static CAPABILITIES: Capabilities = Capabilities::new("memory");

/// One connection to a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryTransport {
    connection: Arc<Connection>,
}

impl MemoryTransport {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// Connects to the broker that a URL names: `memory://` is a fresh one, `memory://name` the one of this
    /// name in this process, which lives as long as somebody uses it.
    ///
    /// # Errors
    /// [`InvalidUrl`](event_core::ErrorKind::InvalidUrl) when there is anything else in the URL.
    pub fn open(url: &str) -> Result<Self> {
        Ok(url::broker(url)?.connect())
    }

    /// The broker that it is connected to.
    pub fn broker(&self) -> MemoryBroker {
        MemoryBroker {
            shared: self.connection.shared.clone(),
        }
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.connection.state()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.connection.ask(|state| state.declare(topology))
    }

    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        let count = batch.len();
        if let Err(closed) = self.connection.check_open() {
            return vec![Err(closed); count];
        }
        if deadline <= Instant::now() {
            return vec![Err(error::deadline()); count];
        }
        let connection = self.connection.id;
        let published = self
            .connection
            .shared
            .update(|state| state.begin_publish(connection, batch, deadline));
        match published {
            Published::Now(results) => {
                // A broker that always answers at once would otherwise keep its thread from everyone else.
                tokio::task::consume_budget().await;
                results
            }
            Published::Later(answer) => match timeout_at(deadline, answer).await {
                Ok(Ok(results)) => results,
                // Given up without an answer.
                Ok(Err(_)) => vec![
                    Err(self
                        .connection
                        .check_open()
                        .err()
                        .unwrap_or_else(error::deadline));
                    count
                ],
                Err(_) => vec![Err(error::deadline()); count],
            },
        }
    }

    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription> {
        subscription::open(&self.connection, queue)
    }

    async fn remove(&self, removal: &Removal) -> Result<()> {
        self.connection.ask(|state| state.remove(removal))
    }

    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>> {
        Ok(Box::new(Letters::open(&self.connection, queue)?))
    }

    async fn close(&self, _deadline: Instant) -> Result<()> {
        self.connection.close();
        Ok(())
    }
}
