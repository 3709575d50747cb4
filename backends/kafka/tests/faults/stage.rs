//! What a fault is tried on: a Kafka, a line to it that breaks, and names of the test's own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use event_conformance::{Broker, CaseResult, Consumer, Failure, Stage, Stages, ensure, publish};
use event_core::{Delivery, Transport};
use event_kafka::KafkaTransport;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigResource, NewPartitions, ResourceSpecifier,
    },
    client::DefaultClientContext,
    config::FromClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::OwnedHeaders,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::task::spawn_blocking;

/// The lease of the queues, unless a test says otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long the client of a test itself waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Few partitions, silence that is noticed within a test, and members that do not wait long for each other.
pub(crate) const OPTIONS: &str = "?partitions=3&drain=3000&socket.timeout.ms=2000";

pub(crate) static KAFKA: Stages = Stages::new("kafka", "KAFKA_URL", connect)
    .with_lease(LEASE)
    .with_limit(Duration::from_secs(120));

/// Three brokers that replicate.
pub(crate) static CLUSTER: Stages = Stages::new("kafka-cluster", "KAFKA_CLUSTER_URL", connect)
    .with_lease(LEASE)
    .with_limit(Duration::from_secs(120));

fn connect(
    url: String,
) -> futures_util::future::BoxFuture<'static, event_core::Result<Arc<dyn Transport>>> {
    Box::pin(
        async move { Ok(Arc::new(KafkaTransport::connect(&url).await?) as Arc<dyn Transport>) },
    )
}

/// Tries something on the Kafka that all tests share.
pub(crate) async fn on_kafka(
    name: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    KAFKA.shared(name, OPTIONS, test).await
}

/// The same with more options, as a URL has them after others.
pub(crate) async fn on_kafka_with(
    name: &str,
    options: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    KAFKA
        .shared(name, &format!("?socket.timeout.ms=2000&{options}"), test)
        .await
}

/// Tries something on a Kafka of its own.
pub(crate) async fn on_own_kafka(
    name: &str,
    test: impl AsyncFnOnce(&Stage, &Broker) -> CaseResult,
) -> CaseResult {
    KAFKA.own(name, OPTIONS, async |_| Ok(()), test).await
}

/// A consumer of `billing_order` whose line is the proxy's, with this many orders in its hands.
pub(crate) async fn holds(at: &Stage, count: u64) -> CaseResult<(Consumer, Vec<Delivery>)> {
    let spec = at.cx.spec("billing_order", &["order.*.submit"])?;
    at.direct.declare(&[&spec]).await?;
    let mut consumer = at.cx.consume(&at.cx.process().await?, &spec).await?;
    publish(at.direct.bus(), 1..=count).await?;
    let held = consumer.take(usize::try_from(count)?).await?;
    Ok((consumer, held))
}

/// The first offset of a partition that is there and the one of the next record, when it has a leader.
fn watermarks(
    asking: &BaseConsumer,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        match asking.fetch_watermarks(topic, partition, PATIENCE) {
            Err(KafkaError::MetadataFetch(
                Code::NotLeaderForPartition | Code::LeaderNotAvailable | Code::UnknownLeaderEpoch,
            )) if std::time::Instant::now() < until => {}
            found => return found,
        }
    }
}

/// Asks and changes the brokers without the framework.
#[derive(Clone)]
pub(crate) struct Admin {
    config: ClientConfig,
    client: Arc<AdminClient<DefaultClientContext>>,
    asking: Arc<BaseConsumer>,
}

impl Admin {
    /// A client of the brokers of a stage.
    pub(crate) fn of(at: &Stage) -> CaseResult<Self> {
        let mut config = ClientConfig::new();
        let hosts = at.url().trim_start_matches("kafka://");
        config.set("bootstrap.servers", hosts.trim_end_matches('/'));
        Ok(Self {
            client: Arc::new(AdminClient::from_config(&config)?),
            asking: Arc::new(BaseConsumer::from_config(&config)?),
            config,
        })
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer) -> Result<T, KafkaError> + Send + 'static,
    ) -> CaseResult<T> {
        let asking = self.asking.clone();
        Ok(spawn_blocking(move || question(&asking)).await??)
    }

    /// The first offset that is there and the one of the next record, of each partition of a topic. Nothing when there
    /// is no such topic.
    pub(crate) async fn bounds(&self, topic: &str) -> CaseResult<Vec<(i64, i64)>> {
        let topic = topic.to_owned();
        self.ask(move |asking| {
            let metadata = asking.fetch_metadata(Some(&topic), PATIENCE)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let found = found.filter(|found| found.error().is_none());
            let partitions = found.map_or(0, |found| found.partitions().len());
            (0..i32::try_from(partitions).unwrap_or(i32::MAX))
                .map(|partition| watermarks(asking, &topic, partition))
                .collect()
        })
        .await
    }

    /// How many records were ever stored in a topic.
    pub(crate) async fn stored(&self, topic: &str) -> CaseResult<i64> {
        Ok(self.bounds(topic).await?.iter().map(|(_, end)| end).sum())
    }

    /// What a group has committed of each partition of a topic, with its metadata.
    pub(crate) async fn committed(
        &self,
        group: &str,
        topic: &str,
    ) -> CaseResult<Vec<(Option<i64>, String)>> {
        let partitions = self.bounds(topic).await?.len();
        let mut config = self.config.clone();
        config.set("group.id", group);
        let topic = topic.to_owned();
        let committed = spawn_blocking(move || {
            let member = BaseConsumer::from_config(&config)?;
            let mut asked = TopicPartitionList::new();
            for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
                asked.add_partition(&topic, partition);
            }
            member.committed_offsets(asked, PATIENCE)
        })
        .await??;
        let each = committed.elements().into_iter().map(|element| {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            (offset, element.metadata().to_owned())
        });
        Ok(each.collect())
    }

    pub(crate) async fn delete_topic(&self, topic: &str) -> CaseResult {
        let deleted = self.client.delete_topics(&[topic], &options()).await?;
        each(deleted)
    }

    /// Deletes a topic that nobody makes again by himself, and waits until it is gone: a broker takes records for one
    /// that it is about to delete.
    pub(crate) async fn delete_topic_for_good(&self, at: &Stage, topic: &str) -> CaseResult {
        self.delete_topic(topic).await?;
        let is_gone = || async { Ok(self.bounds(topic).await?.is_empty()) };
        at.direct.until("the topic to be gone", is_gone).await
    }

    pub(crate) async fn delete_group(&self, group: &str) -> CaseResult {
        let deleted = self.client.delete_groups(&[group], &options()).await?;
        each(deleted)
    }

    /// Gives a topic so many partitions in all.
    pub(crate) async fn grow(&self, topic: &str, partitions: usize) -> CaseResult {
        let more = NewPartitions::new(topic, partitions);
        let made = self.client.create_partitions([&more], &options()).await?;
        each(made)
    }

    /// Sets one of a topic's settings.
    pub(crate) async fn set(&self, topic: &str, name: &str, value: &str) -> CaseResult {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        for changed in self.client.alter_configs([&change], &options()).await? {
            changed.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        // The controller has it, and the broker a moment later.
        let of = [&ResourceSpecifier::Topic(topic)];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.client.describe_configs(of, &options()).await?;
            let is_set = |resource: &ConfigResource| {
                let entry = resource.get(name);
                entry.is_some_and(|entry| entry.value.as_deref() == Some(value))
            };
            if found.iter().flatten().any(is_set) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "`{name}` is not set");
        }
    }

    /// Removes the records of a partition before an offset.
    pub(crate) async fn remove(&self, topic: &str, partition: i32, before: i64) -> CaseResult {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let removed = self.client.delete_records(&list, &options()).await?;
        for partition in removed.elements() {
            partition.error()?;
        }
        Ok(())
    }

    /// Stores a record within a transaction, which is left open.
    pub(crate) async fn begin(&self, topic: &str, payload: Vec<u8>) -> CaseResult<BaseProducer> {
        let (mut config, topic) = (self.config.clone(), topic.to_owned());
        config.set("transactional.id", &topic);
        let producer = spawn_blocking(move || {
            let producer: BaseProducer = config.create()?;
            producer.init_transactions(PATIENCE)?;
            producer.begin_transaction()?;
            let record = BaseRecord::<str, [u8]>::to(&topic).payload(&payload);
            producer.send(record).map_err(|(error, _)| error)?;
            producer.flush(PATIENCE)?;
            Ok::<_, KafkaError>(producer)
        });
        Ok(producer.await??)
    }

    /// Stores records as another program does, with these keys and values, and waits until they are there.
    pub(crate) async fn produce(
        &self,
        topic: &str,
        records: Vec<(Option<String>, Vec<u8>, Option<OwnedHeaders>)>,
    ) -> CaseResult {
        let (config, topic) = (self.config.clone(), topic.to_owned());
        spawn_blocking(move || {
            let producer = BaseProducer::from_config(&config)?;
            for (key, value, headers) in &records {
                let mut record = BaseRecord::<str, [u8]>::to(&topic).payload(value);
                record.key = key.as_deref();
                record.headers = headers.clone();
                producer.send(record).map_err(|(error, _)| error)?;
            }
            producer.flush(PATIENCE)
        })
        .await??;
        Ok(())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}

fn each(results: Vec<Result<String, (String, Code)>>) -> CaseResult {
    for result in results {
        if let Err((of, code)) = result {
            return Err(Failure::new(format!("`{of}`: {code}")));
        }
    }
    Ok(())
}
