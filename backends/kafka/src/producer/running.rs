//! One client that publishes, and the thread that takes its reports.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use event_core::{Message, Order, Result};
use rdkafka::{
    config::FromClientConfigAndContext,
    error::{KafkaResult, RDKafkaErrorCode as Code},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use smol_str::SmolStr;

use super::{
    code,
    record::{Answer, Record},
    reports::{Desk, Reports, Sent},
};
use crate::{client::PATIENCE, error, shared::lock, threads, url::Endpoints, wire};

/// How long a message is tried whose caller has given up.
const MESSAGE_TIMEOUT: &str = "60000";

/// How long the thread that takes reports waits at most before it looks for something else to do.
const TICK: Duration = Duration::from_millis(50);

/// What the client has no room for at present.
enum Waiting {
    Message(SmolStr, Order<Message>),
    Record(Record, Answer),
}

/// One client, and the thread that takes its reports.
pub(super) struct Running {
    client: BaseProducer<Reports>,
    waiting: Mutex<VecDeque<Waiting>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// The most bytes of a batch.
pub(super) fn batch(endpoints: &Endpoints) -> usize {
    endpoints.max_message.min(1_000_000)
}

impl Running {
    pub(super) fn start(
        endpoints: &Endpoints,
        desk: &Arc<Desk>,
        is_alone: bool,
    ) -> Result<Arc<Self>> {
        let mut config = endpoints.config();
        let most = endpoints.largest_copy();
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            // Keys land where the client of Java puts them.
            ("partitioner", "murmur2_random"),
            ("message.max.bytes", &most.to_string()),
            // A batch that is larger than its topic allows fails with all that is in it.
            ("batch.size", &batch(endpoints).to_string()),
        ] {
            config.set(name, value);
        }
        for (name, value) in [
            ("message.timeout.ms", MESSAGE_TIMEOUT),
            // The window is what makes it fast, not waiting for more.
            ("linger.ms", "0"),
            // Messages without a key go to all partitions, however few they are.
            ("sticky.partitioning.linger.ms", "0"),
        ] {
            if config.get(name).is_none() {
                config.set(name, value);
            }
        }
        if is_alone {
            config.set("batch.num.messages", "1");
        }
        let reports = Reports::new(desk, is_alone);
        let client = BaseProducer::from_config_and_context(&config, reports)
            .map_err(|error| error::of("start a producer", &error))?;
        let running = Arc::new(Self {
            client,
            waiting: Mutex::default(),
            thread: Mutex::default(),
        });
        let of = running.clone();
        let thread = threads::spawn("switchboard-publish", move || of.run())?;
        *lock(&running.thread) = Some(thread);
        Ok(running)
    }

    /// Takes reports until there are no more to come.
    fn run(&self) {
        loop {
            self.client.poll(TICK);
            self.send_waiting();
            let over = self.is_stopping() && lock(&self.waiting).is_empty();
            // Whatever is left has an end: a message is not tried for ever.
            if over && self.client.in_flight_count() == 0 {
                return;
            }
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.client.context().is_stopping()
    }

    /// Whether it met something that ended it.
    pub(super) fn is_broken(&self) -> bool {
        self.client.context().is_broken()
    }

    /// Has it end when everything was answered.
    pub(super) fn stop(&self) {
        self.client.context().stop();
    }

    /// Waits until it has ended.
    pub(super) fn join(&self) {
        if let Some(thread) = lock(&self.thread).take() {
            // Its panic was reported where it happened.
            let _ = thread.join();
        }
    }

    /// Asks the broker for a topic.
    pub(super) fn look_for(&self, topic: &str) -> KafkaResult<()> {
        let client = self.client.client();
        client.fetch_metadata(Some(topic), PATIENCE).map(drop)
    }

    fn send_waiting(&self) {
        let mut waiting = lock(&self.waiting);
        while let Some(next) = waiting.pop_front() {
            if let Some(refused) = self.try_send(next) {
                waiting.push_front(refused);
                return;
            }
        }
    }

    pub(super) fn publish(&self, topic: &SmolStr, order: Order<Message>) {
        self.send(Waiting::Message(topic.clone(), order));
    }

    pub(super) fn store(&self, record: Record, answer: Answer) {
        self.send(Waiting::Record(record, answer));
    }

    /// Sends what comes behind everything that waits.
    fn send(&self, next: Waiting) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            waiting.push_back(next);
        } else if let Some(refused) = self.try_send(next) {
            waiting.push_back(refused);
        }
    }

    /// Gives something to the client, or back when it has no room.
    fn try_send(&self, next: Waiting) -> Option<Waiting> {
        match next {
            Waiting::Message(topic, order) => self.try_publish(topic, order),
            Waiting::Record(record, answer) => self.try_store(record, answer),
        }
    }

    fn try_publish(&self, topic: SmolStr, order: Order<Message>) -> Option<Waiting> {
        let message = order.item();
        let headers = wire::headers(message);
        let (payload, key) = (
            message.payload().clone(),
            message.partition_key().map(SmolStr::new),
        );
        let sent = Box::new(Sent::Message(order));
        let mut record: BaseRecord<'_, str, [u8], _> = BaseRecord::with_opaque_to(&topic, sent);
        record = record.payload(&payload).headers(headers);
        record.key = key.as_deref();
        let Err((error, record)) = self.client.send(record) else {
            return None;
        };
        match (code(&error), *record.delivery_opaque) {
            (Code::QueueFull, Sent::Message(order)) => Some(Waiting::Message(topic, order)),
            (code, sent) => {
                self.client.context().failed(sent, code);
                None
            }
        }
    }

    fn try_store(&self, record: Record, answer: Answer) -> Option<Waiting> {
        let sent = Box::new(Sent::Record(answer));
        let mut of: BaseRecord<'_, str, [u8], _> = BaseRecord::with_opaque_to(&record.topic, sent);
        of.key = record.key.as_deref();
        of.payload = record.value.as_deref();
        of.headers = record.headers.clone();
        let Err((error, of)) = self.client.send(of) else {
            return None;
        };
        match (code(&error), *of.delivery_opaque) {
            (Code::QueueFull, Sent::Record(answer)) => Some(Waiting::Record(record, answer)),
            (code, sent) => {
                self.client.context().failed(sent, code);
                None
            }
        }
    }
}
