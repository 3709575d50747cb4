//! What the framework costs on RabbitMQ: lapin's best loop, the backend alone and the whole framework in turn,
//! with the same queue, the same guarantee and the same bytes on the wire.
//!
//! `RABBITMQ_URL=amqp://… cargo bench -p event-benches --bench amqp [-- --messages N] [--rounds N]`

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use event_amqp::AmqpTransport;
use event_benches::{BATCH, Cost, Meter, RawBytes, Table, option, payload};
use event_core::{
    Arrival, Binding, Bus, Delivery, Message, Queue, QueueSpec, Service, Settled, Settlement,
    Transport,
};
use futures_util::{StreamExt, future::try_join_all, stream, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions,
        BasicQosOptions, ConfirmSelectOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const EXCHANGE: &str = "bench";
const KEY: &str = "bench.v1.raw";
/// How many publishes lapin has on their way: more are no faster.
const WINDOW: usize = 1_000;
const PREFETCH: u16 = 1_000;
/// How many deliveries lapin acknowledges at once.
const TOGETHER: u64 = 250;
/// How many batches are on their way through the backend and the framework.
const FLYING: usize = 8;
const TASKS: usize = 64;

/// Who publishes or consumes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Lapin,
    Backend,
    Framework,
}

const ALL: [By; 3] = [By::Lapin, By::Backend, By::Framework];

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Lapin => "lapin",
            Self::Backend => "backend",
            Self::Framework => "framework",
        }
    }
}

struct Bench {
    queue: String,
    /// Publishes, as the backend has a connection for each direction too.
    publishing: Channel,
    consuming: Connection,
    _publishing: Connection,
    transport: Arc<dyn Transport>,
    bus: Bus,
    event: RawBytes,
    /// As the framework published it.
    message: Message,
    properties: BasicProperties,
}

impl Bench {
    async fn open(url: &str, bytes: usize) -> Outcome<Self> {
        let queue = format!("bench_amqp_{}", std::process::id());
        let transport: Arc<dyn Transport> = Arc::new(AmqpTransport::connect(url).await?);
        let bus = Bus::from_arc(transport.clone());
        bus.topology().delete_queue(&queue).await?;
        let service = Service::new("bench").queue(described(&queue));
        bus.topology().declare(&service.topology()?).await?;
        let event = RawBytes(payload(bytes));

        let connect = || Connection::connect(url, ConnectionProperties::default());
        let (consuming, connection) = (connect().await?, connect().await?);
        let publishing = connection.create_channel().await?;
        publishing
            .confirm_select(ConfirmSelectOptions::default())
            .await?;

        // The same on the wire: lapin sends again what the framework sent.
        event.publish(&bus).await?;
        let got = publishing
            .basic_get(queue.as_str().into(), BasicGetOptions::default())
            .await?
            .ok_or("the first message is not there")?;
        let properties = got.properties.clone();
        publishing
            .basic_ack(got.delivery_tag, BasicAckOptions::default())
            .await?;
        event.publish(&bus).await?;
        let mut subscription = transport.consume(&spec(&queue)?).await?;
        let Arrival::Batch(batch) = subscription.deliveries.next(1).await? else {
            return Err("the second message is not there".into());
        };
        let message = batch.first().map(|delivery| delivery.message().clone());
        let acks = batch.iter().map(|delivery| Settlement::Ack(delivery.tag()));
        for settled in subscription.settle.settle(acks.collect()).await {
            settled?;
        }
        end(subscription).await?;
        Ok(Self {
            queue,
            publishing,
            consuming,
            _publishing: connection,
            transport,
            bus,
            event,
            message: message.ok_or("a batch is empty")?,
            properties,
        })
    }

    /// Publishes so many messages, pipelined: lapin with so many on their way.
    async fn publish(&self, by: By, messages: u64, window: usize) -> Outcome<Cost> {
        let batches = messages.div_ceil(BATCH);
        let meter = Meter::start();
        match by {
            By::Lapin => {
                let mut confirms = FuturesUnordered::new();
                for _ in 0..batches * BATCH {
                    if confirms.len() >= window {
                        confirmed(confirms.next().await)?;
                    }
                    confirms.push(self.send());
                }
                while let Some(confirm) = confirms.next().await {
                    confirmed(Some(confirm))?;
                }
            }
            By::Backend => {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
                let mut flying = stream::iter(0..batches)
                    .map(|_| {
                        let batch = (0..BATCH).map(|_| self.message.clone()).collect();
                        self.transport.publish(batch, deadline)
                    })
                    .buffer_unordered(FLYING);
                while let Some(results) = flying.next().await {
                    for result in results {
                        result?;
                    }
                }
            }
            By::Framework => {
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
        }
        Ok(meter.stop(batches * BATCH))
    }

    async fn send(&self) -> lapin::Result<Confirmation> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (properties, bytes) = (self.properties.clone(), &self.event.0);
        let sent =
            self.publishing
                .basic_publish(EXCHANGE.into(), KEY.into(), options, bytes, properties);
        sent.await?.await
    }

    /// Consumes and acknowledges what the queue holds. The time is that from the first delivery to the last
    /// acknowledgement.
    async fn consume(&self, by: By, messages: u64) -> Outcome<Cost> {
        let messages = messages.div_ceil(BATCH) * BATCH;
        match by {
            By::Lapin => self.consume_with_lapin(messages).await,
            By::Backend => self.consume_with_backend(messages).await,
            By::Framework => self.consume_with_framework(messages).await,
        }
    }

    async fn consume_with_lapin(&self, messages: u64) -> Outcome<Cost> {
        let channel = self.consuming.create_channel().await?;
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await?;
        let mut consumer = channel
            .basic_consume(
                self.queue.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let mut meter = None;
        let mut count = 0;
        while count < messages {
            let delivery = consumer.next().await.ok_or("the consumer ended")??;
            meter.get_or_insert_with(Meter::start);
            count += 1;
            if count.is_multiple_of(TOGETHER) || count == messages {
                let up_to = BasicAckOptions { multiple: true };
                channel.basic_ack(delivery.delivery_tag, up_to).await?;
            }
        }
        let cost = meter.ok_or("nothing came")?.stop(messages);
        channel.close(200, "done".into()).await?;
        Ok(cost)
    }

    async fn consume_with_backend(&self, messages: u64) -> Outcome<Cost> {
        let mut subscription = self.transport.consume(&spec(&self.queue)?).await?;
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
        let service = Service::new("bench").queue(described(&self.queue));
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
        for _ in 0..messages {
            for (by, taken) in ALL.into_iter().zip(&mut taken) {
                let start = Instant::now();
                match by {
                    By::Lapin => confirmed(Some(self.send().await))?,
                    By::Backend => {
                        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                        let batch = vec![self.message.clone()];
                        for result in self.transport.publish(batch, deadline).await {
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

    /// Many tasks on one bus, each of which awaits its publishes one by one.
    async fn tasks(&self, messages: u64) -> Outcome<Cost> {
        let each = messages / TASKS as u64;
        let meter = Meter::start();
        let tasks = (0..TASKS).map(|_| {
            let (bus, event) = (self.bus.clone(), self.event.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    event.publish(&bus).await?;
                }
                event_core::Result::<()>::Ok(())
            })
        });
        for done in try_join_all(tasks).await? {
            done?;
        }
        Ok(meter.stop(each * TASKS as u64))
    }

    async fn purge(&self) -> Outcome {
        let name = self.queue.as_str().into();
        let purge = self
            .publishing
            .queue_purge(name, QueuePurgeOptions::default());
        purge.await?;
        Ok(())
    }

    async fn close(self) -> Outcome {
        self.bus.topology().delete_queue(&self.queue).await?;
        self.bus.close().await?;
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
        .prefetch(usize::from(PREFETCH))
        .handle(count)
}

fn spec(queue: &str) -> Outcome<QueueSpec> {
    let mut spec = QueueSpec::new(queue.parse()?);
    spec.bindings.push(Binding::new(EXCHANGE, KEY)?);
    spec.prefetch = usize::from(PREFETCH);
    Ok(spec)
}

async fn end(mut subscription: event_core::Subscription) -> Outcome {
    subscription.stop.cancel();
    while !matches!(subscription.deliveries.next(1).await?, Arrival::Ended) {}
    Ok(())
}

fn confirmed(confirm: Option<lapin::Result<Confirmation>>) -> Outcome {
    match confirm {
        Some(Ok(confirmation)) if confirmation.is_ack() => Ok(()),
        Some(Err(error)) => Err(error.into()),
        _ => Err("a publish was refused".into()),
    }
}

async fn run(url: &str) -> Outcome {
    let messages = option("--messages", 50_000);
    let rounds = usize::try_from(option("--rounds", 3))?.max(1);
    let mut table = Table::default();
    for bytes in [64, 256] {
        let first = table.rows();
        for by in ALL {
            table.row(format!("publish, {bytes} B, {}", by.name()), "/s", first);
        }
        for by in ALL {
            table.row(
                format!("consume, {bytes} B, {}", by.name()),
                "/s",
                first + 3,
            );
        }
        table.row(
            format!("publish, {bytes} B, {TASKS} tasks"),
            "/s",
            first + 2,
        );
        table.row(
            format!("publish, {bytes} B, lapin, {TASKS} open"),
            "/s",
            first,
        );
        for (at, percentile) in ["p50", "p99"].into_iter().enumerate() {
            for by in ALL {
                let name = format!("one publish, {bytes} B, {percentile}, {}", by.name());
                table.row(name, "µs", first + 8 + 3 * at);
            }
        }
        let bench = Bench::open(url, bytes).await?;
        // Warm, and not counted.
        bench.publish(By::Framework, messages / 10, WINDOW).await?;
        bench.consume(By::Framework, messages / 10).await?;
        // In turn, so that a slow moment of a shared machine does not hit one row alone; and each of them first
        // once, so that none always has a queue that the one before it has just left.
        for round in 0..rounds {
            for turn in 0..ALL.len() {
                let at = (turn + round) % ALL.len();
                let published = bench.publish(ALL[at], messages, WINDOW).await?;
                let consumed = bench.consume(ALL[at], messages).await?;
                table.add(first + at, published);
                table.add(first + 3 + at, consumed);
            }
            table.add(first + 6, bench.tasks(messages).await?);
            bench.purge().await?;
            let open = bench.publish(By::Lapin, messages, TASKS).await?;
            table.add(first + 7, open);
            bench.purge().await?;
            let taken = bench.single(messages / 50).await?;
            for (at, taken) in taken.iter().enumerate() {
                let above = |share: usize| taken[taken.len() - 1 - taken.len() / share];
                table.add_value(first + 8 + at, above(2));
                table.add_value(first + 11 + at, above(100));
            }
            bench.purge().await?;
        }
        bench.close().await?;
    }
    table.print();
    Ok(())
}

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let Ok(url) = std::env::var("RABBITMQ_URL") else {
        eprintln!("RABBITMQ_URL names no RabbitMQ; `scripts/brokers up rabbitmq` starts one");
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
