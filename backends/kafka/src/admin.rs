//! Requests about topics: looking for them, making and removing them, and where their partitions end.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use event_core::{Error, ErrorKind, ExchangeName, Result};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
    },
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use smol_str::SmolStr;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    client::{Context, Health, PATIENCE},
    error, names,
    shared::lock,
    threads,
    url::Endpoints,
};

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Exchange,
    Topology,
    Retry,
    Dead,
}

/// Asks brokers, and changes what topics there are.
pub(crate) struct Admin {
    endpoints: Arc<Endpoints>,
    health: Arc<Health>,
    /// Dropped on a thread of its own: that waits.
    client: Option<AdminClient<Context>>,
    /// For questions; it reads nothing.
    asking: Arc<BaseConsumer<Context>>,
    exchanges: Mutex<HashMap<ExchangeName, SmolStr>>,
}

impl Admin {
    /// Connects, which shows whether the brokers can be reached.
    pub(crate) async fn connect(endpoints: &Arc<Endpoints>, health: &Arc<Health>) -> Result<Self> {
        let context = Context(health.clone());
        let config = endpoints.config();
        let failed = |error: KafkaError| error::of("start a client", &error);
        let client =
            AdminClient::from_config_and_context(&config, context.clone()).map_err(failed)?;
        let mut config = config;
        // The ends of topics are where the next record goes, whatever transactions others have open.
        config.set("isolation.level", "read_uncommitted");
        // That a peer hung up stands only in its log.
        config.set_log_level(RDKafkaLogLevel::Info);
        let asking = BaseConsumer::from_config_and_context(&config, context).map_err(failed)?;
        let admin = Self {
            endpoints: endpoints.clone(),
            health: health.clone(),
            client: Some(client),
            asking: Arc::new(asking),
            exchanges: Mutex::default(),
        };
        let patience = endpoints.connection_timeout;
        let reached = admin
            .ask(move |asking| {
                let reached = asking.fetch_metadata(Some("__consumer_offsets"), patience);
                // It says why when it is asked for events.
                serve(asking, 1_000);
                reached.map(drop)
            })
            .await;
        match reached {
            Ok(()) => Ok(admin),
            Err(error) => Err(error::connecting(
                endpoints,
                &error,
                health.problem().as_ref(),
            )),
        }
    }

    /// A question that takes its time, on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Context>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let asking = self.asking.clone();
        let asked = spawn_blocking(move || question(&asking)).await;
        asked.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Takes what the client that asks has to say: errors and its log.
    pub(crate) fn serve(&self) {
        serve(&self.asking, 32);
    }

    /// Where questions are asked that a thread of its own waits for.
    pub(crate) fn asking(&self) -> &Arc<BaseConsumer<Context>> {
        &self.asking
    }

    #[expect(clippy::expect_used, reason = "taken only when it is dropped")]
    fn client(&self) -> &AdminClient<Context> {
        self.client.as_ref().expect("a client until it is dropped")
    }

    /// How many partitions a topic has; none when there is no such topic.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        let name = topic.to_owned();
        let found = self
            .ask(move |asking| {
                let metadata = asking.fetch_metadata(Some(&name), PATIENCE)?;
                let topic = metadata.topics().iter().find(|topic| topic.name() == name);
                let Some(topic) = topic else {
                    return Ok(Some(0));
                };
                if let Some(error) = topic.error() {
                    return match Code::from(error) {
                        Code::UnknownTopicOrPartition | Code::UnknownTopic => Ok(None),
                        code => Err(KafkaError::MetadataFetch(code)),
                    };
                }
                let led = topic
                    .partitions()
                    .iter()
                    .all(|partition| partition.leader() >= 0);
                let count = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
                Ok(Some(if led { count } else { 0 }))
            })
            .await;
        match found {
            Ok(found) => Ok(found),
            Err(error) => Err(error::of(&format!("look for topic `{topic}`"), &error)),
        }
    }

    /// Sees to it that there is a topic, and answers how many partitions it has. One that exists is used as it is.
    pub(crate) async fn ensure(&self, topic: &str, purpose: Purpose) -> Result<i32> {
        let deadline = Instant::now() + PATIENCE;
        let mut made = false;
        loop {
            match self.partitions(topic).await? {
                // It has no leaders yet.
                Some(0) => {}
                Some(count) if made || purpose == Purpose::Exchange => return Ok(count),
                // A mock cluster does not say how topics are set.
                Some(count) if cfg!(test) => return Ok(count),
                Some(count) => {
                    self.fits(topic, purpose, count).await?;
                    return Ok(count);
                }
                None if made => {}
                None => {
                    self.create(topic, purpose).await?;
                    made = true;
                    continue;
                }
            }
            if Instant::now() > deadline {
                return Err(error::silent(&format!("lead topic `{topic}`")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether a topic of ours that somebody else made, by reading it perhaps, keeps what it has to keep.
    async fn fits(&self, topic: &str, purpose: Purpose, partitions: i32) -> Result<()> {
        let wrong = |what: &str| {
            Err(Error::new(
                ErrorKind::Setup,
                format!(
                    "topic `{topic}` was made by somebody else: {what}; delete it, and it is made as it has to be"
                ),
            ))
        };
        if purpose != Purpose::Retry && partitions != 1 {
            return wrong("it has more than one partition");
        }
        let what = format!("look at the settings of topic `{topic}`");
        let config = self.settings(topic, &what).await?;
        // So Kafka answers who may not look.
        if config.get("cleanup.policy").is_none() {
            return Err(error::failed(&what, Code::TopicAuthorizationFailed));
        }
        let value = |name: &str| config.get(name).and_then(|entry| entry.value.as_deref());
        let is_compact = value("cleanup.policy") == Some("compact");
        match purpose {
            Purpose::Exchange => Ok(()),
            Purpose::Topology | Purpose::Dead if !is_compact => {
                wrong("its `cleanup.policy` is not `compact`")
            }
            Purpose::Retry if is_compact => wrong("its `cleanup.policy` is `compact`"),
            Purpose::Retry if value("retention.ms") != Some("-1") => {
                wrong("its `retention.ms` is not -1")
            }
            Purpose::Topology | Purpose::Retry
                if value("message.timestamp.type") != Some("LogAppendTime") =>
            {
                wrong("its `message.timestamp.type` is not `LogAppendTime`")
            }
            _ => Ok(()),
        }
    }

    async fn settings(&self, topic: &str, what: &str) -> Result<ConfigResource> {
        let resource = [ResourceSpecifier::Topic(topic)];
        let described = self.client().describe_configs(&resource, &options()).await;
        match described.map_err(|error| error::of(what, &error))?.pop() {
            Some(Ok(config)) => Ok(config),
            Some(Err(code)) => Err(error::failed(what, code)),
            None => Err(error::silent(what)),
        }
    }

    /// The most bytes of a batch that a topic takes, for whoever may know that.
    pub(crate) async fn largest(&self, topic: &str) -> Option<usize> {
        let config = self.settings(topic, "look at its settings").await.ok()?;
        let largest = config.get("max.message.bytes")?.value.as_deref()?;
        largest.parse().ok()
    }

    async fn create(&self, topic: &str, purpose: Purpose) -> Result<()> {
        let partitions = match purpose {
            Purpose::Exchange => self.endpoints.partitions,
            _ => 1,
        };
        // The broker's default is -1.
        let replication = match (self.endpoints.replication, purpose) {
            (Some(replication), _) => replication,
            (None, Purpose::Exchange) => -1,
            (None, _) => self.brokers().await?.clamp(1, 3),
        };
        let retention = self
            .endpoints
            .retention
            .map(|keep| keep.as_millis().to_string());
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        match purpose {
            Purpose::Exchange => {
                if let Some(retention) = &retention {
                    new = new.set("retention.ms", retention);
                }
            }
            Purpose::Topology | Purpose::Dead => new = new.set("cleanup.policy", "compact"),
            // They would inherit seven days; what was handled is removed.
            Purpose::Retry => new = new.set("retention.ms", "-1").set("retention.bytes", "-1"),
        }
        if matches!(purpose, Purpose::Topology | Purpose::Retry) {
            // Its clock is the broker's.
            new = new.set("message.timestamp.type", "LogAppendTime");
        }
        let largest = self.endpoints.largest_copy().to_string();
        if matches!(purpose, Purpose::Retry | Purpose::Dead) {
            new = new.set("max.message.bytes", &largest);
        }
        if replication == 3 {
            new = new.set("min.insync.replicas", "2");
        }
        let what = format!("create topic `{topic}`");
        let created = self.client().create_topics([&new], &options()).await;
        match created.map_err(|error| error::of(&what, &error))?.pop() {
            Some(Err((_, code))) if code != Code::TopicAlreadyExists => {
                Err(error::failed(&what, code))
            }
            _ => Ok(()),
        }
    }

    async fn brokers(&self) -> Result<i32> {
        let count = self
            .ask(|asking| Ok(asking.fetch_metadata(None, PATIENCE)?.brokers().len()))
            .await;
        let count = count.map_err(|error| error::of("count the brokers", &error))?;
        Ok(i32::try_from(count).unwrap_or(3))
    }

    /// The topic of an exchange, which is made if need be.
    pub(crate) async fn exchange(&self, exchange: &ExchangeName) -> Result<SmolStr> {
        if let Some(topic) = lock(&self.exchanges).get(exchange) {
            return Ok(topic.clone());
        }
        let topic = SmolStr::from(names::exchange(&self.endpoints.topic, exchange)?);
        if topic == self.endpoints.topology {
            return Err(Error::new(
                ErrorKind::InvalidName,
                format!(
                    "exchange `{exchange}` has the topic of the topology; choose another name, or `?topology=`"
                ),
            ));
        }
        self.ensure(&topic, Purpose::Exchange).await?;
        lock(&self.exchanges).insert(exchange.clone(), topic.clone());
        Ok(topic)
    }

    /// Has an exchange looked for again.
    pub(crate) fn forget(&self, exchange: &ExchangeName) {
        lock(&self.exchanges).remove(exchange);
    }

    /// Where the partitions of a topic end: the offset of the next record of each.
    pub(crate) async fn ends(&self, topic: &str) -> Result<Vec<i64>> {
        let what = format!("look where topic `{topic}` ends");
        let count = self.partitions(topic).await?.unwrap_or(0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let name = topic.to_owned();
            let ends = self.ask(move |asking| ends(asking, &name, count)).await;
            match ends {
                // A topic that was made in this moment is not led everywhere yet.
                Err(error) if error::is_passing(&error) && Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                ends => return ends.map_err(|error| error::of(&what, &error)),
            }
        }
    }

    pub(crate) async fn delete_topics(&self, topics: &[String]) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let deleted = self.client().delete_topics(&names, &options()).await;
        let deleted = deleted.map_err(|error| error::of("delete topics", &error))?;
        for result in deleted {
            if let Err((topic, code)) = result
                && !matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic)
            {
                return Err(error::failed(&format!("delete topic `{topic}`"), code));
            }
        }
        Ok(())
    }

    /// Removes a group that nobody is in. One with members stays, and is of no harm.
    pub(crate) async fn delete_group(&self, group: &str) {
        let deleted = self.client().delete_groups(&[group], &options()).await;
        if let Ok(mut results) = deleted
            && let Some(Err((_, code))) = results.pop()
        {
            tracing::debug!(target: "switchboard", group, %code, "the group of a deleted queue stays");
        }
    }

    /// Removes the records before these offsets.
    pub(crate) async fn delete_records(&self, before: TopicPartitionList) -> Result<()> {
        let deleted = self.client().delete_records(&before, &options()).await;
        deleted
            .map(drop)
            .map_err(|error| error::of("delete records that are done", &error))
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

/// Looks at so many events of a client, as long as there are any: it does not say when there are none.
fn serve(client: &BaseConsumer<Context>, events: usize) {
    for _ in 0..events {
        drop(client.poll(Duration::ZERO));
    }
}

/// Where a topic ends, asked for on this thread.
pub(crate) fn ends(
    asking: &BaseConsumer<Context>,
    topic: &str,
    partitions: i32,
) -> Result<Vec<i64>, KafkaError> {
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        asked.add_partition_offset(topic, partition, Offset::End)?;
    }
    let mut ends = bounds(asking, asked)?;
    let end = |partition| {
        let end = ends.remove(&(topic.to_owned(), partition));
        end.ok_or(KafkaError::MetadataFetch(Code::UnknownPartition))
    };
    (0..partitions).map(end).collect()
}

/// Where partitions begin or end, asked for on this thread.
pub(crate) fn bounds(
    asking: &BaseConsumer<Context>,
    asked: TopicPartitionList,
) -> Result<HashMap<(String, i32), i64>, KafkaError> {
    if asked.count() == 0 {
        return Ok(HashMap::new());
    }
    let found = asking.offsets_for_times(asked, PATIENCE)?;
    let mut bounds = HashMap::new();
    for partition in found.elements() {
        // One that is gone is no reason to know nothing of the others.
        if let Err(error) = partition.error()
            && !error::is_gone(&error)
        {
            return Err(error);
        }
        if let Offset::Offset(offset) = partition.offset() {
            bounds.insert(
                (partition.topic().to_owned(), partition.partition()),
                offset,
            );
        }
    }
    Ok(bounds)
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}

impl Drop for Admin {
    fn drop(&mut self) {
        threads::end((self.client.take(), self.asking.clone()));
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
