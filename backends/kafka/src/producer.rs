//! Publishing: one idempotent producer, replaced when it ends.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use event_core::{Address, Bytes, Error, ErrorKind, ExchangeName, Message, Order, Receipt, Result};
use rdkafka::{
    ClientContext, Message as _, Timestamp,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, DeliveryResult, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use smol_str::SmolStr;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    admin::Admin,
    client::{self, Health, PATIENCE},
    clock::BrokerClock,
    error,
    registry::Registry,
    shared::lock,
    table::Table,
    threads,
    url::Endpoints,
    wire,
};

/// How long a message is tried whose caller has given up.
const MESSAGE_TIMEOUT: &str = "60000";

/// What headers may add to the largest message.
pub(crate) const HEADROOM: usize = 64 * 1024;

/// How long the thread that takes reports waits at most before it looks for something else to do.
const TICK: Duration = Duration::from_millis(50);

/// A record for a topic of ours.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) topic: SmolStr,
    pub(crate) key: Option<SmolStr>,
    /// Nothing takes back what was stored under the key before.
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Option<OwnedHeaders>,
}

impl Record {
    /// A copy of a message, for a topic of its queue that is named later.
    pub(crate) fn copy(message: &Message, key: Option<SmolStr>) -> Self {
        Self {
            topic: SmolStr::default(),
            key,
            value: Some(message.payload().clone()),
            headers: Some(wire::copy_headers(message)),
        }
    }
}

/// The answer to a record: its offset.
type Answer = oneshot::Sender<Result<i64, Code>>;

/// Where the answer to a record arrives.
pub(crate) type Answered = oneshot::Receiver<Result<i64, Code>>;

/// The answer to a record; nothing when there is none at the deadline.
pub(crate) async fn answer(
    answered: &mut Answered,
    deadline: Instant,
) -> Option<Result<i64, Code>> {
    match timeout_at(deadline, answered).await {
        Ok(Ok(result)) => Some(result),
        Ok(Err(_)) => Some(Err(Code::PurgeQueue)),
        Err(_) => None,
    }
}

/// What a delivery report is for.
enum Sent {
    Message(Order<Message>),
    Record(Answer),
}

/// What the client has no room for at present.
enum Waiting {
    Message(SmolStr, Order<Message>),
    Record(Record, Answer),
}

/// What is known of the topic of an exchange.
enum Target {
    Ready(Ready),
    /// It is being looked for or made; this is to be published to it then.
    Opening(Vec<Order<Message>>),
}

/// The topic of an exchange that is there.
#[derive(Clone)]
struct Ready {
    topic: SmolStr,
    /// It takes less than a batch, so each message goes alone. Nothing while no batch was refused.
    is_narrow: Option<bool>,
}

/// A message whose fate depends on what the topology topic or the broker says now.
enum Late {
    /// It was stored, and no queue is known that takes it.
    Stored(Order<Message>),
    /// The first is mandatory, and no queue is known that takes it; the others come after it.
    Mandatory(Vec<Order<Message>>),
    /// Its topic is gone.
    Homeless(Order<Message>),
    /// The topic takes less than the batch that it was in.
    TooLarge(Order<Message>),
}

/// Publishes to the topics of exchanges and of queues.
pub(crate) struct Producer {
    endpoints: Arc<Endpoints>,
    admin: Arc<Admin>,
    desk: Arc<Desk>,
    /// Nothing only while it is dropped.
    running: Mutex<Option<Arc<Running>>>,
    /// The client for messages that go alone; nothing while there were none.
    alone: Mutex<Option<Arc<Running>>>,
    targets: Mutex<HashMap<ExchangeName, Target>>,
    runtime: Handle,
}

/// Where reports are worked on.
struct Desk {
    health: Arc<Health>,
    clock: Arc<BrokerClock>,
    registry: Arc<Registry>,
    late: mpsc::UnboundedSender<Late>,
    last: Mutex<Option<Counted>>,
}

/// What was counted last: most messages go where the one before went.
struct Counted {
    table: Arc<Table>,
    address: Address,
    queues: u32,
}

/// One client, and the thread that takes its reports.
struct Running {
    client: BaseProducer<Reports>,
    waiting: Mutex<VecDeque<Waiting>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// Takes the reports of a client.
struct Reports {
    desk: Arc<Desk>,
    /// Each record goes alone.
    is_alone: bool,
    /// The client met something that ends it.
    broken: AtomicBool,
    /// It is to end when everything was answered.
    stop: AtomicBool,
}

impl Producer {
    pub(crate) fn start(
        endpoints: &Arc<Endpoints>,
        health: &Arc<Health>,
        clock: &Arc<BrokerClock>,
        admin: &Arc<Admin>,
        registry: &Arc<Registry>,
    ) -> Result<Arc<Self>> {
        let (late, received) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk {
            health: health.clone(),
            clock: clock.clone(),
            registry: registry.clone(),
            late,
            last: Mutex::default(),
        });
        let producer = Arc::new(Self {
            endpoints: endpoints.clone(),
            admin: admin.clone(),
            running: Mutex::new(Some(Running::start(endpoints, &desk, false)?)),
            alone: Mutex::default(),
            desk,
            targets: Mutex::default(),
            runtime: Handle::current(),
        });
        tokio::spawn(work_late(Arc::downgrade(&producer), received));
        Ok(producer)
    }

    /// Publishes messages, in their order.
    pub(crate) fn take(self: &Arc<Self>, orders: Vec<Order<Message>>) {
        let mut targets = lock(&self.targets);
        self.dispatch(&mut targets, orders);
    }

    fn dispatch(
        self: &Arc<Self>,
        targets: &mut HashMap<ExchangeName, Target>,
        orders: Vec<Order<Message>>,
    ) {
        // Dropped, they are answered.
        let Some(running) = self.running() else {
            return;
        };
        let mut held = Vec::new();
        for order in orders {
            let message = order.item();
            if let Err(error) = self.check(message) {
                order.finish(Err(error));
                continue;
            }
            match targets.get_mut(message.exchange()) {
                Some(Target::Opening(waiting)) => waiting.push(order),
                Some(Target::Ready(_)) if !held.is_empty() => held.push(order),
                Some(Target::Ready(_))
                    if message.is_mandatory() && self.desk.queues(message.address()) == 0 =>
                {
                    held.push(order);
                }
                Some(Target::Ready(ready)) if ready.is_narrow == Some(true) => {
                    if let Some(alone) = self.alone() {
                        alone.publish(&ready.topic, order);
                    }
                }
                Some(Target::Ready(ready)) => running.publish(&ready.topic, order),
                None => {
                    let exchange = message.exchange().clone();
                    targets.insert(exchange.clone(), Target::Opening(vec![order]));
                    let opening = self.clone().open(exchange);
                    self.runtime.spawn(opening);
                }
            }
        }
        if !held.is_empty() {
            self.desk.hand(Late::Mandatory(held));
        }
    }

    fn check(&self, message: &Message) -> Result<()> {
        let (size, most) = (wire::size(message), self.endpoints.max_message);
        if size > most {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a message of {size} bytes is larger than {most}, what `?max_message=` allows; raise it together \
                     with `max.message.bytes` of the topic, or send a reference instead of the data"
                ),
            ));
        }
        Ok(())
    }

    /// Looks for the topic of an exchange, and makes it if need be; then publishes what waits for it.
    async fn open(self: Arc<Self>, exchange: ExchangeName) {
        loop {
            let found = self.admin.exchange(&exchange).await;
            if let Ok(topic) = &found {
                self.look_for(topic).await;
            }
            if self.opened(&exchange, found) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Has the client look for a topic that is there now: it would refuse for a while what it knew to be missing.
    pub(crate) async fn look_for(&self, topic: &SmolStr) {
        let Some(running) = self.running() else {
            return;
        };
        let topic = topic.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let client = running.client.client();
            client.fetch_metadata(Some(&topic), PATIENCE).map(drop)
        });
        if let Ok(Err(error)) = looked.await {
            tracing::debug!(target: "switchboard", %error, "the producer does not find a topic yet");
        }
    }

    /// Publishes what waits for a topic, or says that it cannot be had. Not so when it is to be tried again.
    fn opened(self: &Arc<Self>, exchange: &ExchangeName, found: Result<SmolStr>) -> bool {
        let mut targets = lock(&self.targets);
        let Some(Target::Opening(waiting)) = targets.get_mut(exchange) else {
            return true;
        };
        match found {
            Ok(topic) => {
                let waiting = std::mem::take(waiting);
                let is_narrow = None;
                targets.insert(exchange.clone(), Target::Ready(Ready { topic, is_narrow }));
                self.dispatch(&mut targets, waiting);
                true
            }
            Err(error) => {
                let now = Instant::now();
                let is_over =
                    |order: &mut Order<Message>| !error.is_retryable() || order.deadline() <= now;
                for order in waiting.extract_if(.., is_over) {
                    order.finish(Err(error.clone()));
                }
                let is_over = waiting.is_empty();
                if is_over {
                    targets.remove(exchange);
                }
                is_over
            }
        }
    }

    /// Has the topic of an exchange looked for again, with this to be published to it.
    fn reopen(self: &Arc<Self>, order: Order<Message>) {
        let exchange = order.item().exchange().clone();
        let mut targets = lock(&self.targets);
        if let Some(Target::Opening(waiting)) = targets.get_mut(&exchange) {
            waiting.push(order);
            return;
        }
        targets.insert(exchange.clone(), Target::Opening(vec![order]));
        self.admin.forget(&exchange);
        self.runtime.spawn(self.clone().open(exchange));
    }

    /// Publishes once more what was refused with the batch that it was in, alone.
    async fn publish_alone(self: &Arc<Self>, order: Order<Message>) {
        let exchange = order.item().exchange().clone();
        let ready = match lock(&self.targets).get(&exchange) {
            Some(Target::Ready(ready)) => ready.clone(),
            // It is gone meanwhile.
            _ => return self.take(vec![order]),
        };
        if ready.is_narrow.is_none() {
            let largest = self.admin.largest(&ready.topic).await;
            let most = batch(&self.endpoints);
            // What is larger than a batch was alone in it, and says nothing of batches.
            let is_narrow =
                largest.map_or_else(|| wire::size(order.item()) < most, |largest| largest < most);
            if is_narrow {
                tracing::warn!(
                    target: "switchboard", topic = %ready.topic, largest,
                    "the topic takes less than a batch, so its messages are sent one by one; set `max_message` to what \
                     the topic takes (`max.message.bytes`), or raise that"
                );
            }
            if let Some(Target::Ready(ready)) = lock(&self.targets).get_mut(&exchange) {
                ready.is_narrow = Some(is_narrow);
            }
        }
        // Of one that is closing nobody would hear any more.
        if let Some(alone) = self.alone().filter(|alone| !alone.is_stopping()) {
            alone.publish(&ready.topic, order);
        }
    }

    /// Sends records to topics of ours. Each has its answer later.
    pub(crate) fn send(&self, records: Vec<Record>) -> Vec<Answered> {
        let running = self.running();
        let send = |record| {
            let (answer, answered) = oneshot::channel();
            if let Some(running) = &running {
                running.store(record, answer);
            }
            answered
        };
        records.into_iter().map(send).collect()
    }

    /// Stores records in topics of ours, each to be waited for until the deadline.
    pub(crate) async fn store(
        &self,
        records: Vec<Record>,
        deadline: Instant,
    ) -> Vec<Result<i64, Code>> {
        let mut results = Vec::with_capacity(records.len());
        for mut answered in self.send(records) {
            let result = answer(&mut answered, deadline).await;
            results.push(result.unwrap_or(Err(Code::MessageTimedOut)));
        }
        results
    }

    /// What to say of a message that has no answer at its deadline.
    pub(crate) fn late(&self) -> Error {
        let text = match self.desk.health.is_down() {
            true => {
                "Kafka cannot be reached, and the time to publish is over; the message may have been stored"
            }
            false => "Kafka did not confirm the message in time; it may have been stored",
        };
        Error::retryable(ErrorKind::Timeout, text)
    }

    /// The client. One that has ended is replaced by a new one.
    fn running(&self) -> Option<Arc<Running>> {
        let mut slot = lock(&self.running);
        let running = slot.as_ref()?;
        if running.client.context().broken.load(SeqCst) && !running.is_stopping() {
            self.replace(&mut slot, false);
        }
        slot.clone()
    }

    /// The client for messages that go alone.
    fn alone(&self) -> Option<Arc<Running>> {
        let is_over = self.running()?.is_stopping();
        let mut slot = lock(&self.alone);
        let is_broken = |running: &Arc<Running>| running.client.context().broken.load(SeqCst);
        if !is_over && slot.as_ref().is_none_or(is_broken) {
            self.replace(&mut slot, true);
        }
        slot.clone()
    }

    fn replace(&self, slot: &mut Option<Arc<Running>>, is_alone: bool) {
        match Running::start(&self.endpoints, &self.desk, is_alone) {
            Ok(next) => {
                let Some(before) = slot.replace(next) else {
                    return;
                };
                tracing::warn!(target: "switchboard", "the producer met an error that ended it; it was replaced");
                before.stop();
                threads::end(before);
            }
            Err(error) => {
                tracing::error!(target: "switchboard", %error, "a producer cannot be started");
            }
        }
    }

    fn both(&self) -> impl Iterator<Item = Arc<Running>> {
        let (running, alone) = (lock(&self.running).clone(), lock(&self.alone).clone());
        running.into_iter().chain(alone)
    }

    /// Sends what is under way, and ends. Whether all of it was answered by the deadline.
    pub(crate) async fn close(&self, deadline: Instant) -> bool {
        // What was refused with its batch may be on its way to the second while the first ends.
        let clients: Vec<_> = self.both().collect();
        let ended = tokio::task::spawn_blocking(move || {
            for running in clients {
                running.stop();
                if let Some(thread) = lock(&running.thread).take() {
                    // Its panic was reported where it happened.
                    let _ = thread.join();
                }
            }
        });
        timeout_at(deadline, ended).await.is_ok()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for slot in [&self.running, &self.alone] {
            if let Some(running) = lock(slot).take() {
                running.stop();
                threads::end(running);
            }
        }
    }
}

/// Works on what depends on the topology topic, or on a topic that is made again.
async fn work_late(producer: Weak<Producer>, mut received: mpsc::UnboundedReceiver<Late>) {
    let mut batch = Vec::new();
    while received.recv_many(&mut batch, 1_000).await > 0 {
        let Some(producer) = producer.upgrade() else {
            return;
        };
        let table = producer
            .desk
            .registry
            .current(Instant::now() + PATIENCE)
            .await;
        for late in batch.drain(..) {
            match (late, &table) {
                (Late::Homeless(order), _) => producer.reopen(order),
                (Late::TooLarge(order), _) => producer.publish_alone(order).await,
                (Late::Stored(order), table) => {
                    let queues = table.as_ref().ok();
                    let queues = queues
                        .map(|table| table.count(order.item().exchange(), order.item().key()));
                    let receipt = Receipt::new(order.item().id().clone(), queues);
                    order.finish(Ok(receipt));
                }
                (Late::Mandatory(orders), Ok(table)) => {
                    let mut routed = Vec::new();
                    for order in orders {
                        let message = order.item();
                        if message.is_mandatory()
                            && table.count(message.exchange(), message.key()) == 0
                        {
                            let error = unroutable(message);
                            order.finish(Err(error));
                        } else {
                            routed.push(order);
                        }
                    }
                    // The table that was asked for is the one that is looked at from now on.
                    producer.take(routed);
                }
                (Late::Mandatory(orders), Err(error)) => {
                    for order in orders {
                        order.finish(Err(error.clone()));
                    }
                }
            }
        }
    }
}

fn unroutable(message: &Message) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!("no queue is bound for {}", message.address()),
    )
}

/// The most bytes of a batch.
fn batch(endpoints: &Endpoints) -> usize {
    endpoints.max_message.min(1_000_000)
}

impl Running {
    fn start(endpoints: &Endpoints, desk: &Arc<Desk>, is_alone: bool) -> Result<Arc<Self>> {
        let mut config = endpoints.config();
        let most = endpoints.max_message + HEADROOM;
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
        let reports = Reports {
            desk: desk.clone(),
            is_alone,
            broken: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        };
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

    fn is_stopping(&self) -> bool {
        self.client.context().stop.load(SeqCst)
    }

    fn stop(&self) {
        self.client.context().stop.store(true, SeqCst);
    }

    fn send_waiting(&self) {
        let mut waiting = lock(&self.waiting);
        while let Some(next) = waiting.pop_front() {
            let refused = match next {
                Waiting::Message(topic, order) => self.try_publish(topic, order),
                Waiting::Record(record, answer) => self.try_store(record, answer),
            };
            if let Some(refused) = refused {
                waiting.push_front(refused);
                return;
            }
        }
    }

    fn publish(&self, topic: &SmolStr, order: Order<Message>) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            waiting.push_back(Waiting::Message(topic.clone(), order));
        } else if let Some(refused) = self.try_publish(topic.clone(), order) {
            waiting.push_back(refused);
        }
    }

    fn store(&self, record: Record, answer: Answer) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            waiting.push_back(Waiting::Record(record, answer));
        } else if let Some(refused) = self.try_store(record, answer) {
            waiting.push_back(refused);
        }
    }

    /// Gives a message to the client, or back when it has no room.
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

fn code(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Unknown)
}

impl Desk {
    fn hand(&self, late: Late) {
        // The other end lives as long as the producer; afterwards, dropping it is an answer.
        let _ = self.late.send(late);
    }

    /// How many queues take a message, as far as is known.
    fn queues(&self, address: &Address) -> u32 {
        let mut last = lock(&self.last);
        let table = self.registry.table();
        if let Some(counted) = &*last
            && counted.address == *address
            && Arc::ptr_eq(&counted.table, &table)
        {
            return counted.queues;
        }
        let queues = table.count(address.exchange(), address.key());
        *last = Some(Counted {
            table,
            address: address.clone(),
            queues,
        });
        queues
    }
}

impl Reports {
    fn stored(&self, sent: Sent, report: &BorrowedMessage<'_>) {
        if let Timestamp::LogAppendTime(millis) = report.timestamp() {
            self.desk.clock.heard(millis);
        }
        match sent {
            Sent::Record(answer) => _ = answer.send(Ok(report.offset())),
            Sent::Message(order) => match self.desk.queues(order.item().address()) {
                0 => self.desk.hand(Late::Stored(order)),
                queues => {
                    let receipt = Receipt::new(order.item().id().clone(), Some(queues));
                    order.finish(Ok(receipt));
                }
            },
        }
    }

    fn failed(&self, sent: Sent, code: Code) {
        // Unless it is told to end, a client gives up messages only when it has met something that ends it.
        let is_over = match code {
            Code::Fatal | Code::Fenced => true,
            Code::PurgeQueue | Code::PurgeInflight => {
                self.broken.load(SeqCst) || !self.stop.load(SeqCst)
            }
            _ => false,
        };
        if is_over {
            self.broken.store(true, SeqCst);
        }
        match sent {
            // Nobody closed it: that it was given up with its client passes.
            Sent::Record(answer) if is_over => _ = answer.send(Err(Code::Fatal)),
            Sent::Record(answer) => _ = answer.send(Err(code)),
            Sent::Message(order) if is_over => {
                let may = match code {
                    Code::PurgeInflight => "may have been",
                    _ => "was not",
                };
                let text = format!(
                    "cannot publish {}: the producer met an error that ended it, and was replaced; the message {may} \
                     stored",
                    order.item().address()
                );
                order.finish(Err(Error::retryable(ErrorKind::Connection, text)));
            }
            Sent::Message(order) if error::says_gone(code) && order.deadline() > Instant::now() => {
                self.desk.hand(Late::Homeless(order));
            }
            // It may be that only its neighbours in the batch are.
            Sent::Message(order)
                if error::says_too_large(code)
                    && !self.is_alone
                    && order.deadline() > Instant::now() =>
            {
                self.desk.hand(Late::TooLarge(order));
            }
            Sent::Message(order) => {
                let what = format!("publish {}", order.item().address());
                order.finish(Err(error::failed(&what, code)));
            }
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.broken.store(true, SeqCst);
        }
        self.desk.health.met(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        match result {
            Ok(report) => self.stored(*sent, report),
            Err((error, _)) => self.failed(*sent, code(error)),
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}
