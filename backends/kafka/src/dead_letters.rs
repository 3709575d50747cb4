//! The dead letters of a queue: a compacted topic, whose records are taken back when they are done with.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    DeadLetter, DeadLetterId, DeadLetters, Error, ErrorKind, ExchangeName, Message, QueueName,
    Result, RoutingKey, Selection,
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};
use smol_str::SmolStr;
use tokio::{task::spawn_blocking, time::Instant};

use crate::{
    client::{self, Context, PATIENCE},
    error, names,
    producer::Record,
    shared::{Shared, lock},
    threads, topology,
    wire::{Packed, Reading},
};

/// How many dead letters are replayed at once.
const BATCH: usize = 256;

/// The dead letters of one queue. Their ids are the offsets in its topic.
#[derive(Debug)]
pub(crate) struct Letters {
    shared: Arc<Shared>,
    queue: QueueName,
    topic: SmolStr,
    reader: Arc<Mutex<Reader>>,
}

/// Reads the topic. Its client stays connected from one page of a list to the next.
#[derive(Default)]
struct Reader {
    client: Option<BaseConsumer<Context>>,
}

impl Letters {
    pub(crate) async fn open(shared: &Arc<Shared>, queue: &str) -> Result<Self> {
        shared.check_open()?;
        let table = shared.registry.current(Instant::now() + PATIENCE).await?;
        if table.queue(queue).is_none() {
            return Err(error::unknown_queue(queue));
        }
        let queue = QueueName::new(queue)?;
        Ok(Self {
            topic: names::dead(&queue).into(),
            shared: shared.clone(),
            queue,
            reader: Arc::default(),
        })
    }

    /// Reads from an offset to another, or to the end, on a thread that may wait. Without a topic there is nothing to
    /// read.
    async fn scan<T: Send + 'static>(
        &self,
        from: i64,
        until: i64,
        start: T,
        each: impl FnMut(&mut T, &BorrowedMessage<'_>) + Send + 'static,
    ) -> Result<T> {
        self.shared.check_open()?;
        let what = format!("read the dead letters of queue `{}`", self.queue);
        let (shared, topic) = (self.shared.clone(), self.topic.clone());
        let reader = self.reader.clone();
        let scan = move || lock(&reader).scan(&shared, &topic, from, until, start, each);
        let scanned = spawn_blocking(scan).await;
        scanned
            .unwrap_or(Err(KafkaError::Canceled))
            .map_err(|error| error::of(&what, &error))
    }

    /// The keys of the dead letters after an offset, by their own.
    async fn live(&self, after: Option<i64>) -> Result<BTreeMap<i64, SmolStr>> {
        let from = after.map_or(0, |after| after + 1);
        let found: HashMap<SmolStr, Option<i64>> = HashMap::new();
        let found = self.scan(from, i64::MAX, found, |found, record| {
            let key = record.key().map(String::from_utf8_lossy);
            let stands = record.payload().map(|_| record.offset());
            found.insert(key.unwrap_or_default().into(), stands);
        });
        let live = found.await?.into_iter();
        Ok(live
            .filter_map(|(key, offset)| Some((offset?, key)))
            .collect())
    }

    /// The messages at these offsets.
    async fn read(&self, offsets: BTreeSet<i64>) -> Result<Vec<(i64, Message)>> {
        let (Some(first), Some(last)) = (offsets.first().copied(), offsets.last().copied()) else {
            return Ok(Vec::new());
        };
        let unknown = ExchangeName::new("unknown")?;
        let mut reading = Reading::new(RoutingKey::new("")?);
        self.scan(first, last + 1, Vec::new(), move |letters, record| {
            if offsets.contains(&record.offset()) {
                let message = reading.message(&unknown, &Packed::copy(record));
                letters.push((record.offset(), message));
            }
        })
        .await
    }

    /// Those that are selected, by offset, with their keys.
    async fn selected(&self, selection: &Selection) -> Result<BTreeMap<i64, SmolStr>> {
        let wanted = match selection {
            Selection::All => return self.live(None).await,
            Selection::Ids(ids) => ids.iter().filter_map(|id| id.as_str().parse().ok()),
        };
        let wanted: BTreeSet<i64> = wanted.collect();
        let Some(first) = wanted.first() else {
            return Ok(BTreeMap::new());
        };
        let mut live = self.live(Some(first - 1)).await?;
        live.retain(|offset, _| wanted.contains(offset));
        Ok(live)
    }

    async fn store(&self, what: &str, records: Vec<Record>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for stored in self.shared.producer.store(records, deadline).await {
            stored.map_err(|code| error::failed(what, code))?;
        }
        Ok(())
    }

    /// Takes letters back.
    async fn take_back(&self, keys: Vec<SmolStr>) -> Result<()> {
        let record = |key| Record {
            topic: self.topic.clone(),
            key: Some(key),
            ..Record::default()
        };
        let records = keys.into_iter().map(record).collect();
        self.store("remove a dead letter", records).await
    }
}

#[async_trait]
impl DeadLetters for Letters {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let after = match after {
            None => None,
            Some(after) => Some(after.as_str().parse::<i64>().map_err(|_| {
                Error::new(
                    ErrorKind::InvalidName,
                    format!(
                        "`{after}` is not the id of a dead letter; take it from the list before"
                    ),
                )
            })?),
        };
        if limit == 0 {
            return Ok(Vec::new());
        }
        let live = self.live(after).await?;
        let letters = self.read(live.into_keys().take(limit).collect()).await?;
        let letter = |(offset, message): (i64, _)| {
            DeadLetter::new(DeadLetterId::new(offset.to_string()), message)
        };
        Ok(letters.into_iter().map(letter).collect())
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        let selected = self.selected(selection).await?;
        if selected.is_empty() {
            return Ok(0);
        }
        let topic = topology::retry(&self.shared, &self.queue, 0).await?;
        let mut count = 0;
        let all: Vec<_> = selected.into_iter().collect();
        for batch in all.chunks(BATCH) {
            let letters = self
                .read(batch.iter().map(|(offset, _)| *offset).collect())
                .await?;
            let number = letters.len() as u64;
            let copy = |(offset, message): (i64, Message)| {
                let id = DeadLetterId::new(offset.to_string());
                let message = DeadLetter::new(id, message).into_replay();
                let key = message.partition_key().map(SmolStr::new);
                Record {
                    topic: topic.clone(),
                    ..Record::copy(&message, key)
                }
            };
            let copies = letters.into_iter().map(copy).collect();
            self.store("replay a dead letter", copies).await?;
            self.take_back(batch.iter().map(|(_, key)| key.clone()).collect())
                .await?;
            count += number;
        }
        Ok(count)
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        let keys: Vec<_> = self.selected(selection).await?.into_values().collect();
        let count = keys.len() as u64;
        self.take_back(keys).await?;
        Ok(count)
    }
}

impl Reader {
    /// Reads the one partition of a topic from an offset to another, or to where it ends now.
    fn scan<T>(
        &mut self,
        shared: &Shared,
        topic: &str,
        from: i64,
        until: i64,
        mut start: T,
        mut each: impl FnMut(&mut T, &BorrowedMessage<'_>),
    ) -> Result<T, KafkaError> {
        let asking = shared.admin.asking();
        let end = match crate::admin::ends(asking, topic, 1) {
            Ok(ends) => ends.first().copied().unwrap_or(0).min(until),
            Err(error) if error::is_gone(&error) => return Ok(start),
            Err(error) => return Err(error),
        };
        if from >= end {
            return Ok(start);
        }
        // Kept only if it comes to the end.
        let client = match self.client.take() {
            Some(client) => client,
            None => connect(shared)?,
        };
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, Offset::Offset(from))?;
        client.assign(&all)?;
        let mut heard = std::time::Instant::now() + PATIENCE;
        loop {
            match client.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    heard = std::time::Instant::now() + PATIENCE;
                    if record.offset() < end {
                        each(&mut start, &record);
                    }
                    if record.offset() + 1 >= end {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if error::is_gone(&error) => return Err(error),
                // The client tries again by itself.
                Some(Err(_)) | None if std::time::Instant::now() < heard => {}
                _ => return Err(KafkaError::MessageConsumption(Code::OperationTimedOut)),
            }
        }
        client.unassign()?;
        self.client = Some(client);
        Ok(start)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            threads::end(client);
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

fn connect(shared: &Shared) -> Result<BaseConsumer<Context>, KafkaError> {
    let mut config = client::reading(&shared.endpoints);
    for (name, value) in [
        ("auto.offset.reset", "earliest"),
        ("isolation.level", "read_uncommitted"),
        ("enable.partition.eof", "true"),
        ("fetch.wait.max.ms", "50"),
    ] {
        config.set(name, value);
    }
    BaseConsumer::from_config_and_context(&config, Context(shared.health.clone()))
}
