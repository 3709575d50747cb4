//! Kafka as event-core sees it.

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

/// Connections to a Kafka cluster: a producer, one that reads the topology topic, one for requests, and one for each
/// subscription. Each is made again when it is lost.
#[derive(Debug)]
pub struct KafkaTransport {
    shared: Arc<Shared>,
}

impl KafkaTransport {
    /// Connects to the Kafka that a URL names: `kafka://user:password@host:9092,host:9092/`.
    ///
    /// Without them the host is `localhost` and the port 9092. The hosts are only where to begin: the brokers say
    /// themselves where they are. Characters that mean something in a URL are written as `%2F` and so on.
    ///
    /// | option | meaning | default |
    /// | --- | --- | --- |
    /// | `topic` | how the topic of an exchange is called | `{exchange}` |
    /// | `topology` | the topic that holds queues and bindings | `switchboard.topology` |
    /// | `partitions` | how many partitions the topic of an exchange is made with | 6 |
    /// | `replication` | how many replicas topics are made with | the brokers' default for exchanges, 3 for the rest if there are as many |
    /// | `retention` | for how many hours topics of exchanges that are made keep records | the brokers' default |
    /// | `default_key` | the routing key of records of other programs that have none | empty |
    /// | `drain` | milliseconds that a partition which goes to another process waits for what has begun | 60000 |
    /// | `max_message` | the most bytes of a message | 1000000 |
    /// | `tls` | encrypts, with the feature `kafka-tls` | `false` |
    /// | `connection_timeout` | milliseconds until it is given up to connect | 5000 |
    /// | `cacertfile` | certificates of authorities, as PEM, instead of the system's | |
    /// | `certfile`, `keyfile` | the client's certificate and key, as PEM | |
    ///
    /// Other options are settings of librdkafka, such as `linger.ms`. Those that would break the contract are refused.
    ///
    /// # Errors
    /// [`InvalidUrl`](event_core::ErrorKind::InvalidUrl), [`Connection`](event_core::ErrorKind::Connection),
    /// [`Authentication`](event_core::ErrorKind::Authentication),
    /// [`Permission`](event_core::ErrorKind::Permission) and [`Tls`](event_core::ErrorKind::Tls). The password is in
    /// none of them.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            shared: Shared::connect(Endpoints::parse(url)?).await?,
        })
    }
}

#[async_trait]
impl Transport for KafkaTransport {
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
