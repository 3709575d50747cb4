//! What the framework costs on Redis: redis-rs alone, the backend alone and the whole framework in turn, with the same
//! streams, the same guarantee and the same fields.
//!
//! redis-rs publishes in two ways: `XADD`s in a pipeline, which is what it could do at best, and the backend's own
//! script with arguments that are made before. The second is what the backend and the framework are compared with.
//!
//! `REDIS_URL=redis://… cargo bench -p event-benches --bench redis [-- --messages N] [--rounds N] [--bytes N]`

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use event_benches::{BATCH, Cost, Meter, RawBytes, Table, option, payload};
use event_core::{
    Arrival, Binding, Bus, Delivery, ExchangeName, Message, Queue, QueueSpec, RoutingKey, Service,
    Settled, Settlement, Topology, Transport,
};
use event_redis::RedisTransport;
use futures_util::{StreamExt, future::try_join_all, stream};
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, Value,
    aio::MultiplexedConnection,
};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const EXCHANGE: &str = "bench";
const KEY: &str = "bench.v1.raw";
const SCRIPT: &str = include_str!("../backends/redis/src/scripts/publish.lua");
/// How many messages redis-rs puts into a call of the script, and how many it appends; how many calls are on their
/// way. The same as in the backend.
const CALL: u64 = 500;
const APPENDS: u64 = 1_000;
const CALLS: usize = 4;
/// How many `XADD`s redis-rs puts into a pipeline.
const PIPELINE: u64 = 100;
/// How many entries redis-rs reads and acknowledges at once.
const READ: u64 = 250;
const PREFETCH: usize = 1_000;
/// How many batches are on their way through the backend and the framework.
const FLYING: usize = 8;
const TASKS: usize = 64;

/// Who publishes or consumes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Redis,
    Backend,
    Framework,
}

const ALL: [By; 3] = [By::Redis, By::Backend, By::Framework];

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis-rs",
            Self::Backend => "backend",
            Self::Framework => "framework",
        }
    }
}

/// One exchange with some queues that all get each message.
struct Bench {
    /// Publishes, as the backend has a connection for each direction too.
    publishing: MultiplexedConnection,
    reading: MultiplexedConnection,
    transport: Arc<dyn Transport>,
    bus: Bus,
    event: RawBytes,
    /// As the framework published it.
    message: Message,
    /// The same, as fields and values.
    fields: Vec<Value>,
    queues: Vec<String>,
    streams: Vec<String>,
    digest: String,
}

impl Bench {
    async fn open(url: &str, bytes: usize, fan_out: usize) -> Outcome<Self> {
        let transport: Arc<dyn Transport> = Arc::new(RedisTransport::connect(url).await?);
        let bus = Bus::from_arc(transport.clone());
        let queue = |at| format!("bench_redis_{}_{at}", std::process::id());
        let queues: Vec<String> = (0..fan_out).map(queue).collect();
        for queue in &queues {
            bus.topology().delete_queue(queue).await?;
            let service = Service::new("bench").queue(described(queue));
            bus.topology().declare(&service.topology()?).await?;
        }
        let event = RawBytes(payload(bytes));
        let publishing = connect(url).await?;
        let mut bench = Self {
            reading: connect(url).await?,
            streams: queues.iter().map(|queue| key(EXCHANGE, queue)).collect(),
            digest: redis::Script::new(SCRIPT).get_hash().to_owned(),
            message: Message::new(EXCHANGE.parse()?, KEY.parse()?, event.0.clone()),
            fields: Vec::new(),
            publishing,
            transport,
            bus,
            event,
            queues,
        };
        // The same fields: redis-rs sends again what the framework sent.
        bench.event.publish(&bench.bus).await?;
        let mut range = redis::cmd("XRANGE");
        range.arg(&bench.streams[0]).arg("-").arg("+");
        let found: Vec<(String, Vec<Value>)> =
            range.query_async(&mut bench.publishing.clone()).await?;
        bench.fields = found.into_iter().next().ok_or("nothing came")?.1;
        let mut subscription = bench.transport.consume(&spec(&bench.queues[0])?).await?;
        let Arrival::Batch(batch) = subscription.deliveries.next(1).await? else {
            return Err("the first message is not there".into());
        };
        bench.message = batch[0].message().clone();
        let acks = batch.iter().map(Delivery::tag).map(Settlement::Ack);
        for settled in subscription.settle.settle(acks.collect()).await {
            settled?;
        }
        end(subscription).await?;
        bench.purge().await?;
        Ok(bench)
    }

    /// How many messages a call of the script takes.
    fn call(&self) -> u64 {
        CALL.min(APPENDS / self.queues.len() as u64)
    }

    /// A call of the script that publishes so many messages.
    async fn script(&self, messages: u64) -> Outcome<Cmd> {
        let keys = ["version", "bindings", "queues"].map(|name| key_of(EXCHANGE, name));
        let mut get = redis::cmd("GET");
        let version: String = get
            .arg(&keys[0])
            .query_async(&mut self.publishing.clone())
            .await?;
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.digest)
            .arg(keys.len() + self.streams.len())
            .arg(&keys)
            .arg(&self.streams)
            .arg(version);
        for queue in &self.queues {
            call.arg(queue).arg("");
        }
        for _ in 0..messages {
            call.arg(self.queues.len());
            for place in 1..=self.queues.len() {
                call.arg(place);
            }
            call.arg(self.fields.len());
            for field in &self.fields {
                call.arg(bytes(field)?);
            }
        }
        Ok(call)
    }

    async fn run_script(&self, call: &Cmd, messages: u64) -> Outcome {
        let answers: Vec<usize> = call.query_async(&mut self.publishing.clone()).await?;
        if answers.len() as u64 == messages && answers.iter().all(|took| *took == self.queues.len())
        {
            return Ok(());
        }
        Err("not all queues took a message".into())
    }

    /// Publishes so many messages, as fast as possible.
    async fn publish(&self, by: By, messages: u64) -> Outcome<Cost> {
        let batches = messages.div_ceil(BATCH);
        if by == By::Redis {
            let calls = messages.div_ceil(self.call());
            let call = self.script(self.call()).await?;
            let meter = Meter::start();
            let mut flying = stream::iter(0..calls)
                .map(|_| self.run_script(&call, self.call()))
                .buffer_unordered(CALLS);
            while let Some(done) = flying.next().await {
                done?;
            }
            return Ok(meter.stop(calls * self.call()));
        }
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

    /// Appends so many messages to the streams, without a script.
    async fn append(&self, messages: u64) -> Outcome<Cost> {
        let mut pipeline = Pipeline::new();
        for _ in 0..PIPELINE {
            for stream in &self.streams {
                let mut add = redis::cmd("XADD");
                add.arg(stream).arg("NOMKSTREAM").arg("*");
                for field in &self.fields {
                    add.arg(bytes(field)?);
                }
                pipeline.add_command(add);
            }
        }
        let pipelines = messages.div_ceil(PIPELINE);
        let meter = Meter::start();
        let mut flying = stream::iter(0..pipelines)
            .map(|_| async {
                let mut connection = self.publishing.clone();
                pipeline.query_async::<Vec<Value>>(&mut connection).await
            })
            .buffer_unordered(CALLS);
        while let Some(done) = flying.next().await {
            done?;
        }
        Ok(meter.stop(pipelines * PIPELINE))
    }

    /// Consumes and acknowledges what the first queue holds. The time is that from the first delivery to the last
    /// acknowledgement.
    async fn consume(&self, by: By) -> Outcome<Cost> {
        let mut length = redis::cmd("XLEN");
        length.arg(&self.streams[0]);
        let messages: u64 = length.query_async(&mut self.publishing.clone()).await?;
        match by {
            By::Redis => self.consume_with_redis(messages).await,
            By::Backend => self.consume_with_backend(messages).await,
            By::Framework => self.consume_with_framework(messages).await,
        }
    }

    async fn consume_with_redis(&self, messages: u64) -> Outcome<Cost> {
        let stream = &self.streams[0];
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg("consumers").arg("redis-rs");
        read.arg("COUNT").arg(READ).arg("BLOCK").arg(10_000);
        read.arg("STREAMS").arg(stream).arg(">");
        let (mut reading, mut settling) = (self.reading.clone(), self.publishing.clone());
        let mut meter = None;
        let mut count = 0;
        let mut unsettled: Vec<Value> = Vec::new();
        while count < messages || !unsettled.is_empty() {
            let mut settle = Pipeline::new();
            for name in ["XACK", "XDEL"] {
                settle.cmd(name).arg(stream);
                if name == "XACK" {
                    settle.arg("consumers");
                }
                for id in &unsettled {
                    settle.arg(bytes(id)?);
                }
            }
            let held = unsettled.len();
            // The next ones come while these are settled.
            let read = async {
                if count == messages {
                    return Ok(Vec::new());
                }
                entries(reading.send_packed_command(&read).await?)
            };
            let settled = async {
                if held == 0 {
                    return Outcome::Ok((0, 0));
                }
                Ok(settle.query_async::<(usize, usize)>(&mut settling).await?)
            };
            let (entries, settled) = tokio::join!(read, settled);
            if settled? != (held, held) {
                return Err("not all were settled".into());
            }
            meter.get_or_insert_with(Meter::start);
            unsettled.clear();
            for (id, fields) in entries? {
                let mut fields = fields.into_iter();
                while let Some(name) = fields.next() {
                    let value = fields.next();
                    if name == Value::BulkString(b"data".to_vec()) {
                        count += u64::from(matches!(value, Some(Value::BulkString(_))));
                    }
                }
                unsettled.push(id);
            }
        }
        Ok(meter.ok_or("nothing came")?.stop(messages))
    }

    async fn consume_with_backend(&self, messages: u64) -> Outcome<Cost> {
        let mut subscription = self.transport.consume(&spec(&self.queues[0])?).await?;
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
        let cost = meter.ok_or("nothing came")?.stop(messages);
        end(subscription).await?;
        Ok(cost)
    }

    async fn consume_with_framework(&self, messages: u64) -> Outcome<Cost> {
        HANDLED.store(0, Relaxed);
        let before = self.bus.counters().handled;
        let service = Service::new("bench").queue(described(&self.queues[0]));
        let running = service.start(&self.bus).await?;
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

    /// How long a publish takes that is awaited alone: each of the three in turn, in microseconds, sorted.
    async fn single(&self, messages: u64) -> Outcome<[Vec<f64>; 3]> {
        let mut taken = [const { Vec::new() }; 3];
        let call = self.script(1).await?;
        for _ in 0..messages {
            for (by, taken) in ALL.into_iter().zip(&mut taken) {
                let start = Instant::now();
                match by {
                    By::Redis => self.run_script(&call, 1).await?,
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

    /// Many tasks, each of which awaits its publishes one by one: on one bus, or on one connection of redis-rs.
    async fn tasks(self: &Arc<Self>, by: By, messages: u64) -> Outcome<Cost> {
        let each = messages / TASKS as u64;
        let call = Arc::new(self.script(1).await?);
        let meter = Meter::start();
        let tasks = (0..TASKS).map(|_| {
            let (bench, call) = (self.clone(), call.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    match by {
                        By::Redis => bench.run_script(&call, 1).await?,
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

    async fn purge(&self) -> Outcome {
        for stream in &self.streams {
            let mut trim = redis::cmd("XTRIM");
            trim.arg(stream).arg("MAXLEN").arg(0);
            trim.exec_async(&mut self.publishing.clone()).await?;
        }
        Ok(())
    }

    async fn close(&self) -> Outcome {
        for queue in &self.queues {
            self.bus.topology().delete_queue(queue).await?;
        }
        self.bus.close().await?;
        Ok(())
    }
}

/// An exchange with one queue that gets each message, and another one with many bindings that match none.
struct Bindings {
    transport: Arc<dyn Transport>,
    exchange: ExchangeName,
    queues: [String; 2],
    stream: String,
    payload: RawBytes,
}

impl Bindings {
    async fn open(url: &str, bytes: usize, count: usize) -> Outcome<Self> {
        let transport: Arc<dyn Transport> = Arc::new(RedisTransport::connect(url).await?);
        let exchange = ExchangeName::new(format!("bench-{count}"))?;
        let queues = ["own", "other"].map(|name| format!("bench_redis_{count}_{name}"));
        let mut own = QueueSpec::new(queues[0].parse()?);
        own.bindings.push(Binding::new(&exchange, "bench.*.raw")?);
        let mut other = QueueSpec::new(queues[1].parse()?);
        for at in 0..count {
            let pattern = format!("other.{at}.*");
            other.bindings.push(Binding::new(&exchange, &pattern)?);
        }
        let topology = Topology {
            exchanges: vec![exchange.clone()],
            queues: vec![own, other],
        };
        transport.declare(&topology).await?;
        Ok(Self {
            stream: key(&exchange, &queues[0]),
            payload: RawBytes(payload(bytes)),
            transport,
            exchange,
            queues,
        })
    }

    /// Publishes so many messages, each with another routing key: what was found for one is of no use for the next.
    async fn publish(&self, messages: u64) -> Outcome<Cost> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let batches = messages.div_ceil(BATCH);
        let meter = Meter::start();
        let message = |_| {
            let number = NUMBER.fetch_add(1, Relaxed);
            let key = RoutingKey::new(format!("bench.{number}.raw"))?;
            Ok(Message::new(
                self.exchange.clone(),
                key,
                self.payload.0.clone(),
            ))
        };
        let mut flying = stream::iter(0..batches)
            .map(|_| async {
                let batch: event_core::Result<Vec<_>> = (0..BATCH).map(message).collect();
                let results = self.transport.publish(batch?, later()).await;
                results.into_iter().collect::<event_core::Result<Vec<_>>>()
            })
            .buffer_unordered(FLYING);
        while let Some(receipts) = flying.next().await {
            if receipts?.iter().any(|receipt| receipt.queues != Some(1)) {
                return Err("not exactly one queue took a message".into());
            }
        }
        Ok(meter.stop(batches * BATCH))
    }

    async fn purge(&self, connection: &mut MultiplexedConnection) -> Outcome {
        let mut trim = redis::cmd("XTRIM");
        trim.arg(&self.stream).arg("MAXLEN").arg(0);
        Ok(trim.exec_async(connection).await?)
    }

    async fn close(&self) -> Outcome {
        let bus = Bus::from_arc(self.transport.clone());
        for queue in &self.queues {
            bus.topology().delete_queue(queue).await?;
        }
        bus.close().await?;
        Ok(())
    }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

async fn count(_: RawBytes) {
    HANDLED.fetch_add(1, Relaxed);
}

fn described(queue: &str) -> Queue {
    Queue::new(queue)
        .bind(EXCHANGE, KEY)
        .prefetch(PREFETCH)
        .handle(count)
}

fn spec(queue: &str) -> Outcome<QueueSpec> {
    let mut spec = QueueSpec::new(queue.parse()?);
    spec.bindings.push(Binding::new(EXCHANGE, KEY)?);
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

async fn connect(url: &str) -> Outcome<MultiplexedConnection> {
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    let client = Client::open(url.into_connection_info()?.set_tcp_settings(tcp))?;
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_pipeline_buffer_size(2_048);
    let opened = client.get_multiplexed_async_connection_with_config(&config);
    Ok(opened.await?)
}

/// A key of an exchange, as the backend names it.
fn key_of(exchange: &str, name: &str) -> String {
    format!("switchboard:{{{exchange}}}:{name}")
}

/// The stream that a queue has for an exchange.
fn key(exchange: &str, queue: &str) -> String {
    key_of(exchange, &format!("stream:{queue}"))
}

fn bytes(value: &Value) -> Outcome<&[u8]> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err("not a string".into()),
    }
}

/// The ids and fields of what a read answers.
fn entries(answer: Value) -> Outcome<Vec<(Value, Vec<Value>)>> {
    let strange = || "a strange answer";
    let array = |value| match value {
        Some(Value::Array(values)) => Ok(values),
        _ => Err(strange()),
    };
    let mut streams = array(Some(answer))?;
    let mut stream = array(streams.pop())?;
    let entry = |entry| {
        let mut entry = array(Some(entry))?;
        let fields = array(entry.pop())?;
        Ok((entry.pop().ok_or_else(strange)?, fields))
    };
    array(stream.pop())?.into_iter().map(entry).collect()
}

async fn run(url: &str) -> Outcome {
    let messages = option("--messages", 50_000);
    let rounds = usize::try_from(option("--rounds", 3))?.max(1);
    let bytes = usize::try_from(option("--bytes", 256))?;
    let mut table = Table::default();
    for fan_out in [1, 3, 10] {
        throughput(url, &mut table, (messages, rounds, bytes), fan_out).await?;
    }
    bindings(url, &mut table, (messages, rounds, bytes)).await?;
    println!("{bytes} bytes, {messages} messages, {rounds} rounds");
    table.print();
    Ok(())
}

/// Publishing to so many queues; for one of them all the rest as well.
async fn throughput(
    url: &str,
    table: &mut Table,
    (messages, rounds, bytes): (u64, usize, usize),
    fan_out: usize,
) -> Outcome {
    let first = table.rows();
    for by in ALL {
        let name = format!("publish to {fan_out}, {}", by.name());
        table.row(name, "/s", first);
    }
    let appended = table.row(format!("publish to {fan_out}, XADD"), "/s", first);
    let consumed = table.rows();
    let single = consumed + 3;
    let tasks = single + 6;
    if fan_out == 1 {
        for by in ALL {
            table.row(format!("consume, {}", by.name()), "/s", consumed);
        }
        for (at, percentile) in ["p50", "p99"].into_iter().enumerate() {
            for by in ALL {
                let name = format!("one publish, {percentile}, {}", by.name());
                table.row(name, "µs", single + 3 * at);
            }
        }
        for by in [By::Redis, By::Framework] {
            let name = format!("publish, {TASKS} tasks, {}", by.name());
            table.row(name, "/s", tasks);
        }
    }
    let messages = (messages / fan_out as u64).max(1_000);
    let bench = Arc::new(Bench::open(url, bytes, fan_out).await?);
    // Warm, and not counted.
    bench.publish(By::Framework, messages / 10).await?;
    bench.consume(By::Framework).await?;
    bench.purge().await?;
    // In turn, so that a slow moment of a shared machine does not hit one row alone; and each of them first once.
    for round in 0..rounds {
        for turn in 0..ALL.len() {
            let at = (turn + round) % ALL.len();
            table.add(first + at, bench.publish(ALL[at], messages).await?);
            if fan_out == 1 {
                table.add(consumed + at, bench.consume(ALL[at]).await?);
            }
            bench.purge().await?;
        }
        table.add(appended, bench.append(messages).await?);
        bench.purge().await?;
        if fan_out > 1 {
            continue;
        }
        for (at, by) in [By::Redis, By::Framework].into_iter().enumerate() {
            table.add(tasks + at, bench.tasks(by, messages).await?);
            bench.purge().await?;
        }
        let taken = bench.single(messages / 20).await?;
        for (at, taken) in taken.iter().enumerate() {
            let above = |share: usize| taken[taken.len() - 1 - taken.len() / share];
            table.add_value(single + at, above(2));
            table.add_value(single + 3 + at, above(100));
        }
        bench.purge().await?;
    }
    bench.close().await
}

/// Publishing beside bindings that do not match.
async fn bindings(
    url: &str,
    table: &mut Table,
    (messages, rounds, bytes): (u64, usize, usize),
) -> Outcome {
    let first = table.rows();
    let mut connection = connect(url).await?;
    let mut all = Vec::new();
    for count in [10, 10_000] {
        table.row(format!("publish beside {count} bindings"), "/s", first);
        let bindings = Bindings::open(url, bytes, count).await?;
        // Has the table read.
        bindings.publish(1).await?;
        all.push(bindings);
    }
    for round in 0..rounds {
        for turn in 0..all.len() {
            let at = (turn + round) % all.len();
            table.add(first + at, all[at].publish(messages).await?);
            all[at].purge(&mut connection).await?;
        }
    }
    for bindings in all {
        bindings.close().await?;
    }
    Ok(())
}

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let Ok(url) = std::env::var("REDIS_URL") else {
        eprintln!("REDIS_URL names no Redis; `scripts/brokers up redis` starts one");
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
