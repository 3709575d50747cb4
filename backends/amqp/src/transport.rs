//! RabbitMQ as event-core sees it.

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

/// Two connections to RabbitMQ, one to publish and one to consume, each made again when it is lost.
#[derive(Debug)]
pub struct AmqpTransport {
    shared: Arc<Shared>,
}

impl AmqpTransport {
    /// Connects to the RabbitMQ that a URL names: `amqp://user:password@host:5672/vhost`, or `amqps://` for TLS.
    ///
    /// Several hosts stand behind each other, with commas between them: the first that answers is used, and
    /// another one when its connection is lost. Without them, user and password are `guest`, the host is
    /// `localhost`, the port 5672 (5671 with TLS) and the vhost `/`. Characters that mean something in a URL are
    /// written as `%2F` and so on.
    ///
    /// | option | meaning | default |
    /// | --- | --- | --- |
    /// | `heartbeat` | seconds between signs of life; a peer that is silent for twice as long is gone | 10 |
    /// | `connection_timeout` | milliseconds until a host that does not answer is given up | 5000 |
    /// | `consumer_timeout` | milliseconds that the server lets a delivery be unsettled, if that was changed there | 1800000 |
    /// | `cacertfile` | certificates of authorities, as PEM, instead of the system's | |
    /// | `certfile`, `keyfile` | the client's certificate and key, as PEM | |
    /// | `auth_mechanism` | `plain`, `amqplain`, or `external` for the certificate's name | `plain` |
    ///
    /// # Errors
    /// [`InvalidUrl`](event_core::ErrorKind::InvalidUrl), [`Connection`](event_core::ErrorKind::Connection),
    /// [`Authentication`](event_core::ErrorKind::Authentication),
    /// [`NotFound`](event_core::ErrorKind::NotFound) and [`Permission`](event_core::ErrorKind::Permission) for the
    /// vhost, [`Tls`](event_core::ErrorKind::Tls). The password is in none of them.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            shared: Shared::connect(Endpoints::parse(url)?).await?,
        })
    }
}

#[async_trait]
impl Transport for AmqpTransport {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        let live = self.shared.consuming("declare the topology").await?;
        topology::declare(&live, topology).await?;
        self.shared.declared.add(topology);
        for spec in &topology.queues {
            self.shared.forget_retries(&spec.name);
        }
        Ok(())
    }

    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        self.shared.publish(batch, deadline).await
    }

    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription> {
        subscription::open(&self.shared, queue).await
    }

    async fn remove(&self, removal: &Removal) -> Result<()> {
        let live = self.shared.consuming("remove from the topology").await?;
        if let Removal::Queue(queue) = removal {
            let forwarding = self.shared.declared.forwarding(queue);
            topology::settle_down(&live, &forwarding).await?;
        }
        // First, so that it is not declared again behind its back.
        self.shared.declared.forget(removal);
        topology::remove(&live, removal).await?;
        if let Removal::Queue(queue) = removal {
            self.shared.forget_retries(queue);
        }
        Ok(())
    }

    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>> {
        Ok(Box::new(Letters::open(&self.shared, queue).await?))
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.shared.close(deadline).await
    }
}
