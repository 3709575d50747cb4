//! What the framework costs on RabbitMQ: lapin's best loop, the backend alone and the whole framework in turn,
//! with the same queue, the same guarantee and the same bytes on the wire.
//!
//! `RABBITMQ_URL=amqp://… cargo bench -p event-benches --bench amqp [-- --messages N] [--rounds N]`

use std::process::ExitCode;

use event_amqp::AmqpTransport;
use event_benches::{
    BATCH, Broker, By, Cost, EXCHANGE, Meter, Outcome, RAW, RawBytes, TASKS, Table, option, run_on,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions,
        BasicQosOptions, ConfirmSelectOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};

/// How many publishes lapin has on their way: more are no faster.
const WINDOW: usize = 1_000;
const PREFETCH: u16 = 1_000;
/// How many deliveries lapin acknowledges at once.
const TOGETHER: u64 = 250;
/// How many batches are on their way through the backend and the framework.
const FLYING: usize = 8;

struct Bench {
    queue: String,
    /// Publishes, as the backend has a connection for each direction too.
    publishing: Channel,
    consuming: Connection,
    _publishing: Connection,
    broker: Broker,
    /// As the framework wrote them.
    properties: BasicProperties,
}

impl Bench {
    async fn open(url: &str, bytes: usize) -> Outcome<Self> {
        let queue = format!("bench_amqp_{}", std::process::id());
        let transport = AmqpTransport::connect(url).await?;
        let mut broker = Broker::new(transport, bytes, FLYING, usize::from(PREFETCH))?;
        broker.declare(&queue).await?;

        let connect = || Connection::connect(url, ConnectionProperties::default());
        let (consuming, connection) = (connect().await?, connect().await?);
        let publishing = connection.create_channel().await?;
        publishing
            .confirm_select(ConfirmSelectOptions::default())
            .await?;

        // The same on the wire: lapin sends again what the framework sent.
        broker.event.publish(&broker.bus).await?;
        let got = publishing
            .basic_get(queue.as_str().into(), BasicGetOptions::default())
            .await?
            .ok_or("the first message is not there")?;
        let properties = got.properties.clone();
        publishing
            .basic_ack(got.delivery_tag, BasicAckOptions::default())
            .await?;
        broker.event.publish(&broker.bus).await?;
        broker.learn(&queue).await?;
        Ok(Self {
            queue,
            publishing,
            consuming,
            _publishing: connection,
            broker,
            properties,
        })
    }

    async fn publish(&self, by: By, messages: u64) -> Outcome<Cost> {
        match by {
            By::Client => self.publish_with_lapin(messages, WINDOW).await,
            By::Backend => self.broker.publish_with_backend(messages).await,
            By::Framework => self.broker.publish_with_framework(messages).await,
        }
    }

    /// Publishes so many messages with lapin, pipelined, so many of them on their way.
    async fn publish_with_lapin(&self, messages: u64, window: usize) -> Outcome<Cost> {
        let messages = messages.div_ceil(BATCH) * BATCH;
        let meter = Meter::start();
        let mut confirms = FuturesUnordered::new();
        for _ in 0..messages {
            if confirms.len() >= window {
                confirmed(confirms.next().await)?;
            }
            confirms.push(self.send());
        }
        while let Some(confirm) = confirms.next().await {
            confirmed(Some(confirm))?;
        }
        Ok(meter.stop(messages))
    }

    async fn send(&self) -> lapin::Result<Confirmation> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (properties, bytes) = (self.properties.clone(), &self.broker.event.0);
        let sent =
            self.publishing
                .basic_publish(EXCHANGE.into(), RAW.into(), options, bytes, properties);
        sent.await?.await
    }

    /// Consumes and acknowledges what the queue holds. The time is that from the first delivery to the last
    /// acknowledgement.
    async fn consume(&self, by: By, messages: u64) -> Outcome<Cost> {
        let messages = messages.div_ceil(BATCH) * BATCH;
        let (broker, queue) = (&self.broker, &self.queue);
        match by {
            By::Client => self.consume_with_lapin(messages).await,
            By::Backend => broker.consume_with_backend(queue, RAW, messages).await,
            By::Framework => {
                broker
                    .consume_with_framework::<RawBytes>(queue, messages)
                    .await
            }
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

    async fn purge(&self) -> Outcome {
        let name = self.queue.as_str().into();
        let purge = self
            .publishing
            .queue_purge(name, QueuePurgeOptions::default());
        purge.await?;
        Ok(())
    }

    async fn close(self) -> Outcome {
        self.broker.bus.topology().delete_queue(&self.queue).await?;
        self.broker.bus.close().await?;
        Ok(())
    }
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
    let mut table = Table::new("lapin");
    for bytes in [64, 256] {
        let published = table.each(&format!("publish, {bytes} B"), "/s", &By::ALL);
        let consumed = table.each(&format!("consume, {bytes} B"), "/s", &By::ALL);
        let tasks = table.row(
            format!("publish, {bytes} B, {TASKS} tasks"),
            "/s",
            published + 2,
        );
        let open = table.row(
            format!("publish, {bytes} B, lapin, {TASKS} open"),
            "/s",
            published,
        );
        let single = table.percentiles(&format!("one publish, {bytes} B"));
        let bench = Bench::open(url, bytes).await?;
        // Warm, and not counted.
        bench.publish(By::Framework, messages / 10).await?;
        bench.consume(By::Framework, messages / 10).await?;
        for round in 0..rounds {
            for (at, by) in By::turns(round) {
                table.add(published + at, bench.publish(by, messages).await?);
                table.add(consumed + at, bench.consume(by, messages).await?);
            }
            table.add(tasks, bench.broker.tasks(messages).await?);
            bench.purge().await?;
            table.add(open, bench.publish_with_lapin(messages, TASKS).await?);
            bench.purge().await?;
            let lapin = async || confirmed(Some(bench.send().await));
            let taken = bench.broker.single(messages / 50, lapin).await?;
            table.add_percentiles(single, &taken);
            bench.purge().await?;
        }
        bench.close().await?;
    }
    table.print();
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    run_on("RabbitMQ", run).await
}
