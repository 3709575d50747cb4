//! The topology topic as this process has it: one thread reads it, one asks where it ends.

use std::{
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use event_core::{ConnectionState, Result};
use rdkafka::{
    Message as _, Offset, Timestamp, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use crate::{
    admin::{Admin, ends},
    client::{self, Context},
    clock::BrokerClock,
    error,
    shared::lock,
    signal::Signal,
    table::Table,
    threads,
    url::Endpoints,
};

/// How many seconds the topic has to be gone before that is believed.
const SURE: u32 = 5;

/// How often it is asked again when a broker says that it cannot answer at the moment.
const ASKED: u32 = 20;

/// Called with where the topic ends, as of a moment after it was asked for.
type Question = Box<dyn FnOnce(Result<i64>) + Send>;

/// What the topology topic says, and how it is known that nothing newer stands in it.
pub(crate) struct Registry {
    topic: String,
    table: watch::Receiver<Arc<Table>>,
    questions: Mutex<mpsc::Sender<Question>>,
    listeners: Arc<Mutex<Vec<Weak<Signal>>>>,
    stop: Arc<AtomicBool>,
}

impl Registry {
    /// Starts to read the topic, which exists.
    pub(crate) fn start(
        endpoints: &Arc<Endpoints>,
        admin: &Arc<Admin>,
        clock: &Arc<BrokerClock>,
    ) -> Result<Arc<Self>> {
        let (told, table) = watch::channel(Arc::default());
        let (questions, asked) = mpsc::channel();
        let registry = Arc::new(Self {
            topic: endpoints.topology.clone(),
            table,
            questions: Mutex::new(questions),
            listeners: Arc::default(),
            stop: Arc::default(),
        });
        let reader = Reading::reader(endpoints, admin)?;
        let reading = Reading {
            topic: registry.topic.clone(),
            told,
            listeners: registry.listeners.clone(),
            stop: registry.stop.clone(),
            endpoints: endpoints.clone(),
            admin: admin.clone(),
            clock: clock.clone(),
        };
        threads::spawn("switchboard-topology", move || reading.run(reader))?;
        let (topic, stop) = (registry.topic.clone(), registry.stop.clone());
        let admin = admin.clone();
        threads::spawn("switchboard-ask", move || {
            ask(&admin, &topic, &asked, &stop)
        })?;
        Ok(registry)
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// What is known now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// What stands in the topic at some moment from now on.
    pub(crate) async fn current(&self, deadline: Instant) -> Result<Arc<Table>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Box::new(move |end| _ = answer.send(end)));
        let end = match timeout_at(deadline, answered).await {
            Ok(Ok(end)) => end?,
            Ok(Err(_)) => return Err(error::closed()),
            Err(_) => return Err(error::silent("say where the topology topic ends")),
        };
        self.reached(end, deadline).await
    }

    /// What stands in the topic when it was read up to here.
    pub(crate) async fn reached(&self, end: i64, deadline: Instant) -> Result<Arc<Table>> {
        let mut table = self.table.clone();
        let read = timeout_at(deadline, table.wait_for(|table| table.position >= end)).await;
        match read {
            Ok(Ok(table)) => Ok(table.clone()),
            Ok(Err(_)) => Err(error::closed()),
            Err(_) => Err(error::silent("read the topology topic")),
        }
    }

    /// Asks where the topic ends.
    pub(crate) fn ask(&self, question: Question) {
        if let Err(mpsc::SendError(question)) = lock(&self.questions).send(question) {
            question(Err(error::closed()));
        }
    }

    /// Raises a signal whenever something new stands in the topic.
    pub(crate) fn listen(&self, signal: &Arc<Signal>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(signal));
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
        // It waits for a question.
        self.ask(Box::new(drop));
    }
}

struct Reading {
    topic: String,
    told: watch::Sender<Arc<Table>>,
    listeners: Arc<Mutex<Vec<Weak<Signal>>>>,
    stop: Arc<AtomicBool>,
    endpoints: Arc<Endpoints>,
    admin: Arc<Admin>,
    clock: Arc<BrokerClock>,
}

impl Reading {
    fn run(self, mut reader: BaseConsumer<Context>) {
        let mut table = Table::default();
        // Before this it is half a table, which would say of queues that they are gone.
        let mut whole = 0;
        self.begin(&reader, &table);
        while !self.stop.load(SeqCst) {
            let (mut news, mut seems_gone) = (false, false);
            let mut next = reader.poll(Duration::from_millis(100));
            while let Some(polled) = next {
                match polled {
                    Ok(record) => {
                        let key = record.key().unwrap_or_default();
                        table.take(record.offset(), key, record.payload());
                        if let Timestamp::LogAppendTime(millis) = record.timestamp() {
                            self.clock.is_past(millis);
                        }
                        news = true;
                    }
                    // The client tries again by itself, unless there is nothing to try.
                    Err(error) => seems_gone |= error::ends_reading(&error),
                }
                next = reader.poll(Duration::ZERO);
            }
            if seems_gone && let Some(end) = self.look_again(&mut table) {
                (whole, news) = (end, true);
                // The old one is in the middle of something with the old topic.
                match Self::reader(&self.endpoints, &self.admin) {
                    Ok(next) => reader = next,
                    Err(error) => {
                        tracing::error!(target: "switchboard", topic = self.topic, %error, "the topology topic cannot be read");
                    }
                }
                self.begin(&reader, &table);
            }
            if news && table.position >= whole {
                self.told.send_replace(Arc::new(table.clone()));
                let listeners = lock(&self.listeners).clone();
                listeners
                    .iter()
                    .filter_map(Weak::upgrade)
                    .for_each(|listener| listener.raise());
            }
        }
    }

    fn reader(endpoints: &Endpoints, admin: &Admin) -> Result<BaseConsumer<Context>> {
        let mut config = client::reading(endpoints);
        config.set("auto.offset.reset", "error");
        // What is declared is to be known at once.
        config.set("fetch.wait.max.ms", "100");
        BaseConsumer::from_config_and_context(&config, Context(admin.health().clone()))
            .map_err(|error| error::of("read the topology topic", &error))
    }

    /// The client says that the topic is gone, or is shorter than it was. Up to where it is to be read before the
    /// table is true again; nothing when nobody answers. A broker that starts may say so of a topic that is there.
    fn look_again(&self, table: &mut Table) -> Option<i64> {
        for _ in 0..SURE {
            if self.stop.load(SeqCst) {
                return None;
            }
            match ends(self.admin.asking(), &self.topic, 1) {
                Ok(ends) => {
                    let end = ends.first().copied().unwrap_or(0);
                    if end < table.position {
                        self.is_lost();
                    }
                    // From its beginning: it may be another that is as long.
                    *table = Table::default();
                    return Some(end);
                }
                Err(error) if error::ends_reading(&error) => thread::sleep(Duration::from_secs(1)),
                Err(_) => return Some(table.position),
            }
        }
        *table = Table::default();
        self.is_lost();
        Some(0)
    }

    fn is_lost(&self) {
        tracing::error!(
            target: "switchboard", topic = self.topic,
            "the topology topic was deleted; queues have to be declared again, and what they had is lost"
        );
    }

    fn begin(&self, reader: &BaseConsumer<Context>, table: &Table) {
        let mut all = TopicPartitionList::new();
        let assigned = all
            .add_partition_offset(&self.topic, 0, Offset::Offset(table.position))
            .and_then(|()| reader.assign(&all));
        if let Err(error) = assigned {
            tracing::error!(target: "switchboard", topic = self.topic, %error, "the topology topic cannot be read");
        }
    }
}

/// Answers questions: all that wait with one request, which begins after they were asked.
fn ask(admin: &Admin, topic: &str, asked: &mpsc::Receiver<Question>, stop: &AtomicBool) {
    let health = admin.health();
    loop {
        let waiting = asked.recv_timeout(Duration::from_millis(500));
        if stop.load(SeqCst) {
            return;
        }
        admin.serve();
        let mut questions = Vec::new();
        match waiting {
            Ok(question) => questions.push(question),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            // Somebody has to notice that the brokers are back.
            Err(mpsc::RecvTimeoutError::Timeout) if health.is_down() => {}
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
        }
        questions.extend(asked.try_iter());
        let mut end = ends(admin.asking(), topic, 1);
        for _ in 0..ASKED {
            match &end {
                // A topic that was made in this moment, or whose leader has changed.
                Err(error) if error::is_passing(error) && !stop.load(SeqCst) => {
                    thread::sleep(Duration::from_millis(50));
                    end = ends(admin.asking(), topic, 1);
                }
                _ => break,
            }
        }
        match &end {
            Ok(_) => health.set(ConnectionState::Connected),
            // Whoever asks again at once should not turn in a circle.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
        let end = end
            .map(|ends| ends.first().copied().unwrap_or(0))
            .map_err(|error| error::of("say where the topology topic ends", &error));
        for question in questions {
            question(end.clone());
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("topic", &self.topic)
            .field("position", &self.table.borrow().position)
            .finish_non_exhaustive()
    }
}
