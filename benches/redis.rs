//! What the framework costs on Redis: redis-rs alone, the backend alone and the whole framework in turn, with the same
//! streams, the same guarantee and the same fields.
//!
//! redis-rs publishes in two ways: `XADD`s in a pipeline, which is what it could do at best, and the backend's own
//! script with arguments that are made before. The second is what the backend and the framework are compared with.
//!
//! `REDIS_URL=redis://… cargo bench -p event-benches --bench redis [-- --messages N] [--rounds N] [--bytes N]`

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use event_benches::{
    BATCH, Broker, By, Cost, EXCHANGE, Meter, Outcome, RAW, RawBytes, TASKS, Table, later, option,
    payload, run_on, tasks,
};
use event_core::{Binding, Bus, ExchangeName, Message, QueueSpec, RoutingKey, Topology, Transport};
use event_redis::RedisTransport;
use futures_util::{StreamExt, stream};
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, Value,
    aio::MultiplexedConnection,
};

/// As the backend puts it together, which has loaded it.
const SCRIPT: &str = concat!(
    include_str!("../backends/redis/src/scripts/common/table.lua"),
    include_str!("../backends/redis/src/scripts/publish.lua")
);
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

/// One exchange with some queues that all get each message.
struct Bench {
    /// Publishes, as the backend has a connection for each direction too.
    publishing: MultiplexedConnection,
    reading: MultiplexedConnection,
    broker: Broker,
    /// What the framework published, as fields and values.
    fields: Vec<Value>,
    queues: Vec<String>,
    streams: Vec<String>,
    digest: String,
}

impl Bench {
    async fn open(url: &str, bytes: usize, fan_out: usize) -> Outcome<Self> {
        let transport = RedisTransport::connect(url).await?;
        let mut broker = Broker::new(transport, bytes, FLYING, PREFETCH)?;
        let queue = |at| format!("bench_redis_{}_{at}", std::process::id());
        let queues: Vec<String> = (0..fan_out).map(queue).collect();
        for queue in &queues {
            broker.declare(queue).await?;
        }
        let streams: Vec<_> = queues.iter().map(|queue| key(EXCHANGE, queue)).collect();
        let publishing = connect(url).await?;
        // The same fields: redis-rs sends again what the framework sent.
        broker.event.publish(&broker.bus).await?;
        let mut range = redis::cmd("XRANGE");
        range.arg(&streams[0]).arg("-").arg("+");
        let found: Vec<(String, Vec<Value>)> = range.query_async(&mut publishing.clone()).await?;
        let fields = found.into_iter().next().ok_or("nothing came")?.1;
        broker.learn(&queues[0]).await?;
        let bench = Self {
            reading: connect(url).await?,
            digest: redis::Script::new(SCRIPT).get_hash().to_owned(),
            publishing,
            broker,
            fields,
            queues,
            streams,
        };
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
        match by {
            By::Client => self.publish_with_redis(messages).await,
            By::Backend => self.broker.publish_with_backend(messages).await,
            By::Framework => self.broker.publish_with_framework(messages).await,
        }
    }

    async fn publish_with_redis(&self, messages: u64) -> Outcome<Cost> {
        let calls = messages.div_ceil(self.call());
        let call = self.script(self.call()).await?;
        let meter = Meter::start();
        let mut flying = stream::iter(0..calls)
            .map(|_| self.run_script(&call, self.call()))
            .buffer_unordered(CALLS);
        while let Some(done) = flying.next().await {
            done?;
        }
        Ok(meter.stop(calls * self.call()))
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
        let (broker, queue) = (&self.broker, &self.queues[0]);
        match by {
            By::Client => self.consume_with_redis(messages).await,
            By::Backend => broker.consume_with_backend(queue, RAW, messages).await,
            By::Framework => {
                broker
                    .consume_with_framework::<RawBytes>(queue, messages)
                    .await
            }
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

    /// How long a publish takes that is awaited alone.
    async fn single(&self, messages: u64) -> Outcome<[Vec<f64>; 3]> {
        let call = self.script(1).await?;
        let redis = async || self.run_script(&call, 1).await;
        self.broker.single(messages, redis).await
    }

    /// Many tasks on one connection of redis-rs, each of which awaits its publishes one by one.
    async fn tasks(self: &Arc<Self>, messages: u64) -> Outcome<Cost> {
        let call = Arc::new(self.script(1).await?);
        let task = |each| {
            let (bench, call) = (self.clone(), call.clone());
            async move {
                for _ in 0..each {
                    bench.run_script(&call, 1).await?;
                }
                Ok(())
            }
        };
        tasks(messages, task).await
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
            self.broker.bus.topology().delete_queue(queue).await?;
        }
        self.broker.bus.close().await?;
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
    let mut table = Table::new("redis-rs");
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
    let published = table.each(&format!("publish to {fan_out}"), "/s", &By::ALL);
    let appended = table.row(format!("publish to {fan_out}, XADD"), "/s", published);
    let rest = (fan_out == 1).then(|| {
        (
            table.each("consume", "/s", &By::ALL),
            table.percentiles("one publish"),
            table.each(
                &format!("publish, {TASKS} tasks"),
                "/s",
                &[By::Client, By::Framework],
            ),
        )
    });
    let messages = (messages / fan_out as u64).max(1_000);
    let bench = Arc::new(Bench::open(url, bytes, fan_out).await?);
    // Warm, and not counted.
    bench.publish(By::Framework, messages / 10).await?;
    bench.consume(By::Framework).await?;
    bench.purge().await?;
    for round in 0..rounds {
        for (at, by) in By::turns(round) {
            table.add(published + at, bench.publish(by, messages).await?);
            if let Some((consumed, ..)) = rest {
                table.add(consumed + at, bench.consume(by).await?);
            }
            bench.purge().await?;
        }
        table.add(appended, bench.append(messages).await?);
        bench.purge().await?;
        let Some((_, single, tasks)) = rest else {
            continue;
        };
        table.add(tasks, bench.tasks(messages).await?);
        bench.purge().await?;
        table.add(tasks + 1, bench.broker.tasks(messages).await?);
        bench.purge().await?;
        table.add_percentiles(single, &bench.single(messages / 20).await?);
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

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    run_on("Redis", run).await
}
