//! What the benchmarks share: the events they publish, and one run of the backend or of the framework.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_core::{
    Address, Arrival, Binding, Bus, Delivery, Event, ExchangeName, HandlerResult, IntoOutgoing,
    Message, Queue, QueueSpec, Result, RoutingKey, Service, Settlement, Topology, Transport,
};
use event_derive::Event;
use event_memory::MemoryBroker;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

mod broker;
mod table;

pub use broker::{Broker, EXCHANGE, Outcome, RAW, TASKS, later, run_on, tasks};
pub use table::{By, Cost, Meter, Table, option, text_option};

/// How many messages a producer publishes at a time.
pub const BATCH: u64 = 256;

/// How far the producers may be ahead of the handlers: a backlog that grows measures the allocator.
const AHEAD: u64 = 16 * BATCH;

/// Bytes that are not decoded.
#[derive(Clone, Debug, Event)]
#[event(crate = "event_core", exchange = "bench", key = "bench.v1.raw", codec = Raw)]
pub struct RawBytes(pub Bytes);

/// An order line of 64 bytes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(crate = "event_core", exchange = "bench", key = "bench.v1.line")]
pub struct Line {
    /// Its number.
    pub id: u32,
    /// What is ordered.
    pub sku: u32,
    /// How many.
    pub quantity: u32,
    /// For how much each.
    pub price: f64,
    /// Whether it is urgent.
    pub express: bool,
}

impl Line {
    /// The line with this number.
    pub fn new(id: u64) -> Self {
        let id = u32::try_from(id % 90_000).unwrap_or(0) + 10_000;
        Self {
            id,
            sku: 417,
            quantity: 2,
            price: 4.5,
            express: true,
        }
    }
}

/// An order of about 1 KiB as JSON.
#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(crate = "event_core", exchange = "bench", key = "bench.v1.order")]
pub struct Order {
    /// Its number.
    pub id: u64,
    /// Who ordered.
    pub customer: String,
    /// What was ordered.
    pub lines: Vec<Line>,
}

impl Order {
    /// The order with this number.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            customer: "Ada Lovelace, 12 St James's Square, London".to_owned(),
            lines: vec![Line::new(id); 14],
        }
    }
}

/// Counts what was handled, and wakes whoever waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    handled: AtomicU64,
    bytes: AtomicU64,
    more: Notify,
}

impl Progress {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if (self.handled.fetch_add(1, Relaxed) + 1).is_multiple_of(BATCH) {
            self.more.notify_waiters();
        }
    }

    async fn reached(&self, count: u64) {
        loop {
            let more = self.more.notified();
            if self.handled.load(Relaxed) >= count {
                return;
            }
            more.await;
        }
    }
}

/// How long a number of messages took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// How many messages.
    pub messages: u64,
    /// How long they took together.
    pub time: Duration,
}

impl Taken {
    /// Messages per second.
    pub fn per_second(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }
}

/// Publishes and handles through the whole framework: `publish_all` in batches from a number of producers,
/// one queue, one handler. Counts are rounded up to whole batches for each producer.
///
/// # Errors
/// Anything that the framework fails with.
pub async fn framework<E, F>(messages: u64, producers: u64, make: F) -> Result<Taken>
where
    E: Event + Size,
    for<'e> &'e E: IntoOutgoing,
    F: Fn(u64) -> E + Copy + Send + 'static,
{
    async fn count<E: Event + Size>(
        event: E,
        state: event_core::State<Arc<Progress>>,
    ) -> HandlerResult {
        state.0.add(event.size());
        Ok(())
    }

    let bus = Bus::new(MemoryBroker::new().connect());
    let progress = Arc::new(Progress::default());
    let service = Service::new("bench").with_state(progress.clone()).queue(
        Queue::new("bench_queue")
            .bind("bench", "bench.#")
            .handle(count::<E>),
    );
    let running = service.start(&bus).await?;
    let batches = messages.div_ceil(BATCH * producers);
    let start = Instant::now();
    let producers: Vec<_> = (0..producers)
        .map(|_| {
            let (bus, progress) = (bus.clone(), progress.clone());
            tokio::spawn(async move {
                for batch in 0..batches {
                    progress
                        .reached((batch * BATCH).saturating_sub(AHEAD))
                        .await;
                    let events: Vec<E> = (0..BATCH).map(|at| make(batch * BATCH + at)).collect();
                    for result in bus.publish_all(&events).await {
                        result?;
                    }
                }
                Ok(())
            })
        })
        .collect();
    let messages = batches * BATCH * producers.len() as u64;
    for producer in producers {
        producer.await.unwrap_or_else(|_| {
            Err(event_core::Error::new(
                event_core::ErrorKind::Internal,
                "panicked",
            ))
        })?;
    }
    progress.reached(messages).await;
    let taken = Taken {
        messages,
        time: start.elapsed(),
    };
    running.shutdown().await?;
    Ok(taken)
}

/// The same messages, ready made, through the backend alone: published, delivered and acknowledged in
/// batches by one task.
///
/// # Errors
/// Anything that the backend fails with.
pub async fn backend(messages: u64, payload: Bytes) -> Result<Taken> {
    let transport: Arc<dyn Transport> = Arc::new(MemoryBroker::new().connect());
    let exchange = ExchangeName::new("bench")?;
    let address = Address::new(exchange.clone(), RoutingKey::new("bench.v1.raw")?);
    let mut spec = QueueSpec::new("bench_queue".parse()?);
    spec.bindings.push(Binding::new("bench", "bench.#")?);
    transport
        .declare(&Topology {
            exchanges: vec![exchange],
            queues: vec![spec.clone()],
        })
        .await?;
    let mut subscription = transport.consume(&spec).await?;
    let batches = messages.div_ceil(BATCH);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3_600);
    let start = Instant::now();
    for _ in 0..batches {
        let batch = (0..BATCH)
            .map(|_| Message::to(address.clone(), payload.clone()))
            .collect();
        for result in transport.publish(batch, deadline).await {
            result?;
        }
        let Arrival::Batch(batch) = subscription.deliveries.next(BATCH as usize).await? else {
            break;
        };
        let acks = batch
            .iter()
            .map(Delivery::tag)
            .map(Settlement::Ack)
            .collect();
        for result in subscription.settle.settle(acks).await {
            result?;
        }
    }
    Ok(Taken {
        messages: batches * BATCH,
        time: start.elapsed(),
    })
}

/// Something to do with an event that the compiler cannot leave out.
pub trait Size {
    /// How large it is, more or less.
    fn size(&self) -> usize;
}

impl Size for RawBytes {
    fn size(&self) -> usize {
        self.0.len()
    }
}

impl Size for Line {
    fn size(&self) -> usize {
        self.quantity as usize
    }
}

impl Size for Order {
    fn size(&self) -> usize {
        self.lines.len()
    }
}

/// A payload of this many bytes, shared by all messages.
pub fn payload(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}
