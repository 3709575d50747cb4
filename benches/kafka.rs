//! What the framework costs on Kafka: rdkafka alone, the backend alone and the whole framework in turn, with the same
//! topic, the same settings, the same headers and the same decoding.
//!
//! `KAFKA_URL=kafka://… cargo bench -p event-benches --bench kafka [-- --messages N] [--rounds N] [--bytes N]
//! [--only publish|bytes|json|over|tasks|single]`

use std::{
    hint::black_box,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use event_benches::{
    Broker, By, Cost, EXCHANGE, Line, Meter, Outcome, RAW, RawBytes, TASKS, Table, option, run_on,
    tasks, text_option,
};
use event_core::{Event as _, ExchangeName, Topology};
use event_kafka::KafkaTransport;
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, DeliveryResult, Header, Headers as _, OwnedHeaders},
    producer::{
        BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer as _, ProducerContext,
    },
};

const LINE: &str = Line::ROUTES[0].key;
/// So many keys that the one before is seldom the same.
const OTHERS: [&str; 8] = [
    "bench.v1.other.1",
    "bench.v1.other.2",
    "bench.v1.other.3",
    "bench.v1.other.4",
    "bench.v1.other.5",
    "bench.v1.other.6",
    "bench.v1.other.7",
    "bench.v1.other.8",
];
const PARTITIONS: i32 = 4;
/// How many messages rdkafka has on their way.
const WINDOW: i32 = 5_000;
/// How many batches are on their way through the backend and the framework.
const FLYING: usize = 20;
const PREFETCH: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// What is in the messages that are consumed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Bytes,
    Json,
}

/// Counts reports.
struct Reports(Arc<AtomicU64>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(u64::from(report.is_ok()), Relaxed);
    }
}

struct Bench {
    brokers: String,
    topic: String,
    broker: Broker,
    /// The headers that the framework wrote.
    headers: Vec<(String, Vec<u8>)>,
    queues: AtomicU64,
}

impl Bench {
    async fn open(url: &str, bytes: usize) -> Outcome<Self> {
        let name = format!("{{exchange}}-{}", std::process::id());
        let url = format!("{url}?topic={name}&partitions={PARTITIONS}&replication=1");
        let transport = KafkaTransport::connect(&url).await?;
        let brokers = url.trim_start_matches("kafka://");
        let brokers = brokers.split(['/', '?']).next().unwrap_or_default();
        let mut bench = Self {
            brokers: brokers.to_owned(),
            topic: format!("{EXCHANGE}-{}", std::process::id()),
            broker: Broker::new(transport, bytes, FLYING, PREFETCH)?,
            headers: Vec::new(),
            queues: AtomicU64::new(0),
        };
        // The same headers: rdkafka sends again what the framework sent.
        let queue = bench.queue(RAW).await?;
        bench.broker.event.publish(&bench.broker.bus).await?;
        let reader = bench.reader(&[0; PARTITIONS as usize])?;
        while bench.headers.is_empty() {
            let record = next(&reader)?;
            let headers = record.headers().ok_or("it has no headers")?.iter();
            bench.headers = headers
                .map(|header| {
                    (
                        header.key.to_owned(),
                        header.value.unwrap_or_default().to_vec(),
                    )
                })
                .collect();
        }
        bench.broker.learn(&queue).await?;
        Ok(bench)
    }

    /// A queue that nobody had before.
    async fn queue(&self, key: &str) -> Outcome<String> {
        let number = self.queues.fetch_add(1, Relaxed);
        let queue = format!("bench_kafka_{}_{number}", std::process::id());
        let topology = Topology {
            exchanges: vec![ExchangeName::new(EXCHANGE)?],
            queues: vec![self.broker.spec(&queue, key)?],
        };
        self.broker.transport.declare(&topology).await?;
        Ok(queue)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// The settings of the backend.
    fn producing(&self) -> ClientConfig {
        let mut config = self.config();
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2_random"),
            ("linger.ms", "0"),
            ("sticky.partitioning.linger.ms", "0"),
            ("socket.nagle.disable", "true"),
        ] {
            config.set(name, value);
        }
        config
    }

    /// Reads all partitions, from these offsets on.
    fn reader(&self, from: &[i64]) -> Outcome<BaseConsumer> {
        let mut config = self.config();
        for (name, value) in [
            ("group.id", "bench"),
            ("enable.auto.offset.store", "false"),
            ("auto.commit.interval.ms", "200"),
            ("fetch.wait.max.ms", "50"),
            ("fetch.queue.backoff.ms", "10"),
            ("queued.min.messages", "20000"),
            ("queued.max.messages.kbytes", "8192"),
        ] {
            config.set(name, value);
        }
        let reader: BaseConsumer = config.create()?;
        let mut all = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(from) {
            all.add_partition_offset(&self.topic, partition, Offset::Offset(*offset))?;
        }
        reader.assign(&all)?;
        Ok(reader)
    }

    fn ends(&self) -> Outcome<Vec<i64>> {
        let asking: BaseConsumer = self.config().create()?;
        (0..PARTITIONS)
            .map(|partition| Ok(asking.fetch_watermarks(&self.topic, partition, PATIENCE)?.1))
            .collect()
    }

    fn headers(&self, key: &str) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new_with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let value = match name.as_str() {
                "ce_type" => key.as_bytes(),
                "content-type" if key == LINE => b"application/json",
                _ => value,
            };
            headers = headers.insert(Header {
                key: name,
                value: Some(value),
            });
        }
        headers
    }

    /// Publishes so many messages with rdkafka, as fast as possible. Without keys they have no headers at all.
    fn publish_with_rdkafka(
        &self,
        messages: u64,
        keys: &[&str],
        payload: impl Fn(u64) -> Vec<u8>,
    ) -> Outcome<Cost> {
        let stored = Arc::new(AtomicU64::new(0));
        let producer: BaseProducer<Reports> =
            BaseProducer::from_config_and_context(&self.producing(), Reports(stored.clone()))?;
        // It takes a moment to be allowed to.
        let first = BaseRecord::to(&self.topic).payload(b"").key("");
        let first: BaseRecord<'_, str, [u8; 0]> = first;
        producer.send(first).map_err(|(error, _)| error)?;
        producer.flush(PATIENCE)?;
        let meter = Meter::start();
        for number in 0..messages {
            while producer.in_flight_count() >= WINDOW {
                producer.poll(Duration::ZERO);
            }
            let payload = payload(number);
            let mut record: BaseRecord<'_, str, [u8]> =
                BaseRecord::to(&self.topic).payload(&payload[..]);
            record.headers = match keys {
                [] => None,
                keys => Some(self.headers(keys[number as usize % keys.len()])),
            };
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(PATIENCE)?;
        let cost = meter.stop(messages);
        if stored.load(Relaxed) != messages + 1 {
            return Err("not all messages were stored".into());
        }
        Ok(cost)
    }

    async fn publish(&self, by: By, messages: u64) -> Outcome<Cost> {
        match by {
            By::Client => {
                let payload = self.broker.event.0.to_vec();
                tokio::task::block_in_place(|| {
                    self.publish_with_rdkafka(messages, &[RAW], |_| payload.clone())
                })
            }
            By::Backend => self.broker.publish_with_backend(messages).await,
            By::Framework => self.broker.publish_with_framework(messages).await,
        }
    }

    /// Publishes with rdkafka what has no headers: what the headers cost.
    fn publish_bare(&self, messages: u64) -> Outcome<Cost> {
        let payload = self.broker.event.0.to_vec();
        tokio::task::block_in_place(|| {
            self.publish_with_rdkafka(messages, &[], |_| payload.clone())
        })
    }

    /// Stores what is consumed.
    fn fill(&self, what: What, messages: u64) -> Outcome {
        tokio::task::block_in_place(|| match what {
            What::Bytes => {
                let payload = self.broker.event.0.to_vec();
                self.publish_with_rdkafka(messages, &[RAW], |_| payload.clone())
            }
            What::Json => self.publish_with_rdkafka(messages, &[LINE], |number| {
                serde_json::to_vec(&Line::new(number)).unwrap_or_default()
            }),
        })
        .map(drop)
    }

    /// Consumes what was stored after the queue was declared. The time is that from the first message to the last.
    async fn consume(
        &self,
        by: By,
        what: What,
        queue: &str,
        from: &[i64],
        messages: u64,
    ) -> Outcome<Cost> {
        let key = match what {
            What::Bytes => RAW,
            What::Json => LINE,
        };
        let broker = &self.broker;
        match (by, what) {
            (By::Client, _) => {
                tokio::task::block_in_place(|| self.consume_with_rdkafka(what, key, from, messages))
            }
            (By::Backend, _) => broker.consume_with_backend(queue, key, messages).await,
            (By::Framework, What::Bytes) => {
                broker
                    .consume_with_framework::<RawBytes>(queue, messages)
                    .await
            }
            (By::Framework, What::Json) => {
                broker.consume_with_framework::<Line>(queue, messages).await
            }
        }
    }

    /// Consumes so many messages with this key.
    fn consume_with_rdkafka(
        &self,
        what: What,
        key: &str,
        from: &[i64],
        messages: u64,
    ) -> Outcome<Cost> {
        let reader = self.reader(from)?;
        let mut meter = None;
        let mut count = 0;
        while count < messages {
            let record = next(&reader)?;
            meter.get_or_insert_with(Meter::start);
            // Who takes a message has to look at its key.
            let kind = record.headers().map(|headers| headers.get(0));
            if kind.and_then(|kind| kind.value) == Some(key.as_bytes()) {
                let payload = record.payload().unwrap_or_default();
                match what {
                    What::Bytes => _ = black_box(payload.len()),
                    What::Json => _ = black_box(serde_json::from_slice::<Line>(payload)?),
                }
                count += 1;
            }
            reader.store_offset_from_message(&record)?;
        }
        Ok(meter.ok_or("nothing came")?.stop(messages))
    }

    /// Passes over messages that its binding does not let in, between some that it does: rdkafka, and the backend.
    async fn pass_over(&self, messages: u64, turn: usize) -> Outcome<[Cost; 2]> {
        let queue = self.queue(RAW).await?;
        let from = self.ends()?;
        let edge = || {
            tokio::task::block_in_place(|| {
                self.publish_with_rdkafka(64 * PARTITIONS as u64, &[RAW], |_| Vec::new())
            })
        };
        edge()?;
        tokio::task::block_in_place(|| {
            let payload = self.broker.event.0.to_vec();
            self.publish_with_rdkafka(messages, &OTHERS, |_| payload.clone())
        })?;
        edge()?;
        let few = 128 * PARTITIONS as u64;
        let rdkafka = || {
            tokio::task::block_in_place(|| self.consume_with_rdkafka(What::Bytes, RAW, &from, few))
        };
        let backend = async || self.broker.consume_with_backend(&queue, RAW, few).await;
        let costs = if turn.is_multiple_of(2) {
            [rdkafka()?, backend().await?]
        } else {
            let first = backend().await?;
            [rdkafka()?, first]
        };
        self.broker.bus.topology().delete_queue(&queue).await?;
        // What it took is for those that it passed over.
        Ok(costs.map(|cost| cost.times(messages as f64 / few as f64)))
    }

    /// How long a publish takes that is awaited alone.
    async fn single(&self, messages: u64) -> Outcome<[Vec<f64>; 3]> {
        let producer: FutureProducer = self.producing().create()?;
        self.publish_one(&producer).await?;
        let rdkafka = async || self.publish_one(&producer).await;
        self.broker.single(messages, rdkafka).await
    }

    async fn publish_one(&self, producer: &FutureProducer) -> Outcome {
        let record: FutureRecord<'_, str, [u8]> = FutureRecord::to(&self.topic)
            .payload(&self.broker.event.0[..])
            .headers(self.headers(RAW));
        let sent = producer.send_result(record).map_err(|(error, _)| error)?;
        sent.await?.map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Many tasks on one producer of rdkafka, each of which awaits its publishes one by one.
    async fn tasks(self: &Arc<Self>, messages: u64) -> Outcome<Cost> {
        let producer: FutureProducer = self.producing().create()?;
        self.publish_one(&producer).await?;
        let task = |each| {
            let (bench, producer) = (self.clone(), producer.clone());
            async move {
                for _ in 0..each {
                    bench.publish_one(&producer).await?;
                }
                Ok(())
            }
        };
        tasks(messages, task).await
    }
}

/// The next record. The answer to a commit ends a poll without one.
fn next(reader: &BaseConsumer) -> Outcome<BorrowedMessage<'_>> {
    let mut start = None;
    loop {
        if let Some(record) = reader.poll(PATIENCE) {
            return Ok(record?);
        }
        if start.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err("a record is missing".into());
        }
    }
}

async fn run(url: &str) -> Outcome {
    let messages = option("--messages", 300_000);
    let rounds = usize::try_from(option("--rounds", 3))?.max(1);
    let bytes = usize::try_from(option("--bytes", 256))?;
    let only = text_option("--only");
    let wanted = |what: &str| only.as_ref().is_none_or(|only| only == what);
    let mut table = Table::new("rdkafka");
    let published = table.each("publish", "/s", &By::ALL);
    let bare = table.row("publish, rdkafka, no headers".to_owned(), "/s", published);
    let raw = table.each("consume bytes", "/s", &By::ALL);
    let json = table.each("consume JSON of 64 bytes", "/s", &By::ALL);
    let passed = table.each("pass over", "/s", &[By::Client, By::Backend]);
    let more = table.each("pass over, more CPU each", "ns", &[By::Backend]);
    let single = table.percentiles("one publish");
    let tasks = table.each(
        &format!("publish, {TASKS} tasks"),
        "/s",
        &[By::Client, By::Framework],
    );
    let bench = Arc::new(Bench::open(url, bytes).await?);
    // Warm, and not counted.
    bench.publish(By::Framework, messages / 10).await?;
    for round in 0..rounds {
        if wanted("publish") {
            for (at, by) in By::turns(round) {
                table.add(published + at, bench.publish(by, messages).await?);
            }
            table.add(bare, bench.publish_bare(messages)?);
        }
        for (name, what, key, first) in [
            ("bytes", What::Bytes, RAW, raw),
            ("json", What::Json, LINE, json),
        ] {
            if !wanted(name) {
                continue;
            }
            let queues = [bench.queue(key).await?, bench.queue(key).await?];
            let from = bench.ends()?;
            bench.fill(what, messages)?;
            for (at, by) in By::turns(round) {
                let queue = &queues[at.saturating_sub(1)];
                let cost = bench.consume(by, what, queue, &from, messages).await?;
                table.add(first + at, cost);
            }
            for queue in queues {
                bench.broker.bus.topology().delete_queue(&queue).await?;
            }
        }
        if wanted("over") {
            let costs = bench.pass_over(messages, round).await?;
            table.add_value(more, (costs[1].cpu - costs[0].cpu) * 1e3);
            for (at, cost) in costs.into_iter().enumerate() {
                table.add(passed + at, cost);
            }
        }
        if wanted("tasks") {
            table.add(tasks, bench.tasks(messages / 10).await?);
            table.add(tasks + 1, bench.broker.tasks(messages / 10).await?);
        }
        if wanted("single") {
            table.add_percentiles(single, &bench.single(messages / 200).await?);
        }
    }
    bench.broker.bus.close().await?;
    println!("{bytes} bytes, {messages} messages, {rounds} rounds");
    table.print();
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    run_on("Kafka", run).await
}
