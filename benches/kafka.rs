//! What the framework costs on Kafka: rdkafka alone, the backend alone and the whole framework in turn, with the same
//! topic, the same settings, the same headers and the same decoding.
//!
//! `KAFKA_URL=kafka://… cargo bench -p event-benches --bench kafka [-- --messages N] [--rounds N] [--bytes N]
//! [--only publish|bytes|json|over|tasks|single]`

use std::{
    error::Error,
    hint::black_box,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use event_benches::{BATCH, Cost, Line, Meter, RawBytes, Table, option, payload, text_option};
use event_core::{
    Arrival, Binding, Bus, Delivery, ExchangeName, Message, Queue, QueueSpec, Service, Settled,
    Settlement, Topology, Transport,
};
use event_kafka::KafkaTransport;
use futures_util::{StreamExt, future::try_join_all, stream};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, DeliveryResult, Header, Headers as _, OwnedHeaders},
    producer::{
        BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer as _, ProducerContext,
    },
};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const EXCHANGE: &str = "bench";
const RAW: &str = "bench.v1.raw";
const LINE: &str = "bench.v1.line";
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
/// How many messages are on their way.
const WINDOW: i32 = 5_000;
const FLYING: usize = 20;
const PREFETCH: usize = 10_000;
const TASKS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// Who publishes or consumes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rdkafka,
    Backend,
    Framework,
}

const ALL: [By; 3] = [By::Rdkafka, By::Backend, By::Framework];

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Rdkafka => "rdkafka",
            Self::Backend => "backend",
            Self::Framework => "framework",
        }
    }
}

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
    transport: Arc<dyn Transport>,
    bus: Bus,
    event: RawBytes,
    message: Message,
    /// The headers that the framework wrote.
    headers: Vec<(String, Vec<u8>)>,
    queues: AtomicU64,
}

impl Bench {
    async fn open(url: &str, bytes: usize) -> Outcome<Self> {
        let name = format!("{{exchange}}-{}", std::process::id());
        let url = format!("{url}?topic={name}&partitions={PARTITIONS}&replication=1");
        let transport: Arc<dyn Transport> = Arc::new(KafkaTransport::connect(&url).await?);
        let brokers = url.trim_start_matches("kafka://");
        let brokers = brokers.split(['/', '?']).next().unwrap_or_default();
        let event = RawBytes(payload(bytes));
        let mut bench = Self {
            brokers: brokers.to_owned(),
            topic: format!("{EXCHANGE}-{}", std::process::id()),
            bus: Bus::from_arc(transport.clone()),
            message: Message::new(EXCHANGE.parse()?, RAW.parse()?, event.0.clone()),
            headers: Vec::new(),
            transport,
            event,
            queues: AtomicU64::new(0),
        };
        // The same headers: rdkafka sends again what the framework sent.
        let queue = bench.queue(RAW).await?;
        bench.event.publish(&bench.bus).await?;
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
        let mut subscription = bench.transport.consume(&spec(&queue, RAW)?).await?;
        let Arrival::Batch(batch) = subscription.deliveries.next(1).await? else {
            return Err("the first message is not there".into());
        };
        bench.message = batch[0].message().clone();
        let acks = batch.iter().map(Delivery::tag).map(Settlement::Ack);
        for settled in subscription.settle.settle(acks.collect()).await {
            settled?;
        }
        end(subscription).await?;
        Ok(bench)
    }

    /// A queue that nobody had before.
    async fn queue(&self, key: &str) -> Outcome<String> {
        let number = self.queues.fetch_add(1, Relaxed);
        let queue = format!("bench_kafka_{}_{number}", std::process::id());
        let topology = Topology {
            exchanges: vec![ExchangeName::new(EXCHANGE)?],
            queues: vec![spec(&queue, key)?],
        };
        self.transport.declare(&topology).await?;
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
        if by == By::Rdkafka {
            let payload = self.event.0.to_vec();
            return tokio::task::block_in_place(|| {
                self.publish_with_rdkafka(messages, &[RAW], |_| payload.clone())
            });
        }
        let batches = messages.div_ceil(BATCH);
        let meter = Meter::start();
        if by == By::Backend {
            let mut flying = stream::iter(0..batches)
                .map(|_| {
                    let batch = (0..BATCH).map(|_| self.message.clone()).collect();
                    self.transport.publish(batch, later())
                })
                .buffer_unordered(FLYING);
            while let Some(results) = flying.next().await {
                for result in results {
                    result?;
                }
            }
        } else {
            let mut flying = stream::iter(0..batches)
                .map(|_| async {
                    let events: Vec<_> = (0..BATCH).map(|_| self.event.clone()).collect();
                    self.bus.publish_all(&events).await
                })
                .buffer_unordered(FLYING);
            while let Some(results) = flying.next().await {
                for result in results {
                    result?;
                }
            }
        }
        Ok(meter.stop(batches * BATCH))
    }

    /// Publishes with rdkafka what has no headers: what the headers cost.
    fn publish_bare(&self, messages: u64) -> Outcome<Cost> {
        let payload = self.event.0.to_vec();
        tokio::task::block_in_place(|| {
            self.publish_with_rdkafka(messages, &[], |_| payload.clone())
        })
    }

    /// Stores what is consumed.
    fn fill(&self, what: What, messages: u64) -> Outcome {
        tokio::task::block_in_place(|| match what {
            What::Bytes => {
                let payload = self.event.0.to_vec();
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
        match by {
            By::Rdkafka => tokio::task::block_in_place(|| {
                self.consume_with_rdkafka(what, key, from, messages, messages)
            }),
            By::Backend => {
                self.consume_with_backend(queue, key, messages, messages)
                    .await
            }
            By::Framework => self.consume_with_framework(what, queue, messages).await,
        }
    }

    /// Consumes so many messages with this key. What it took is for so many as are measured.
    fn consume_with_rdkafka(
        &self,
        what: What,
        key: &str,
        from: &[i64],
        messages: u64,
        measured: u64,
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
        Ok(meter.ok_or("nothing came")?.stop(measured))
    }

    async fn consume_with_backend(
        &self,
        queue: &str,
        key: &str,
        messages: u64,
        measured: u64,
    ) -> Outcome<Cost> {
        let mut subscription = self.transport.consume(&spec(queue, key)?).await?;
        let mut meter = None;
        let mut count = 0;
        while count < messages {
            let Arrival::Batch(batch) = subscription.deliveries.next(BATCH as usize).await? else {
                return Err("the subscription ended".into());
            };
            meter.get_or_insert_with(Meter::start);
            let acks = batch.iter().map(Delivery::tag).map(Settlement::Ack);
            for settled in subscription.settle.settle(acks.collect()).await {
                count += u64::from(settled? == Settled::Done);
            }
        }
        let cost = meter.ok_or("nothing came")?.stop(measured);
        end(subscription).await?;
        Ok(cost)
    }

    async fn consume_with_framework(
        &self,
        what: What,
        queue: &str,
        messages: u64,
    ) -> Outcome<Cost> {
        HANDLED.store(0, Relaxed);
        let before = self.bus.counters().handled;
        let described = Queue::new(queue).prefetch(PREFETCH);
        let described = match what {
            What::Bytes => described.bind(EXCHANGE, RAW).handle(count),
            What::Json => described.bind(EXCHANGE, LINE).handle(count_line),
        };
        let running = Service::new("bench")
            .queue(described)
            .start(&self.bus)
            .await?;
        while HANDLED.load(Relaxed) == 0 {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        let begun = (Meter::start(), HANDLED.load(Relaxed));
        while self.bus.counters().handled - before < messages {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let cost = begun.0.stop(messages - begun.1);
        running.shutdown().await?;
        Ok(cost)
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
            let payload = self.event.0.to_vec();
            self.publish_with_rdkafka(messages, &OTHERS, |_| payload.clone())
        })?;
        edge()?;
        let few = 128 * PARTITIONS as u64;
        let rdkafka = || {
            tokio::task::block_in_place(|| {
                self.consume_with_rdkafka(What::Bytes, RAW, &from, few, messages)
            })
        };
        let costs = match turn % 2 {
            0 => {
                let first = rdkafka()?;
                [
                    first,
                    self.consume_with_backend(&queue, RAW, few, messages)
                        .await?,
                ]
            }
            _ => {
                let first = self
                    .consume_with_backend(&queue, RAW, few, messages)
                    .await?;
                [rdkafka()?, first]
            }
        };
        self.bus.topology().delete_queue(&queue).await?;
        Ok(costs)
    }

    /// How long a publish takes that is awaited alone: each of the three in turn, in microseconds, sorted.
    async fn single(&self, messages: u64) -> Outcome<[Vec<f64>; 3]> {
        let mut taken = [const { Vec::new() }; 3];
        let producer: FutureProducer = self.producing().create()?;
        self.publish_one(&producer).await?;
        for _ in 0..messages {
            for (by, taken) in ALL.into_iter().zip(&mut taken) {
                let start = Instant::now();
                match by {
                    By::Rdkafka => self.publish_one(&producer).await?,
                    By::Backend => {
                        let batch = vec![self.message.clone()];
                        for result in self.transport.publish(batch, later()).await {
                            result?;
                        }
                    }
                    By::Framework => _ = self.event.publish(&self.bus).await?,
                }
                taken.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        for taken in &mut taken {
            taken.sort_by(f64::total_cmp);
        }
        Ok(taken)
    }

    async fn publish_one(&self, producer: &FutureProducer) -> Outcome {
        let record: FutureRecord<'_, str, [u8]> = FutureRecord::to(&self.topic)
            .payload(&self.event.0[..])
            .headers(self.headers(RAW));
        let sent = producer.send_result(record).map_err(|(error, _)| error)?;
        sent.await?.map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Many tasks, each of which awaits its publishes one by one: on one bus, or on one producer of rdkafka.
    async fn tasks(self: &Arc<Self>, by: By, messages: u64) -> Outcome<Cost> {
        let each = messages / TASKS as u64;
        let producer: FutureProducer = self.producing().create()?;
        self.publish_one(&producer).await?;
        let meter = Meter::start();
        let tasks = (0..TASKS).map(|_| {
            let (bench, producer) = (self.clone(), producer.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    match by {
                        By::Rdkafka => bench.publish_one(&producer).await?,
                        _ => _ = bench.event.publish(&bench.bus).await?,
                    }
                }
                Outcome::Ok(())
            })
        });
        for done in try_join_all(tasks).await? {
            done?;
        }
        Ok(meter.stop(each * TASKS as u64))
    }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

async fn count(event: RawBytes) {
    black_box(event.0.len());
    HANDLED.fetch_add(1, Relaxed);
}

async fn count_line(line: Line) {
    black_box(line);
    HANDLED.fetch_add(1, Relaxed);
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

fn spec(queue: &str, key: &str) -> Outcome<QueueSpec> {
    let mut spec = QueueSpec::new(queue.parse()?);
    spec.bindings.push(Binding::new(EXCHANGE, key)?);
    spec.prefetch = PREFETCH;
    Ok(spec)
}

async fn end(mut subscription: event_core::Subscription) -> Outcome {
    subscription.stop.cancel();
    while !matches!(subscription.deliveries.next(1).await?, Arrival::Ended) {}
    Ok(())
}

fn later() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(600)
}

/// Rows that are compared with the first of them. Answers its number.
fn rows(table: &mut Table, what: &str, unit: &'static str, of: &[By]) -> usize {
    let first = table.rows();
    for by in of {
        table.row(format!("{what}, {}", by.name()), unit, first);
    }
    first
}

async fn run(url: &str) -> Outcome {
    let messages = option("--messages", 300_000);
    let rounds = usize::try_from(option("--rounds", 3))?.max(1);
    let bytes = usize::try_from(option("--bytes", 256))?;
    let only = text_option("--only");
    let wanted = |what: &str| only.as_ref().is_none_or(|only| only == what);
    let mut table = Table::default();
    let published = rows(&mut table, "publish", "/s", &ALL);
    let bare = table.row("publish, rdkafka, no headers".to_owned(), "/s", published);
    let raw = rows(&mut table, "consume bytes", "/s", &ALL);
    let json = rows(&mut table, "consume JSON of 64 bytes", "/s", &ALL);
    let passed = rows(&mut table, "pass over", "/s", &[By::Rdkafka, By::Backend]);
    let more = rows(&mut table, "pass over, more CPU each", "ns", &[By::Backend]);
    let single = rows(&mut table, "one publish, p50", "µs", &ALL);
    rows(&mut table, "one publish, p99", "µs", &ALL);
    let tasks = rows(
        &mut table,
        "publish, 64 tasks",
        "/s",
        &[By::Rdkafka, By::Framework],
    );
    let bench = Arc::new(Bench::open(url, bytes).await?);
    // Warm, and not counted.
    bench.publish(By::Framework, messages / 10).await?;
    // In turn, so that a slow moment of a shared machine does not hit one row alone; and each of them first once.
    for round in 0..rounds {
        for turn in 0..ALL.len() {
            let at = (turn + round) % ALL.len();
            if wanted("publish") {
                table.add(published + at, bench.publish(ALL[at], messages).await?);
            }
        }
        if wanted("publish") {
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
            for turn in 0..ALL.len() {
                let at = (turn + round) % ALL.len();
                let queue = &queues[at.saturating_sub(1)];
                let cost = bench.consume(ALL[at], what, queue, &from, messages).await?;
                table.add(first + at, cost);
            }
            for queue in queues {
                bench.bus.topology().delete_queue(&queue).await?;
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
            for (at, by) in [By::Rdkafka, By::Framework].into_iter().enumerate() {
                table.add(tasks + at, bench.tasks(by, messages / 10).await?);
            }
        }
        if wanted("single") {
            let taken = bench.single(messages / 200).await?;
            for (at, taken) in taken.iter().enumerate() {
                let above = |share: usize| taken[taken.len() - 1 - taken.len() / share];
                table.add_value(single + at, above(2));
                table.add_value(single + 3 + at, above(100));
            }
        }
    }
    bench.bus.close().await?;
    println!("{bytes} bytes, {messages} messages, {rounds} rounds");
    table.print();
    Ok(())
}

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let Ok(url) = std::env::var("KAFKA_URL") else {
        eprintln!("KAFKA_URL names no Kafka; `scripts/brokers up kafka` starts one");
        return ExitCode::FAILURE;
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(&url)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
