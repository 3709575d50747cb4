//! The thread of a subscription: it reads, commits, and takes part in the group of its queue.

mod commits;
mod group;
mod identity;
mod lanes;
mod reading;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use event_core::{
    Error, ErrorKind, ExchangeName, QueueKind, QueueName, QueueSpec, Result, RoutingKey,
};
use rdkafka::{
    ClientConfig, Message as _,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use smol_str::SmolStr;
use tokio::{runtime::Handle, sync::oneshot::error::TryRecvError};

pub(crate) use self::reading::{is_low, share};
use self::{
    commits::{Commit, Job, run_commits},
    group::{Context, Leaving},
    lanes::{Lane, Source},
    reading::{EndAnswer, has_room},
};
use crate::{
    admin::Admin,
    client,
    clock::BrokerClock,
    error,
    filter::{Answers, Filter},
    names,
    producer::Producer,
    progress::Progress,
    registry::Registry,
    shared::Shared,
    subscription::{End, Held},
    table::{Fact, Parts, Spans, Table},
    threads, topology,
    url::Endpoints,
};

/// How long one request of this thread may take.
const REQUEST: Duration = Duration::from_secs(5);

/// How long the end may wait for a last commit.
const LAST: Duration = Duration::from_secs(5);

/// How long the start of a consumer waits for the group.
const JOIN: Duration = Duration::from_secs(5);

/// The longest lease that the client takes; brokers mostly allow less.
const LONGEST_LEASE: Duration = Duration::from_secs(3_600);

type Client = BaseConsumer<Context>;

/// Starts the thread of a subscription.
pub(crate) async fn start(shared: &Arc<Shared>, spec: &QueueSpec, held: &Arc<Held>) -> Result<()> {
    if spec.lease > LONGEST_LEASE {
        return Err(error::failed(
            &format!("consume queue `{}`", spec.name),
            Code::InvalidSessionTimeout,
        ));
    }
    let mut config = settings(&shared.endpoints, spec);
    let (kind, filter) = match spec.kind {
        QueueKind::Ephemeral => {
            // It joins no group, but the client wants one.
            config.set("group.id", format!("{}.ephemeral", spec.name));
            ephemeral(shared, spec).await?
        }
        _ => {
            config.set("group.id", spec.name.as_str());
            let deadline = tokio::time::Instant::now() + client::PATIENCE;
            let table = shared.registry.current(deadline).await?;
            let entry = table.queue(&spec.name);
            let entry = entry.ok_or_else(|| error::unknown_queue(&spec.name))?;
            let life = entry.life().unwrap_or_default().to_owned();
            // It takes its bindings from the table.
            (Kind::Durable { life }, Filter::default())
        }
    };
    let context = Context::new(&shared.health, shared.endpoints.is_debugged());
    let mut client = Client::from_config_and_context(&config, context)
        .map_err(|error| error::of(&format!("consume queue `{}`", spec.name), &error))?;
    let signal = held.signal.clone();
    client.set_nonempty_callback(move || signal.raise());
    shared.registry.listen(&held.signal);
    let client = Arc::new(client);
    let (commits, jobs) = mpsc::channel();
    let of = client.clone();
    let committing = threads::spawn("switchboard-commit", move || run_commits(of, &jobs))?;
    let thread = Thread {
        client,
        shared: Arc::downgrade(shared),
        admin: shared.admin.clone(),
        registry: shared.registry.clone(),
        clock: shared.clock.clone(),
        producer: shared.producer.clone(),
        runtime: Handle::current(),
        held: held.clone(),
        queue: spec.name.clone(),
        prefetch: spec.prefetch,
        drain: shared.endpoints.drain,
        default_key: RoutingKey::new(&shared.endpoints.default_key)?,
        template: shared.endpoints.topic.clone(),
        kind,
        lanes: Vec::new(),
        subscribed: BTreeSet::new(),
        turn: 0,
        filter,
        table: None,
        topic_ids: HashMap::new(),
        is_unidentified: false,
        leaving: None,
        ticket: 0,
        asked: None,
        commit: Commit::default(),
        commits: Some((commits, committing)),
        told_at: Instant::now(),
        beat_at: Instant::now(),
        marked_at: Instant::now(),
        swept_at: Instant::now(),
        looked_at: Instant::now(),
        restored_at: Instant::now(),
        swept: HashMap::new(),
    };
    threads::spawn("switchboard-consume", move || thread.run())?;
    // Who begins to publish now finds it there, unless others are still busy with what they have to let go.
    held.wait_joined(JOIN).await;
    let fatal = held.lock().fatal.clone();
    fatal.map_or(Ok(()), Err)
}

/// The settings of the client, but for its group.
fn settings(endpoints: &Endpoints, spec: &QueueSpec) -> ClientConfig {
    let mut config = endpoints.config();
    let session = spec.lease.as_millis().to_string();
    let heartbeat = (spec.lease.as_millis() / 4).clamp(50, 500).to_string();
    // So long the group waits for a member in a rebalance.
    let wait = (3 * endpoints.drain).max(spec.lease).as_millis();
    let wait = wait.max(300_000).to_string();
    for (name, value) in [
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // A range that is not there any more is an error to be told.
        ("auto.offset.reset", "error"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", &session),
        ("heartbeat.interval.ms", &heartbeat),
        ("max.poll.interval.ms", endpoints.poll().unwrap_or(&wait)),
    ] {
        config.set(name, value);
    }
    // It says in no other way that a topic is another than it was.
    let debug = match config.get("debug") {
        Some(debug) => format!("{debug},topic"),
        None => "topic".to_owned(),
    };
    config.set("debug", debug);
    config.set_log_level(RDKafkaLogLevel::Debug);
    let largest = (1 << 20).max(endpoints.max_message).to_string();
    for (name, value) in [
        // Other requests to a broker wait behind a fetch that waits.
        ("fetch.wait.max.ms", "50"),
        // How soon a partition is read on that was full.
        ("fetch.queue.backoff.ms", "10"),
        ("queued.min.messages", "20000"),
        ("queued.max.messages.kbytes", "8192"),
        ("fetch.message.max.bytes", &largest),
    ] {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    config
}

/// An ephemeral subscription begins where its topics end now.
async fn ephemeral(shared: &Shared, spec: &QueueSpec) -> Result<(Kind, Filter)> {
    let bindings = spec.bindings.iter();
    let bindings: BTreeMap<_, _> = bindings
        .map(|binding| (binding.clone(), Spans::since(Vec::new())))
        .collect();
    let exchanges: BTreeSet<_> = bindings.keys().map(|binding| &binding.exchange).collect();
    let mut starts = Vec::new();
    for exchange in exchanges {
        let topic = shared.admin.exchange(exchange).await?;
        let ends = shared.admin.ends(&topic).await?;
        starts.push((exchange.clone(), topic, ends));
    }
    Ok((Kind::Ephemeral { starts }, Filter::new(&bindings)))
}

enum Kind {
    Durable {
        life: String,
    },
    /// Its topics, and where their partitions ended.
    Ephemeral {
        starts: Vec<(ExchangeName, SmolStr, Vec<i64>)>,
    },
}

struct Thread {
    client: Arc<Client>,
    shared: Weak<Shared>,
    admin: Arc<Admin>,
    registry: Arc<Registry>,
    clock: Arc<BrokerClock>,
    producer: Arc<Producer>,
    runtime: Handle,
    held: Arc<Held>,
    queue: QueueName,
    prefetch: usize,
    drain: Duration,
    default_key: RoutingKey,
    template: String,
    kind: Kind,
    lanes: Vec<Lane>,
    subscribed: BTreeSet<String>,
    /// The partition that was read last.
    turn: usize,
    filter: Filter,
    /// What the topology topic said when its bindings were taken from it.
    table: Option<Arc<Table>>,
    /// The topics that the client met, by name.
    topic_ids: HashMap<SmolStr, SmolStr>,
    /// There are partitions of which it was not looked whether their topic is the one that it was.
    is_unidentified: bool,
    leaving: Option<Leaving>,
    ticket: u64,
    asked: Option<(u64, EndAnswer)>,
    commit: Commit,
    /// The thread that commits; nothing when it has ended.
    commits: Option<(mpsc::Sender<Job>, JoinHandle<()>)>,
    told_at: Instant,
    beat_at: Instant,
    marked_at: Instant,
    swept_at: Instant,
    looked_at: Instant,
    restored_at: Instant,
    swept: HashMap<(SmolStr, i32), i64>,
}

impl Thread {
    fn run(mut self) {
        let _over = Over(self.held.clone());
        let result = self.serve();
        if let Err(fatal) = result {
            self.held.lock().fatal = Some(fatal);
            self.held.tell_reader();
            self.held.joined();
            // It is left at once: others may do better.
        }
        self.end();
    }

    fn serve(&mut self) -> Result<()> {
        self.begin()?;
        loop {
            self.serve_events()?;
            self.follow_table()?;
            self.rebalance()?;
            self.identify();
            self.look_for_partitions()?;
            self.reread()?;
            self.confirm();
            let is_busy = self.read()?;
            self.commit();
            self.let_go();
            self.sweep();
            if self.is_over() {
                return Ok(());
            }
            if !is_busy {
                let wait = self.time_to_wait();
                self.held.signal.wait(wait);
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        let Kind::Ephemeral { starts } = &self.kind else {
            return Ok(());
        };
        for (exchange, topic, ends) in starts.clone() {
            for (partition, end) in (0..).zip(ends) {
                let source = Source::Exchange(exchange.clone(), Answers::default());
                self.open_alone(&topic, partition, source, Progress::at(end))?;
            }
        }
        self.held.joined();
        Ok(())
    }

    fn is_ephemeral(&self) -> bool {
        matches!(self.kind, Kind::Ephemeral { .. })
    }

    /// Serves the events of the client until there are none.
    fn serve_events(&mut self) -> Result<()> {
        loop {
            let before = self.client.context().events();
            match self.client.clone().poll(Duration::ZERO) {
                None if self.client.context().events() == before => return Ok(()),
                None => {}
                Some(Ok(record)) => {
                    // Only what came before its partition had a queue of its own: it is read again.
                    let (topic, partition) = (record.topic(), record.partition());
                    let lane = self.lanes.iter_mut();
                    if let Some(lane) = lane
                        .into_iter()
                        .find(|lane| lane.topic == topic && lane.partition == partition)
                    {
                        lane.is_lost = true;
                    }
                }
                Some(Err(error)) => self.met(&error)?,
            }
        }
    }

    /// Something went wrong that concerns the whole consumer.
    fn met(&mut self, error: &KafkaError) -> Result<()> {
        let Some(code) = error.rdkafka_error_code() else {
            return Ok(());
        };
        let what = format!("consume queue `{}`", self.queue);
        match code {
            Code::InvalidSessionTimeout
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::FencedInstanceId
            | Code::InconsistentGroupProtocol
            | Code::Fatal => Err(error::failed(&what, code)),
            Code::NotImplemented | Code::BadCompression => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "cannot {what}: a record cannot be unpacked, because this build does not know its compression ({code})"
                ),
            )),
            _ => {
                tracing::debug!(target: "switchboard", queue = %self.queue, %error, "a consumer met an error that passes");
                Ok(())
            }
        }
    }

    /// Follows what the topology topic says: other topics, other bindings, or that the queue is gone.
    fn follow_table(&mut self) -> Result<()> {
        let Kind::Durable { life } = &self.kind else {
            return Ok(());
        };
        let table = self.registry.table();
        let known = self.table.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, &table)) {
            return Ok(());
        }
        let entry = table.queue(&self.queue);
        let entry = entry.filter(|entry| entry.life() == Some(life));
        let Some(entry) = entry else {
            // What is held belongs to nobody.
            self.held.lock().end = Some(End::Abandoned);
            return Err(error::deleted(&self.queue));
        };
        let parts = entry.parts().cloned().unwrap_or_default();
        self.table = Some(table);
        let is_new = !self.filter.is_of(&parts.bindings);
        if is_new {
            self.filter = Filter::new(&parts.bindings);
            for lane in &mut self.lanes {
                if let Source::Exchange(exchange, answers) = &mut lane.source {
                    *answers = self.filter.fresh_answers(exchange, lane.partition);
                }
            }
        }
        self.subscribe(&parts)?;
        if is_new {
            let mut again = Vec::new();
            // Also of those that are leaving: what is not looked at again here is left to the next.
            for partition in &mut self.held.lock().partitions {
                if let Some(from) = partition.reconsider() {
                    again.push((partition.generation(), from));
                }
            }
            for (generation, from) in again {
                self.seek(generation, from);
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, parts: &Parts) -> Result<()> {
        let mut topics = BTreeSet::new();
        for exchange in self.filter.exchanges() {
            topics.insert(names::exchange(&self.template, exchange)?);
        }
        for step in &parts.steps {
            topics.insert(names::retry(&self.queue, *step));
        }
        if topics == self.subscribed {
            return Ok(());
        }
        let what = format!("consume queue `{}`", self.queue);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        if names.is_empty() {
            self.client.unsubscribe();
            // There is nothing to wait for.
            self.held.joined();
        } else {
            self.client
                .subscribe(&names)
                .map_err(|error| error::of(&what, &error))?;
        }
        self.subscribed = topics;
        Ok(())
    }

    /// What the topology topic says of the queue now, waited for.
    fn refresh(&mut self) -> Result<Parts> {
        let (answer, answered) = mpsc::channel();
        self.registry.ask(Box::new(move |end| _ = answer.send(end)));
        let end = answered
            .recv_timeout(REQUEST)
            .map_err(|_| error::silent("say where the topology topic ends"))??;
        let deadline = Instant::now() + REQUEST;
        while self.registry.table().position < end {
            if Instant::now() > deadline {
                return Err(error::silent("read the topology topic"));
            }
            self.held.signal.wait(Duration::from_millis(20));
        }
        self.follow_table()?;
        Ok(self.parts().cloned().unwrap_or_default())
    }

    /// Writes to the topology topic, waits until that is known here, and answers what it says now.
    fn write(&mut self, what: &str, facts: &[Fact]) -> Result<Parts> {
        let topic = self.registry.topic();
        let records = facts.iter().map(|fact| topology::record(topic, fact));
        let deadline = Instant::now() + REQUEST;
        for mut answered in self.producer.send(records.collect()) {
            loop {
                match answered.try_recv() {
                    Ok(Ok(_)) => break,
                    Ok(Err(code)) => return Err(error::failed(what, code)),
                    Err(TryRecvError::Closed) => return Err(error::closed()),
                    Err(TryRecvError::Empty) if Instant::now() > deadline => {
                        return Err(error::silent(what));
                    }
                    Err(TryRecvError::Empty) => self.held.signal.wait(Duration::from_millis(10)),
                }
            }
        }
        self.refresh()
    }

    /// What the topology topic said of the queue.
    fn parts(&self) -> Option<&Parts> {
        self.table.as_ref()?.queue(&self.queue)?.parts()
    }

    fn is_over(&self) -> bool {
        let state = self.held.lock();
        match state.end {
            None => self.shared.strong_count() == 0,
            Some(End::Stopped) => state.held() == 0,
            Some(End::Closed | End::Abandoned) => true,
        }
    }

    fn time_to_wait(&self) -> Duration {
        let now = Instant::now();
        let mut wait = Duration::from_millis(100);
        let is_reading = {
            let state = self.held.lock();
            state.end.is_none() && has_room(state.ready())
        };
        for lane in self.lanes.iter().filter(|lane| is_reading && !lane.is_lost) {
            if let Some((due, ..)) = &lane.waiting
                && let Some(due) = self.clock.reaches(*due)
            {
                wait = wait.min(due.saturating_duration_since(now));
            }
        }
        if let Some(next) = self.next_commit() {
            wait = wait.min(next);
        }
        wait.max(Duration::from_millis(1))
    }

    /// Tells the broker the last, leaves the group, and ends the client.
    fn end(mut self) {
        if self.is_ephemeral() {
            let mut state = self.held.lock();
            self.held.told(state.changes);
            state.partitions.clear();
        } else {
            {
                let mut state = self.held.lock();
                let is_crash = state.end == Some(End::Abandoned) && state.held() > 0;
                for partition in &mut state.partitions {
                    match is_crash {
                        // What was read and not handed out was in nobody's hands.
                        true => partition.leave(),
                        false => partition.let_go(),
                    }
                }
                state.changes += 1;
            }
            self.tell_the_last();
        }
        self.leave();
        if let Some((commits, committing)) = self.commits.take() {
            drop(commits);
            // It holds the client too, and only the last one leaves the group. Its panic was reported where it happened.
            let _ = committing.join();
        }
        self.answer_what_is_open();
    }

    /// Tells the broker everything that is settled until it knows all of it. What is settled from then on is lost.
    fn tell_the_last(&mut self) {
        let deadline = Instant::now() + LAST;
        loop {
            let mut state = self.held.lock();
            if self.held.told_up_to() >= state.changes || Instant::now() >= deadline {
                let marks = match state.end {
                    Some(End::Abandoned) => Vec::new(),
                    _ => self.marks(&state),
                };
                state.partitions.clear();
                drop(state);
                self.note(&marks);
                return;
            }
            state.urgent = true;
            drop(state);
            self.take_what_is_lost();
            if self.serve_events().is_err() {
                self.held.lock().partitions.clear();
                return;
            }
            self.commit();
            self.held.signal.wait(Duration::from_millis(20));
        }
    }
}

/// Ends a subscription with its thread, however that ends.
struct Over(Arc<Held>);

impl Drop for Over {
    fn drop(&mut self) {
        if thread::panicking() {
            let text = "the thread of a consumer panicked; its queue is not consumed any more";
            self.0.lock().fatal = Some(Error::new(ErrorKind::Internal, text));
        }
        self.0.joined();
        self.0.ended();
    }
}
