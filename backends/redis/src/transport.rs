//! Redis as event-core sees it.

use std::sync::Arc;

use async_trait::async_trait;
use event_core::{
    Capabilities, ConnectionState, DeadLetters, Message, QueueSpec, Receipt, Removal, Result,
    Subscription, Topology, Transport,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    capabilities::CAPABILITIES, dead_letters::Letters, shared::Shared, subscription, topology,
    url::Endpoints,
};

/// Connections to Redis: one to publish, one for requests, and one for each stream that is read. Each is made again
/// when it is lost.
#[derive(Debug)]
pub struct RedisTransport {
    shared: Arc<Shared>,
}

impl RedisTransport {
    /// Connects to the Redis that a URL names: `redis://user:password@host:6379/0`, `rediss://` for TLS, or
    /// `redis+unix:///path` for a socket.
    ///
    /// Without them the host is `localhost`, the port 6379 and the database 0. Several hosts stand behind each
    /// other, with commas between them: Sentinels with `sentinel`, nodes with `cluster`, otherwise servers of which
    /// the first that answers is used. Characters that mean something in a URL are written as `%2F` and so on.
    ///
    /// | option | meaning | default |
    /// | --- | --- | --- |
    /// | `sentinel` | the name of the master; the hosts are Sentinels | |
    /// | `sentinel_user`, `sentinel_password` | for the Sentinels | |
    /// | `cluster` | the hosts are nodes of a Redis Cluster | `false` |
    /// | `db` | the database, where the path does not say it | 0 |
    /// | `prefix` | what all keys begin with | `switchboard` |
    /// | `wait` | how many replicas have to have a message before it counts as published | 0 |
    /// | `wait_timeout` | milliseconds that this may take | 1000 |
    /// | `require_durable` | refuses a server that forgets with a restart, or deletes what does not fit | `false` |
    /// | `max_message` | the most bytes of a payload | what the server takes |
    /// | `heartbeat` | seconds between signs of life; a peer that is silent for twice as long is gone | 5 |
    /// | `connection_timeout` | milliseconds until a host that does not answer is given up | 5000 |
    /// | `cacertfile` | certificates of authorities, as PEM, instead of the system's | |
    /// | `certfile`, `keyfile` | the client's certificate and key, as PEM | |
    ///
    /// # Errors
    /// [`InvalidUrl`](event_core::ErrorKind::InvalidUrl), [`Connection`](event_core::ErrorKind::Connection),
    /// [`Authentication`](event_core::ErrorKind::Authentication),
    /// [`Permission`](event_core::ErrorKind::Permission), [`Tls`](event_core::ErrorKind::Tls),
    /// [`NotFound`](event_core::ErrorKind::NotFound) for a database or a master, and
    /// [`Setup`](event_core::ErrorKind::Setup) for what `require_durable` refuses. The password is in none of them.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            shared: Shared::connect(Endpoints::parse(url)?).await?,
        })
    }
}

#[async_trait]
impl Transport for RedisTransport {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.shared.check_open()?;
        topology::declare(&self.shared, topology).await
    }

    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        self.shared.publish(batch, deadline).await
    }

    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription> {
        subscription::open(&self.shared, queue).await
    }

    async fn remove(&self, removal: &Removal) -> Result<()> {
        self.shared.check_open()?;
        topology::remove(&self.shared, removal).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>> {
        Ok(Box::new(Letters::open(&self.shared, queue).await?))
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.shared.close(deadline).await
    }
}
