//! What the benchmarks on brokers share: the backend alone and the whole framework, which publish and consume in the
//! same way on each of them. What a client does beside them is in the benchmark of its broker.

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

use event_core::{
    Arrival, Binding, Bus, Delivery, Event, Message, Queue, QueueSpec, Receipt, Service, Settled,
    Settlement, Subscription, Transport,
};
use futures_util::{StreamExt, future::try_join_all, stream};

use crate::{BATCH, By, Cost, Meter, RawBytes, payload};

/// What a benchmark on a broker answers: whatever fails, of the framework or of a client, ends it.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The exchange of all events.
pub const EXCHANGE: &str = RawBytes::ROUTES[0].exchange;

/// The routing key of bytes that are not decoded.
pub const RAW: &str = RawBytes::ROUTES[0].key;

/// How many tasks publish one by one.
pub const TASKS: usize = 64;

/// How many messages the handler took since its service was started. Static, so that it takes nothing but the event.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// A broker, as the backend and the framework reach it.
#[derive(Debug)]
pub struct Broker {
    /// The backend.
    pub transport: Arc<dyn Transport>,
    /// The framework, on the same backend.
    pub bus: Bus,
    /// What the framework publishes.
    pub event: RawBytes,
    /// What the backend publishes.
    message: Message,
    prefetch: usize,
    flying: usize,
}

impl Broker {
    /// A broker that gets payloads of so many bytes, so many batches of them on their way at a time, and whose queues
    /// have this prefetch.
    ///
    /// # Errors
    /// Never: the names are valid.
    pub fn new(
        transport: impl Transport,
        bytes: usize,
        flying: usize,
        prefetch: usize,
    ) -> Outcome<Self> {
        let transport: Arc<dyn Transport> = Arc::new(transport);
        let event = RawBytes(payload(bytes));
        Ok(Self {
            bus: Bus::from_arc(transport.clone()),
            message: Message::new(EXCHANGE.parse()?, RAW.parse()?, event.0.clone()),
            transport,
            event,
            prefetch,
            flying,
        })
    }

    /// Declares a queue as the framework does. What was in it is gone.
    ///
    /// # Errors
    /// Anything that the backend fails with.
    pub async fn declare(&self, queue: &str) -> Outcome {
        self.bus.topology().delete_queue(queue).await?;
        let service = Service::new("bench").queue(self.queue::<RawBytes>(queue));
        self.bus.topology().declare(&service.topology()?).await?;
        Ok(())
    }

    /// Takes the first message of a queue, which the framework published. From now on the backend publishes the same.
    ///
    /// # Errors
    /// Anything that the backend fails with.
    pub async fn learn(&mut self, queue: &str) -> Outcome {
        let mut subscription = self.transport.consume(&self.spec(queue, RAW)?).await?;
        let Arrival::Batch(batch) = subscription.deliveries.next(1).await? else {
            return Err("the first message is not there".into());
        };
        let first = batch.first().ok_or("a batch is empty")?;
        self.message = first.message().clone();
        let acks = batch.iter().map(Delivery::tag).map(Settlement::Ack);
        for settled in subscription.settle.settle(acks.collect()).await {
            settled?;
        }
        end(subscription).await
    }

    /// Publishes so many messages with the backend, as fast as possible.
    ///
    /// # Errors
    /// Anything that the backend fails with.
    pub async fn publish_with_backend(&self, messages: u64) -> Outcome<Cost> {
        let batch = || {
            let batch = (0..BATCH).map(|_| self.message.clone()).collect();
            self.transport.publish(batch, later())
        };
        self.publish(messages, batch).await
    }

    /// Publishes so many messages with the framework, as fast as possible.
    ///
    /// # Errors
    /// Anything that the framework fails with.
    pub async fn publish_with_framework(&self, messages: u64) -> Outcome<Cost> {
        let batch = || async {
            let events: Vec<_> = (0..BATCH).map(|_| self.event.clone()).collect();
            self.bus.publish_all(&events).await
        };
        self.publish(messages, batch).await
    }

    async fn publish<B>(&self, messages: u64, batch: impl Fn() -> B) -> Outcome<Cost>
    where
        B: Future<Output = Vec<event_core::Result<Receipt>>>,
    {
        let batches = messages.div_ceil(BATCH);
        let meter = Meter::start();
        let mut flying = stream::iter(0..batches)
            .map(|_| batch())
            .buffer_unordered(self.flying);
        while let Some(results) = flying.next().await {
            for result in results {
                result?;
            }
        }
        Ok(meter.stop(batches * BATCH))
    }

    /// Consumes and acknowledges so many messages with the backend. The time is that from the first delivery to the
    /// last acknowledgement.
    ///
    /// # Errors
    /// Anything that the backend fails with.
    pub async fn consume_with_backend(
        &self,
        queue: &str,
        key: &str,
        messages: u64,
    ) -> Outcome<Cost> {
        let mut subscription = self.transport.consume(&self.spec(queue, key)?).await?;
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

    /// Consumes so many messages with a handler. The time is that from the first one to the last acknowledgement.
    ///
    /// # Errors
    /// Anything that the framework fails with.
    pub async fn consume_with_framework<E: Event>(
        &self,
        queue: &str,
        messages: u64,
    ) -> Outcome<Cost> {
        HANDLED.store(0, Relaxed);
        let before = self.bus.counters().handled;
        let service = Service::new("bench").queue(self.queue::<E>(queue));
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

    /// How long a publish takes that is awaited alone: with the client, which is given, the backend and the framework
    /// in turn, in microseconds, sorted.
    ///
    /// # Errors
    /// Anything that one of them fails with.
    pub async fn single(
        &self,
        messages: u64,
        client: impl AsyncFn() -> Outcome,
    ) -> Outcome<[Vec<f64>; 3]> {
        let mut taken = [const { Vec::new() }; 3];
        for _ in 0..messages {
            for (by, taken) in By::ALL.into_iter().zip(&mut taken) {
                let start = Instant::now();
                match by {
                    By::Client => client().await?,
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

    /// Many tasks on one bus, each of which awaits its publishes one by one.
    ///
    /// # Errors
    /// Anything that the framework fails with.
    pub async fn tasks(&self, messages: u64) -> Outcome<Cost> {
        let task = |each| {
            let (bus, event) = (self.bus.clone(), self.event.clone());
            async move {
                for _ in 0..each {
                    event.publish(&bus).await?;
                }
                Ok(())
            }
        };
        tasks(messages, task).await
    }

    /// A queue as the backend declares it.
    ///
    /// # Errors
    /// When a name is none.
    pub fn spec(&self, queue: &str, key: &str) -> Outcome<QueueSpec> {
        let mut spec = QueueSpec::new(queue.parse()?);
        spec.bindings.push(Binding::new(EXCHANGE, key)?);
        spec.prefetch = self.prefetch;
        Ok(spec)
    }

    /// A queue as the framework declares it, with a handler.
    fn queue<E: Event>(&self, queue: &str) -> Queue {
        async fn count<E: Event>(event: E) {
            black_box(event);
            HANDLED.fetch_add(1, Relaxed);
        }

        Queue::new(queue)
            .bind(EXCHANGE, E::ROUTES[0].key)
            .prefetch(self.prefetch)
            .handle(count::<E>)
    }
}

async fn end(mut subscription: Subscription) -> Outcome {
    subscription.stop.cancel();
    while !matches!(subscription.deliveries.next(1).await?, Arrival::Ended) {}
    Ok(())
}

/// A deadline that no publish reaches.
pub fn later() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(600)
}

/// Runs [`TASKS`] tasks that share so many messages, each of which is given its number of them.
///
/// # Errors
/// What the first task fails with.
pub async fn tasks<T>(messages: u64, task: impl Fn(u64) -> T) -> Outcome<Cost>
where
    T: Future<Output = Outcome> + Send + 'static,
{
    let each = messages / TASKS as u64;
    let meter = Meter::start();
    let tasks = (0..TASKS).map(|_| tokio::spawn(task(each)));
    for done in try_join_all(tasks).await? {
        done?;
    }
    Ok(meter.stop(each * TASKS as u64))
}

/// Runs a benchmark on the broker of this name, whose URL is in the environment.
pub async fn run_on(broker: &str, run: impl AsyncFnOnce(&str) -> Outcome) -> ExitCode {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let (variable, name) = (
        format!("{}_URL", broker.to_uppercase()),
        broker.to_lowercase(),
    );
    let Ok(url) = std::env::var(&variable) else {
        eprintln!("{variable} names no {broker}; `scripts/brokers up {name}` starts one");
        return ExitCode::FAILURE;
    };
    match run(&url).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
