//! The thread of a subscription: it reads, commits, and takes part in the group of its queue.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use event_core::{
    Arrival, Error, ErrorKind, ExchangeName, Message, QueueKind, QueueName, QueueSpec, Result,
    RoutingKey,
};
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    bindings::rd_kafka_resp_err_t as Event,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{
        BaseConsumer, CommitMode, Consumer as _, ConsumerContext, base_consumer::PartitionQueue,
    },
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};
use smol_str::SmolStr;

use crate::{
    admin,
    client::{self, Health},
    error,
    filter::{Answer, Filter},
    names,
    partition::{Partition, Place, Stage},
    progress::Progress,
    shared::{Shared, lock},
    signal::Signal,
    subscription::{End, Held},
    table::{Fact, Parts, Spans, Table},
    topology,
    wire::Reading,
};

/// How often the broker is told what is done, when nothing is urgent.
const COMMIT: Duration = Duration::from_millis(200);
/// How long one request of this thread may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the end may wait for a last commit.
const LAST: Duration = Duration::from_secs(5);
/// How long the start of a consumer waits for the group.
const JOIN: Duration = Duration::from_secs(5);
/// How much may be read and not handed out: messages, and bytes of them.
const READY: (usize, usize) = (4_096, 8 << 20);
/// How many records of each partition may be read and not handed out, however many partitions there are.
const MIN_SHARE: usize = 64;
/// How many bytes of a partition are read before others have their turn.
const TURN_BYTES: usize = 1 << 20;
/// How many records of a partition are read before others have their turn.
const TURN: usize = 1_024;
/// How often the end of a partition that nobody commits is noted in the topology topic.
const MARK: Duration = Duration::from_secs(3_600);
/// How often handled retries are removed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often an ephemeral subscription looks for new partitions.
const LOOK: Duration = Duration::from_secs(5);

/// Generations differ over all subscriptions of a process.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

type Client = BaseConsumer<Context>;

/// Whether more may be read while this much was read and not handed out.
pub(crate) fn has_room((messages, bytes): (usize, usize)) -> bool {
    messages < READY.0 && bytes < READY.1
}

/// Starts the thread of a subscription.
pub(crate) async fn start(shared: &Arc<Shared>, spec: &QueueSpec, held: &Arc<Held>) -> Result<()> {
    let mut config = shared.endpoints.config();
    let deadline = tokio::time::Instant::now() + client::PATIENCE;
    let table = shared.registry.current(deadline).await?;
    let kind = match spec.kind {
        QueueKind::Ephemeral => {
            // It joins no group, but the client wants one.
            config.set("group.id", format!("{}.ephemeral", spec.name));
            let mut bindings = std::collections::BTreeMap::new();
            let mut starts = Vec::new();
            for binding in &spec.bindings {
                bindings.insert(binding.clone(), Spans::since(Vec::new()));
            }
            let exchanges: BTreeSet<_> = spec.bindings.iter().map(|b| &b.exchange).collect();
            for exchange in exchanges {
                let topic = shared.admin.exchange(exchange).await?;
                let ends = shared.admin.ends(&topic).await?;
                starts.push((exchange.clone(), topic, ends));
            }
            Kind::Ephemeral {
                starts,
                filter: Filter::new(&bindings),
            }
        }
        _ => {
            let entry = table.queue(&spec.name);
            let entry = entry.ok_or_else(|| error::unknown_queue(&spec.name))?;
            config.set("group.id", spec.name.as_str());
            Kind::Durable {
                life: entry.life().unwrap_or_default().to_owned(),
            }
        }
    };
    let session = spec.lease.as_millis().to_string();
    let heartbeat = (spec.lease.as_millis() / 4).clamp(50, 500).to_string();
    for (name, value) in [
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // A range that is not there any more is an error to be told.
        ("auto.offset.reset", "error"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", &session),
        ("heartbeat.interval.ms", &heartbeat),
    ] {
        config.set(name, value);
    }
    for (name, value) in [
        // Other requests to a broker wait behind a fetch that waits.
        ("fetch.wait.max.ms", "50"),
        // How soon a partition is read on that was full.
        ("fetch.queue.backoff.ms", "10"),
        ("queued.min.messages", "20000"),
        ("queued.max.messages.kbytes", "8192"),
    ] {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    // So long the group waits for a member in a rebalance.
    let wait = (3 * shared.endpoints.drain).max(spec.lease).as_millis();
    let wait = wait.max(300_000).to_string();
    let wait = shared.endpoints.poll().unwrap_or(&wait);
    config.set("max.poll.interval.ms", wait);
    let most = shared.endpoints.max_message;
    if config.get("fetch.message.max.bytes").is_none() {
        config.set("fetch.message.max.bytes", (1 << 20).max(most).to_string());
    }
    let context = Context {
        health: shared.health.clone(),
        rebalances: Mutex::default(),
        events: AtomicU64::new(0),
        inline: AtomicBool::new(false),
    };
    let mut client = Client::from_config_and_context(&config, context)
        .map_err(|error| error::of(&format!("consume queue `{}`", spec.name), &error))?;
    let signal = held.signal.clone();
    client.set_nonempty_callback(move || signal.raise());
    shared.registry.listen(&held.signal);
    let client = Arc::new(client);
    let (commits, jobs) = mpsc::channel();
    let of = client.clone();
    let committing = spawn("switchboard-commit", move || run_commits(of, &jobs))?;
    let thread = Thread {
        client,
        shared: Arc::downgrade(shared),
        admin: shared.admin.clone(),
        registry: shared.registry.clone(),
        clock: shared.clock.clone(),
        producer: shared.producer.clone(),
        runtime: tokio::runtime::Handle::current(),
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
        filter: Filter::default(),
        table,
        checked: None,
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
    spawn("switchboard-consume", move || thread.run()).map(drop)?;
    // Who begins to publish now finds it there, unless others are still busy with what they have to let go.
    held.wait_joined(JOIN).await;
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot start a thread to consume").with_source(error)
    })
}

/// What the client says to its consumer.
struct Context {
    health: Arc<Health>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// How many events came: while there are any, the queue of events is not empty.
    events: AtomicU64,
    /// Partitions are let go at once: nobody is there to do it later.
    inline: AtomicBool,
}

struct Rebalance {
    is_assigned: bool,
    is_lost: bool,
    partitions: TopicPartitionList,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.fetch_add(1, SeqCst);
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.fetch_add(1, SeqCst);
        self.health.met(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, client: &Client, event: Event, partitions: &mut TopicPartitionList) {
        self.events.fetch_add(1, SeqCst);
        let is_assigned = event == Event::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.inline.load(SeqCst) {
            // Nothing else would end the consumer.
            answer(client, is_assigned, partitions);
            return;
        }
        lock(&self.rebalances).push_back(Rebalance {
            is_assigned,
            // Only true in this moment.
            is_lost: client.assignment_lost(),
            partitions: partitions.clone(),
        });
    }
}

/// Answers a rebalance at the end of a consumer, which takes nothing and gives everything. Without an answer it does
/// not leave its group.
fn answer(client: &Client, is_assigned: bool, partitions: &TopicPartitionList) {
    let answered = match is_assigned {
        true => client.incremental_assign(&TopicPartitionList::new()),
        false => unassign(client, partitions),
    };
    if let Err(error) = answered {
        tracing::debug!(target: "switchboard", %error, "a rebalance was over already");
    }
}

/// Lets partitions go.
fn unassign(client: &Client, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
    let Err(error) = client.incremental_unassign(partitions) else {
        return Ok(());
    };
    // One that is not assigned has the whole list refused, and without an answer everything stands still.
    let assigned = client.assignment().map_err(|_| error)?;
    let mut rest = TopicPartitionList::new();
    for one in assigned.elements() {
        if partitions
            .find_partition(one.topic(), one.partition())
            .is_some()
        {
            rest.add_partition(one.topic(), one.partition());
        }
    }
    client.incremental_unassign(&rest)
}

enum Kind {
    Durable {
        life: String,
    },
    Ephemeral {
        starts: Vec<(ExchangeName, SmolStr, Vec<i64>)>,
        filter: Filter,
    },
}

/// One partition as the client gives it.
struct Lane {
    topic: SmolStr,
    partition: i32,
    generation: u64,
    /// Nothing while it is taken away.
    queue: Option<PartitionQueue<Context>>,
    /// There may be something in the queue.
    filled: Arc<AtomicBool>,
    source: Source,
    reading: Reading,
    /// What was read and is not due before this, on the broker's clock.
    waiting: Option<(i64, i64, Message)>,
    /// Reading it failed; it has to be looked at where it begins and ends.
    is_lost: bool,
}

enum Source {
    Exchange(ExchangeName, Answer),
    /// Retries that wait for so many milliseconds.
    Retry(i64),
}

/// Partitions that go elsewhere when what is held of them is settled.
struct Leaving {
    partitions: TopicPartitionList,
    generations: Vec<u64>,
    until: Instant,
    /// The change after which the broker knows what is done, and when that is given up.
    last: Option<(u64, Instant)>,
}

/// Where the answer to a question about the topology topic arrives.
type EndAnswer = Arc<Mutex<Option<Result<i64>>>>;

/// The one commit that is under way.
#[derive(Default)]
struct Commit {
    under_way: Option<UnderWay>,
    not_before: Option<Instant>,
}

struct UnderWay {
    changes: u64,
    lent: Vec<(u64, i64)>,
    result: mpsc::Receiver<Vec<Result<(), KafkaError>>>,
}

/// Something to commit: that waits for the broker, and so has a thread of its own.
struct Job {
    offsets: TopicPartitionList,
    /// A result for each.
    told: mpsc::Sender<Vec<Result<(), KafkaError>>>,
    signal: Arc<Signal>,
}

/// Commits, one job after the other, until nobody has any more.
fn run_commits(client: Arc<Client>, jobs: &mpsc::Receiver<Job>) {
    for Job {
        offsets,
        told,
        signal,
    } in jobs
    {
        let all = client.commit(&offsets, CommitMode::Sync);
        let results = match all {
            // The error of one is said of all.
            Err(_) if offsets.count() > 1 => commit_each(&client, &offsets),
            result => vec![result; offsets.count()],
        };
        let _ = told.send(results);
        signal.raise();
    }
    // The last one ends the client, which waits.
    drop(client);
}

fn commit_each(client: &Client, offsets: &TopicPartitionList) -> Vec<Result<(), KafkaError>> {
    let each = offsets.elements();
    each.iter()
        .map(|one| {
            let mut alone = TopicPartitionList::new();
            let mut element = alone.add_partition(one.topic(), one.partition());
            element.set_metadata(one.metadata());
            element.set_offset(one.offset())?;
            client.commit(&alone, CommitMode::Sync)
        })
        .collect()
}

struct Thread {
    client: Arc<Client>,
    shared: std::sync::Weak<Shared>,
    admin: Arc<admin::Admin>,
    registry: Arc<crate::registry::Registry>,
    clock: Arc<crate::clock::BrokerClock>,
    producer: Arc<crate::producer::Producer>,
    runtime: tokio::runtime::Handle,
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
    table: Arc<Table>,
    checked: Option<Arc<Table>>,
    leaving: Option<Leaving>,
    ticket: u64,
    asked: Option<(u64, EndAnswer)>,
    commit: Commit,
    /// The thread that commits; nothing when it has ended.
    commits: Option<(mpsc::Sender<Job>, thread::JoinHandle<()>)>,
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
            self.look_for_partitions()?;
            self.reread();
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
        let Kind::Ephemeral { starts, filter } = &mut self.kind else {
            return Ok(());
        };
        self.filter = std::mem::take(filter);
        let starts = std::mem::take(starts);
        for (exchange, topic, ends) in &starts {
            for (partition, end) in (0..).zip(ends) {
                self.open_lane(
                    topic,
                    partition,
                    Source::Exchange(exchange.clone(), Answer::default()),
                    Progress::at(*end),
                )?;
            }
        }
        self.kind = Kind::Ephemeral {
            starts,
            filter: Filter::default(),
        };
        self.held.joined();
        Ok(())
    }

    fn is_ephemeral(&self) -> bool {
        matches!(self.kind, Kind::Ephemeral { .. })
    }

    // --- Events ---------------------------------------------------------------------------------------------------

    /// Serves the events of the client until there are none.
    fn serve_events(&mut self) -> Result<()> {
        loop {
            let before = self.client.context().events.load(SeqCst);
            match self.client.clone().poll(Duration::ZERO) {
                None if self.client.context().events.load(SeqCst) == before => return Ok(()),
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

    // --- The topology ---------------------------------------------------------------------------------------------

    /// Follows what the topology topic says: other topics, other bindings, or that the queue is gone.
    fn follow_table(&mut self) -> Result<()> {
        let Kind::Durable { life } = &self.kind else {
            return Ok(());
        };
        let table = self.registry.table();
        if self
            .checked
            .as_ref()
            .is_some_and(|checked| Arc::ptr_eq(checked, &table))
        {
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
        self.table = table.clone();
        self.checked = Some(table);
        let is_new = !self.filter.is_of(&parts.bindings);
        if is_new {
            self.filter = Filter::new(&parts.bindings);
            for lane in &mut self.lanes {
                if let Source::Exchange(exchange, answer) = &mut lane.source {
                    *answer = self.filter.fresh_answer(exchange, lane.partition);
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

    // --- Assignment -----------------------------------------------------------------------------------------------

    fn rebalance(&mut self) -> Result<()> {
        while self.leaving.is_none() {
            let next = lock(&self.client.context().rebalances).pop_front();
            let Some(next) = next else { return Ok(()) };
            if !next.is_assigned {
                self.revoke(next);
                continue;
            }
            let assigned = self.assign(&next.partitions);
            if assigned.is_ok() {
                self.held.joined();
            }
            if let Err(error) = assigned {
                if !error.is_retryable() {
                    return Err(error);
                }
                tracing::warn!(
                    target: "switchboard", queue = %self.queue, %error,
                    "partitions were assigned, and it is not known where to begin; it is tried again"
                );
                lock(&self.client.context().rebalances).push_front(next);
                self.held.signal.wait(Duration::from_millis(200));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Begins with partitions where the queue was, or where it was declared.
    fn assign(&mut self, partitions: &TopicPartitionList) -> Result<()> {
        let what = format!("begin with partitions of queue `{}`", self.queue);
        let failed = |error: KafkaError| error::of(&what, &error);
        if partitions.count() == 0 {
            // Until it is answered, everything stands still.
            return self.client.incremental_assign(partitions).map_err(failed);
        }
        let table = self.refresh()?;
        let Kind::Durable { life } = &self.kind else {
            return Ok(());
        };
        let life = life.clone();
        let entry = table
            .queue(&self.queue)
            .ok_or_else(|| error::deleted(&self.queue))?;
        let parts = entry.parts().cloned().unwrap_or_default();
        let committed = self
            .client
            .committed_offsets(partitions.clone(), REQUEST)
            .map_err(failed)?;
        let (lows, highs) = (
            self.bounds(partitions, Offset::Beginning).map_err(failed)?,
            self.bounds(partitions, Offset::End).map_err(failed)?,
        );
        let mut begun = Vec::new();
        for partition in committed.elements() {
            let place = (partition.topic().to_owned(), partition.partition());
            let source = self.source(&place.0);
            let stored = match partition.offset() {
                Offset::Offset(offset) if partition.metadata().is_empty() => {
                    tracing::warn!(
                        target: "switchboard", queue = %self.queue, topic = place.0, partition = place.1, offset,
                        "somebody else committed for the queue; it goes on from there"
                    );
                    Some(Progress::at(offset))
                }
                Offset::Offset(offset) => Progress::from_text(offset, partition.metadata(), &life),
                _ => None,
            };
            let start = match (&source, stored) {
                (_, Some(progress)) => progress,
                (Source::Retry(_), None) => Progress::at(0),
                (Source::Exchange(exchange, _), None) => match parts.marks.get(&place) {
                    Some(mark) => {
                        tracing::warn!(
                            target: "switchboard", queue = %self.queue, topic = place.0, partition = place.1, offset = mark,
                            "what the queue committed is not there any more; it goes on from what it noted last, and \
                             repeats what it did since"
                        );
                        Progress::at(*mark)
                    }
                    None => Progress::at(parts.start(exchange, place.1)),
                },
            };
            let (low, high) = (
                lows.get(&place).copied().unwrap_or(0),
                highs.get(&place).copied().unwrap_or(i64::MAX),
            );
            if let Source::Exchange(exchange, _) = &source
                && parts.begins_after(exchange, place.1, high)
            {
                self.renew(exchange)?;
            }
            let start = self.within(start, &place, low, high, matches!(source, Source::Retry(_)));
            begun.push((place, source, start));
        }
        let mut attached = false;
        for ((topic, partition), source, progress) in begun {
            let known = |lane: &Lane| lane.topic == topic && lane.partition == partition;
            if !self.lanes.iter().any(known) {
                attached |= self.open_lane(&SmolStr::from(topic), partition, source, progress)?;
            }
        }
        if !attached {
            self.client
                .incremental_assign(&TopicPartitionList::new())
                .map_err(failed)?;
        }
        Ok(())
    }

    /// The topic of an exchange was deleted and made again: bindings that began in the old one begin with the new one.
    fn renew(&mut self, exchange: &ExchangeName) -> Result<()> {
        let shared = self.shared.upgrade().ok_or_else(error::closed)?;
        tracing::error!(
            target: "switchboard", queue = %self.queue, %exchange,
            "the topic of an exchange was deleted and made again; the queue begins with the new one"
        );
        let renewed = topology::renew(&shared, &self.queue, exchange);
        self.runtime.block_on(renewed)?;
        self.refresh().map(drop)
    }

    /// Where to begin, when what was to be read is still there; otherwise it is said what is lost.
    fn within(
        &self,
        start: Progress,
        place: &(String, i32),
        low: i64,
        high: i64,
        is_swept: bool,
    ) -> Progress {
        let (topic, partition) = (place.0.as_str(), place.1);
        if start.offset > high {
            tracing::error!(
                target: "switchboard", queue = %self.queue, topic, partition, offset = start.offset, end = high,
                "the topic ends before what was read of it: it was deleted and made again; it is read from its beginning"
            );
            return Progress::at(low);
        }
        if start.offset >= low {
            return start;
        }
        // What is done already is not lost.
        let mut lost = low - start.offset;
        for (from, to) in &start.finished {
            lost -= (*to).min(low) - (*from).min(low);
        }
        if lost > 0 && !is_swept {
            tracing::error!(
                target: "switchboard", queue = %self.queue, topic, partition, lost,
                "records were removed by the retention of the topic before they were read: they are lost"
            );
        }
        Progress {
            offset: low,
            finished: start
                .finished
                .into_iter()
                .filter(|(from, _)| *from >= low)
                .collect(),
            lent: start.lent.max(low),
            suspects: start.suspects.max(low),
            alone: start.alone,
        }
    }

    fn bounds(
        &self,
        partitions: &TopicPartitionList,
        bound: Offset,
    ) -> Result<HashMap<(String, i32), i64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions.elements() {
            asked.add_partition_offset(partition.topic(), partition.partition(), bound)?;
        }
        admin::bounds(self.admin.asking(), asked)
    }

    fn source(&self, topic: &str) -> Source {
        let prefix = format!("{}.retry.", self.queue);
        let step = topic
            .strip_prefix(&prefix)
            .and_then(|step| step.parse().ok());
        if let Some(step) = step {
            return Source::Retry(step);
        }
        let mut exchanges = self.filter.exchanges();
        let exchange = exchanges
            .find(|exchange| names::exchange(&self.template, exchange).is_ok_and(|of| of == topic));
        match exchange {
            Some(exchange) => Source::Exchange(exchange.clone(), Answer::default()),
            // Its last binding was removed in this moment.
            None => Source::Retry(0),
        }
    }

    /// Begins to read a partition. Whether the client does.
    fn open_lane(
        &mut self,
        topic: &SmolStr,
        partition: i32,
        source: Source,
        progress: Progress,
    ) -> Result<bool> {
        let generation = GENERATIONS.fetch_add(1, SeqCst);
        let (exchange, source) = match source {
            Source::Exchange(exchange, _) => {
                let answer = self.filter.fresh_answer(&exchange, partition);
                (exchange.clone(), Source::Exchange(exchange, answer))
            }
            // Copies say where they came from.
            Source::Retry(step) => (ExchangeName::new("unknown")?, Source::Retry(step)),
        };
        let start = progress.offset;
        let mut lane = Lane {
            topic: topic.clone(),
            partition,
            generation,
            queue: None,
            filled: Arc::new(AtomicBool::new(true)),
            source,
            reading: Reading::new(exchange, self.default_key.clone()),
            waiting: None,
            is_lost: false,
        };
        if let Err(error) = self.attach(&mut lane, start) {
            tracing::warn!(
                target: "switchboard", queue = %self.queue, %topic, partition, %error,
                "a partition cannot be read yet; it is tried again"
            );
            lane.is_lost = true;
        }
        let is_attached = !lane.is_lost;
        let mut opened = Partition::new(
            topic.clone(),
            partition,
            generation,
            self.prefetch,
            progress,
        );
        if self.is_ephemeral() {
            opened.told(i64::MAX);
        }
        let mut state = self.held.lock();
        state.partitions.push(opened);
        state.changes += 1;
        state.urgent = true;
        drop(state);
        self.lanes.push(lane);
        Ok(is_attached)
    }

    /// Has the client read a partition from an offset on, into a queue of its own.
    fn attach(&self, lane: &mut Lane, offset: i64) -> Result<()> {
        let what = format!("read topic `{}`", lane.topic);
        let failed = |error: KafkaError| error::of(&what, &error);
        // The queues of one partition are one: the end of an old one would take the callback of the new one along.
        lane.queue = None;
        // Before it is assigned, so that nothing goes another way.
        let mut queue = self
            .client
            .split_partition_queue(&lane.topic, lane.partition)
            .ok_or_else(|| error::failed(&what, Code::UnknownPartition))?;
        let (signal, filled) = (self.held.signal.clone(), lane.filled.clone());
        queue.set_nonempty_callback(move || {
            filled.store(true, SeqCst);
            signal.raise();
        });
        lane.queue = Some(queue);
        lane.filled.store(true, SeqCst);
        let mut one = TopicPartitionList::new();
        one.add_partition_offset(&lane.topic, lane.partition, Offset::Offset(offset))
            .map_err(failed)?;
        self.client.incremental_assign(&one).map_err(failed)
    }

    fn revoke(&mut self, rebalance: Rebalance) {
        let partitions = rebalance.partitions;
        let mut generations = Vec::new();
        let is_taken = |lane: &Lane| {
            partitions
                .find_partition(&lane.topic, lane.partition)
                .is_some()
        };
        for lane in self.lanes.extract_if(.., |lane| is_taken(lane)) {
            generations.push(lane.generation);
        }
        let until = Instant::now() + self.drain;
        let mut state = self.held.lock();
        if rebalance.is_lost {
            state
                .partitions
                .retain(|partition| !generations.contains(&partition.generation()));
            let lost = generations.iter().map(|generation| Arrival::Revoked {
                generation: *generation,
            });
            state.arrivals.extend(lost);
            drop(state);
            tracing::warn!(
                target: "switchboard", queue = %self.queue, partitions = partitions.count(),
                "partitions were lost; what was in flight is handled again"
            );
            self.held.tell_reader();
            self.unassign(&partitions);
            return;
        }
        for generation in &generations {
            let Some(partition) = state.partition(*generation) else {
                continue;
            };
            partition.leave();
            if partition.held() > 0 {
                state.arrivals.push_back(Arrival::Revoking {
                    generation: *generation,
                    until: until.into(),
                });
            }
        }
        drop(state);
        self.held.tell_reader();
        self.leaving = Some(Leaving {
            partitions,
            generations,
            until,
            last: None,
        });
    }

    fn unassign(&self, partitions: &TopicPartitionList) {
        if let Err(error) = unassign(&self.client, partitions) {
            tracing::warn!(target: "switchboard", queue = %self.queue, %error, "partitions cannot be let go");
        }
    }

    /// Lets partitions go when what was held of them is settled and the broker knows it.
    fn let_go(&mut self) {
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        let now = Instant::now();
        let mut state = self.held.lock();
        let is_theirs =
            |partition: &Partition| leaving.generations.contains(&partition.generation());
        let Some((changes, give_up)) = leaving.last else {
            let held: usize = state
                .partitions
                .iter()
                .filter(|p| is_theirs(p))
                .map(Partition::held)
                .sum();
            if held > 0 && now < leaving.until {
                return;
            }
            for partition in state
                .partitions
                .iter_mut()
                .filter(|partition| is_theirs(partition))
            {
                partition.let_go();
            }
            state.changes += 1;
            state.urgent = true;
            leaving.last = Some((state.changes, now + REQUEST));
            drop(state);
            self.held.signal.raise();
            return;
        };
        if self.held.told_up_to() < changes && now < give_up {
            return;
        }
        let mut revoked = Vec::new();
        for partition in state
            .partitions
            .extract_if(.., |partition| is_theirs(partition))
        {
            if partition.held() > 0 {
                let generation = partition.generation();
                revoked.push(Arrival::Revoked { generation });
            }
        }
        state.arrivals.extend(revoked);
        drop(state);
        self.held.tell_reader();
        if let Some(leaving) = self.leaving.take() {
            self.unassign(&leaving.partitions);
        }
    }

    /// What the topology topic says now, waited for.
    fn refresh(&mut self) -> Result<Arc<Table>> {
        let (answer, answered) = mpsc::channel();
        self.registry.ask(Box::new(move |end| _ = answer.send(end)));
        let end = answered
            .recv_timeout(REQUEST)
            .map_err(|_| error::silent("say where the topology topic ends"))??;
        let deadline = Instant::now() + REQUEST;
        loop {
            let table = self.registry.table();
            if table.position >= end {
                break;
            }
            if Instant::now() > deadline {
                return Err(error::silent("read the topology topic"));
            }
            self.held.signal.wait(Duration::from_millis(20));
        }
        self.follow_table()?;
        Ok(self.table.clone())
    }

    /// An ephemeral subscription has no group that tells it of new partitions.
    fn look_for_partitions(&mut self) -> Result<()> {
        let Kind::Ephemeral { starts, .. } = &self.kind else {
            return Ok(());
        };
        if self.looked_at.elapsed() < LOOK {
            return Ok(());
        }
        self.looked_at = Instant::now();
        let mut new = Vec::new();
        for (exchange, topic, _) in starts {
            let Ok(metadata) = self.admin.asking().fetch_metadata(Some(topic), REQUEST) else {
                continue;
            };
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let count = found.map_or(0, |found| found.partitions().len());
            for partition in 0..i32::try_from(count).unwrap_or(0) {
                let known = |lane: &Lane| lane.topic == *topic && lane.partition == partition;
                if !self.lanes.iter().any(known) {
                    new.push((exchange.clone(), topic.clone(), partition));
                }
            }
        }
        for (exchange, topic, partition) in new {
            let source = Source::Exchange(exchange, Answer::default());
            self.open_lane(&topic, partition, source, Progress::at(0))?;
        }
        Ok(())
    }

    // --- Reading --------------------------------------------------------------------------------------------------

    /// Reads again what was given back, and looks at partitions whose reading failed.
    fn reread(&mut self) {
        let mut again = Vec::new();
        let mut state = self.held.lock();
        let is_ending = state.end.is_some();
        if std::mem::take(&mut state.back) && !is_ending {
            for partition in &mut state.partitions {
                if partition.stage() == Stage::Ours
                    && let Some(from) = partition.reread()
                {
                    again.push((partition.generation(), from));
                }
            }
        }
        drop(state);
        for (generation, from) in again {
            self.seek(generation, from);
        }
        // In the middle of a rebalance that would be taken for its answer.
        if self.leaving.is_some() || !lock(&self.client.context().rebalances).is_empty() {
            return;
        }
        let lost = self.lanes.iter().filter(|lane| lane.is_lost);
        let lost: Vec<_> = lost.map(|lane| lane.generation).collect();
        if lost.is_empty() || self.restored_at.elapsed() < Duration::from_millis(100) {
            return;
        }
        self.restored_at = Instant::now();
        for generation in lost {
            self.restore(generation);
        }
    }

    fn seek(&mut self, generation: u64, offset: i64) {
        let Some(lane) = self
            .lanes
            .iter_mut()
            .find(|lane| lane.generation == generation)
        else {
            return;
        };
        // It comes again in its turn.
        lane.waiting = lane.waiting.take().filter(|(_, at, _)| *at < offset);
        lane.filled.store(true, SeqCst);
        let sought = self.client.seek(
            &lane.topic,
            lane.partition,
            Offset::Offset(offset),
            Duration::from_millis(100),
        );
        if let Err(error) = sought {
            tracing::debug!(target: "switchboard", queue = %self.queue, %error, "a partition is taken up anew");
            lane.is_lost = true;
        }
    }

    /// Takes a partition up anew, where it was, or where it begins if that is not there any more.
    fn restore(&mut self, generation: u64) {
        let Some(at) = self
            .lanes
            .iter()
            .position(|lane| lane.generation == generation)
        else {
            return;
        };
        let lane = &self.lanes[at];
        let place = (lane.topic.to_string(), lane.partition);
        let mut one = TopicPartitionList::new();
        one.add_partition(&lane.topic, lane.partition);
        let bounds = self
            .bounds(&one, Offset::Beginning)
            .and_then(|low| Ok((low, self.bounds(&one, Offset::End)?)));
        let Ok((low, high)) = bounds else {
            // Nobody answers: it is asked again.
            return;
        };
        let (Some(low), Some(high)) = (low.get(&place).copied(), high.get(&place).copied()) else {
            return;
        };
        let is_retry = matches!(lane.source, Source::Retry(_));
        if let Source::Exchange(exchange, _) = &lane.source {
            let exchange = exchange.clone();
            let entry = self.table.queue(&self.queue).cloned();
            let begins_after = |parts: &Parts| parts.begins_after(&exchange, place.1, high);
            if entry.is_some_and(|entry| entry.parts().is_some_and(begins_after))
                && let Err(error) = self.renew(&exchange)
            {
                tracing::warn!(target: "switchboard", queue = %self.queue, %error, "it is tried again");
                return;
            }
        }
        let (generation, mut progress) = {
            let mut state = self.held.lock();
            let Some(partition) = state.partition(generation) else {
                return;
            };
            // It did not end anybody.
            partition.let_go();
            (generation, partition.progress())
        };
        progress = self.within(progress, &place, low, high, is_retry);
        self.unassign(&one);
        let mut lane = self.lanes.swap_remove(at);
        // With a generation of its own, so that nothing of before is taken for something of it.
        let mut state = self.held.lock();
        state
            .partitions
            .retain(|partition| partition.generation() != generation);
        state.arrivals.push_back(Arrival::Revoked { generation });
        drop(state);
        self.held.tell_reader();
        lane.queue = None;
        let source = lane.source;
        if let Err(error) = self.open_lane(&lane.topic, lane.partition, source, progress) {
            tracing::warn!(target: "switchboard", queue = %self.queue, %error, "a partition is not read");
        }
    }

    /// Reads what there is room for. Whether there is more.
    fn read(&mut self) -> Result<bool> {
        let mut ready = {
            let state = self.held.lock();
            if state.end.is_some() {
                return Ok(false);
            }
            state.ready()
        };
        let mut is_busy = false;
        let mut has_unmatched = false;
        let ticket = self.ticket + 1;
        let count = self.lanes.len();
        // None takes the room of the others, whoever is first.
        let share = (READY.0 / count.max(1)).max(MIN_SHARE);
        for _ in 0..count {
            if !has_room(ready) {
                break;
            }
            self.turn = (self.turn + 1) % count;
            let at = self.turn;
            let generation = self.lanes[at].generation;
            let has = self
                .held
                .lock()
                .partition(generation)
                .map(|of| of.ready().0);
            let mut batch = Batch::default();
            is_busy |= self.read_lane(at, &mut batch, share.saturating_sub(has.unwrap_or(0)));
            if let Some(error) = batch.error.take() {
                self.met(&error)?;
            }
            if batch.records.is_empty() {
                continue;
            }
            let mut state = self.held.lock();
            let Some(partition) = state.partition(generation) else {
                continue;
            };
            for (offset, message) in batch.records {
                match partition.place(offset) {
                    Place::New => {}
                    Place::Known => continue,
                    Place::Gap => {
                        self.lanes[at].is_lost = true;
                        break;
                    }
                }
                match message {
                    Some(message) => partition.push(offset, message),
                    None => {
                        partition.pass(offset, ticket);
                        has_unmatched = true;
                    }
                }
            }
            partition.tidy();
            let is_short = partition.is_short();
            ready = state.ready();
            state.changes += 1;
            state.urgent |= is_short;
            drop(state);
            if !is_short {
                self.held.tell_reader();
            }
        }
        if has_unmatched {
            self.pass(ticket);
        }
        Ok(is_busy)
    }

    /// Reads a batch of a partition. Whether there may be more.
    fn read_lane(&mut self, at: usize, batch: &mut Batch, room: usize) -> bool {
        let lane = &mut self.lanes[at];
        // One whose reading failed is taken up anew first.
        let Some(queue) = lane.queue.as_ref().filter(|_| !lane.is_lost) else {
            return false;
        };
        if let Some((due, offset, message)) = lane.waiting.take() {
            if !is_reached(self.clock.reaches(due)) {
                lane.waiting = Some((due, offset, message));
                return false;
            }
            batch.records.push((offset, Some(message)));
        }
        if !lane.filled.swap(false, SeqCst) {
            return false;
        }
        let mut bytes = 0;
        for _ in 0..TURN.min(room) {
            if bytes > TURN_BYTES {
                break;
            }
            let record = match queue.poll(Duration::ZERO) {
                None => return false,
                Some(Ok(record)) => record,
                Some(Err(error)) => {
                    lane.is_lost |= is_lost(&error);
                    if !lane.is_lost {
                        batch.error = Some(error);
                    }
                    continue;
                }
            };
            let offset = record.offset();
            bytes += record.payload_len();
            match &mut lane.source {
                Source::Exchange(exchange, answer) => {
                    let key = lane.reading.key(&record);
                    let is_ours =
                        self.filter
                            .lets_in(exchange, lane.partition, offset, key, answer);
                    let message = is_ours.then(|| lane.reading.message(&record));
                    batch.records.push((offset, message));
                }
                Source::Retry(step) => {
                    let due = appended(&record) + *step;
                    let message = lane.reading.copy(&record);
                    if *step > 0 && !is_reached(self.clock.reaches(due)) {
                        lane.waiting = Some((due, offset, message));
                        lane.filled.store(true, SeqCst);
                        return false;
                    }
                    batch.records.push((offset, Some(message)));
                }
            }
        }
        lane.filled.store(true, SeqCst);
        true
    }

    /// Asks whether bindings are known that might let in what none did.
    fn pass(&mut self, ticket: u64) {
        if self.is_ephemeral() {
            let mut state = self.held.lock();
            state
                .partitions
                .iter_mut()
                .for_each(|partition| partition.confirm(ticket));
            self.ticket = ticket;
            return;
        }
        if self.asked.is_some() {
            return;
        }
        self.ticket = ticket;
        let answer = EndAnswer::default();
        let (told, signal) = (answer.clone(), self.held.signal.clone());
        self.registry.ask(Box::new(move |end| {
            *lock(&told) = Some(end);
            signal.raise();
        }));
        self.asked = Some((ticket, answer));
    }

    /// What no binding let in is done when the table was read far enough, and nothing new stood in it.
    fn confirm(&mut self) {
        let Some((ticket, answer)) = &self.asked else {
            return;
        };
        let ticket = *ticket;
        let end = match &*lock(answer) {
            None => return,
            Some(end) => end.clone(),
        };
        let is_known = match end {
            // Followed just before.
            Ok(end) => self
                .checked
                .as_ref()
                .is_some_and(|table| table.position >= end),
            Err(_) => {
                // Asked again with the next record, or now.
                self.asked = None;
                self.pass(ticket);
                return;
            }
        };
        if !is_known {
            return;
        }
        self.asked = None;
        let mut state = self.held.lock();
        state.changes += 1;
        for partition in &mut state.partitions {
            partition.confirm(ticket);
        }
        let waits = state
            .partitions
            .iter()
            .any(|partition| partition.waits_for(u64::MAX));
        drop(state);
        if waits {
            self.pass(ticket + 1);
        }
    }

    // --- Committing -----------------------------------------------------------------------------------------------

    /// Tells the broker what is done, in a moment or now.
    fn commit(&mut self) {
        if self.is_ephemeral() {
            let state = self.held.lock();
            self.held.told(state.changes);
            return;
        }
        self.take_result();
        let now = Instant::now();
        if self.commit.under_way.is_some() || self.commit.not_before.is_some_and(|at| now < at) {
            return;
        }
        let Kind::Durable { life } = &self.kind else {
            return;
        };
        let mut state = self.held.lock();
        if self.beat_at.elapsed() >= COMMIT {
            self.beat_at = now;
            state.partitions.iter_mut().for_each(Partition::beat);
        }
        if !state.urgent && self.told_at.elapsed() < COMMIT {
            return;
        }
        state.urgent = false;
        let changes = state.changes;
        let mut offsets = TopicPartitionList::new();
        let mut lent = Vec::new();
        for partition in state
            .partitions
            .iter_mut()
            .filter(|partition| partition.has_changed())
        {
            let progress = partition.progress();
            lent.push((partition.generation(), progress.lent));
            let mut element = offsets.add_partition(&partition.topic, partition.number);
            element.set_metadata(progress.to_text(life));
            if let Err(error) = element.set_offset(Offset::Offset(progress.offset)) {
                tracing::error!(target: "switchboard", queue = %self.queue, %error, "an offset that cannot be");
            }
        }
        drop(state);
        self.told_at = now;
        if lent.is_empty() {
            self.held.told(changes);
            return;
        }
        let (told, result) = mpsc::channel();
        let job = Job {
            offsets,
            told,
            signal: self.held.signal.clone(),
        };
        if let Some((commits, _)) = &self.commits
            && commits.send(job).is_err()
        {
            tracing::error!(target: "switchboard", queue = %self.queue, "the thread that commits has ended");
        }
        self.commit.under_way = Some(UnderWay {
            changes,
            lent,
            result,
        });
    }

    fn take_result(&mut self) {
        let Some(under_way) = &self.commit.under_way else {
            return;
        };
        let results = match under_way.result.try_recv() {
            Ok(results) => results,
            Err(mpsc::TryRecvError::Empty) => return,
            // Its thread has ended.
            Err(mpsc::TryRecvError::Disconnected) => Vec::new(),
        };
        let Some(UnderWay { changes, lent, .. }) = self.commit.under_way.take() else {
            return;
        };
        let mut state = self.held.lock();
        let mut failed = None;
        for (at, (generation, lent)) in lent.into_iter().enumerate() {
            let result = results
                .get(at)
                .cloned()
                .unwrap_or(Err(KafkaError::Canceled));
            let Some(partition) = state.partition(generation) else {
                continue;
            };
            match result {
                Ok(()) => partition.told(lent),
                // There is nothing left to be told of.
                Err(error) if admin::is_gone(&error) => partition.told(lent),
                Err(error) => {
                    partition.not_told();
                    failed = Some(error);
                }
            }
        }
        match failed {
            None => {
                drop(state);
                self.commit.not_before = None;
                self.held.told(changes);
            }
            Some(error) => {
                state.urgent = true;
                drop(state);
                tracing::debug!(target: "switchboard", queue = %self.queue, %error, "a commit failed; it is tried again");
                self.commit.not_before = Some(Instant::now() + Duration::from_millis(100));
            }
        }
        self.held.tell_reader();
    }

    /// Notes from time to time how far it is, for when committed offsets have expired, and removes handled retries.
    fn sweep(&mut self) {
        if self.is_ephemeral() {
            return;
        }
        if self.marked_at.elapsed() >= MARK {
            self.mark();
        }
        if self.swept_at.elapsed() < SWEEP {
            return;
        }
        self.swept_at = Instant::now();
        let mut before = TopicPartitionList::new();
        let state = self.held.lock();
        for lane in &self.lanes {
            let partition = state
                .partitions
                .iter()
                .find(|of| of.generation() == lane.generation);
            let (Source::Retry(_), Some(partition)) = (&lane.source, partition) else {
                continue;
            };
            let (place, lowest) = ((lane.topic.clone(), lane.partition), partition.lowest());
            let swept = self.swept.entry(place).or_insert(0);
            if lowest > *swept
                && before
                    .add_partition_offset(&lane.topic, lane.partition, Offset::Offset(lowest))
                    .is_ok()
            {
                *swept = lowest;
            }
        }
        drop(state);
        if before.count() > 0 {
            let admin = self.admin.clone();
            self.runtime.spawn(async move {
                if let Err(error) = admin.delete_records(before).await {
                    tracing::debug!(target: "switchboard", %error, "handled retries stay for now");
                }
            });
        }
    }

    fn mark(&mut self) {
        self.marked_at = Instant::now();
        let Kind::Durable { life } = &self.kind else {
            return;
        };
        let state = self.held.lock();
        let mut facts = Vec::new();
        for lane in &self.lanes {
            let partition = state
                .partitions
                .iter()
                .find(|of| of.generation() == lane.generation);
            if let (Source::Exchange(..), Some(partition)) = (&lane.source, partition) {
                let (topic, number) = (lane.topic.as_str(), lane.partition);
                let lowest = partition.lowest();
                facts.push(Fact::mark(&self.queue, life, topic, number, lowest));
            }
        }
        drop(state);
        let (producer, topic) = (self.producer.clone(), self.registry.topic().to_owned());
        self.runtime.spawn(async move {
            let records = facts.iter().map(|fact| topology::record(&topic, fact));
            let deadline = tokio::time::Instant::now() + client::PATIENCE;
            for stored in producer.store(records.collect(), deadline).await {
                if let Err(code) = stored {
                    tracing::debug!(target: "switchboard", %code, "how far a queue is was not noted");
                }
            }
        });
    }

    // --- The end --------------------------------------------------------------------------------------------------

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
        for lane in &self.lanes {
            if let Some((due, ..)) = &lane.waiting
                && let Some(due) = self.clock.reaches(*due)
            {
                wait = wait.min(due.saturating_duration_since(now));
            }
        }
        let state = self.held.lock();
        if self.commit.under_way.is_none() && state.partitions.iter().any(Partition::has_changed) {
            let next = match self.commit.not_before {
                Some(at) => at.saturating_duration_since(now),
                None => COMMIT.saturating_sub(self.told_at.elapsed()),
            };
            wait = wait.min(next);
        }
        wait.max(Duration::from_millis(1))
    }

    /// Tells the broker the last, leaves the group, and ends the client.
    fn end(mut self) {
        if self.is_ephemeral() {
            let state = self.held.lock();
            self.held.told(state.changes);
        } else {
            let changes = {
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
                state.urgent = true;
                state.changes
            };
            let deadline = Instant::now() + LAST;
            while self.held.told_up_to() < changes && Instant::now() < deadline {
                self.take_what_is_lost();
                if self.serve_events().is_err() {
                    break;
                }
                self.commit();
                self.held.signal.wait(Duration::from_millis(20));
            }
        }
        self.leave();
        // What is settled from now on is lost.
        self.held.lock().partitions.clear();
        if let Some((commits, committing)) = self.commits.take() {
            drop(commits);
            // It holds the client too, and only the last one leaves the group. Its panic was reported where it happened.
            let _ = committing.join();
        }
    }
}

impl Thread {
    /// What was taken away meanwhile is not committed.
    fn take_what_is_lost(&mut self) {
        let lost = {
            let mut rebalances = lock(&self.client.context().rebalances);
            let lost = rebalances.iter().position(|rebalance| rebalance.is_lost);
            lost.and_then(|at| rebalances.remove(at))
        };
        if let Some(lost) = lost {
            self.revoke(lost);
        }
    }

    /// Leaves the group, which happens when the client is dropped after this.
    ///
    /// Its last partitions are taken away then, and it leaves only if that is answered after the client was told to
    /// end: the answer to anything before would have it stop reading first, and the end not wait for that. So what is
    /// open stays without an answer, and nothing is polled from here on.
    fn leave(&mut self) {
        let context = self.client.context().clone();
        context.inline.store(true, SeqCst);
        self.lanes.clear();
        let is_open = !lock(&context.rebalances).is_empty() || self.leaving.is_some();
        if self.is_ephemeral() {
            return;
        }
        if !is_open {
            self.wait_for_the_group();
        }
        // Who has no partitions leaves with this.
        self.client.unsubscribe();
    }

    /// Waits until the group has agreed: the client does not leave while it joins, and the others would wait for it
    /// until its lease is over.
    fn wait_for_the_group(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            let client = self.admin.asking().client();
            let found = client.fetch_group_list(Some(&self.queue), Duration::from_secs(1));
            let Ok(found) = found else { return };
            let group = found
                .groups()
                .iter()
                .find(|group| group.name() == &*self.queue);
            if group.is_none_or(|group| !group.state().contains("Rebalance")) {
                return;
            }
            drop(self.client.poll(Duration::from_millis(20)));
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

/// What was read of a partition: its messages, and the offsets of records that are not the queue's.
#[derive(Default)]
struct Batch {
    records: Vec<(i64, Option<Message>)>,
    error: Option<KafkaError>,
}

fn is_reached(due: Option<Instant>) -> bool {
    due.is_some_and(|due| due <= Instant::now())
}

/// When the broker stored a record, in milliseconds since 1970.
fn appended(record: &BorrowedMessage<'_>) -> i64 {
    record.timestamp().to_millis().unwrap_or(0)
}

/// Whether a partition is not read any more after this error.
fn is_lost(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
        )
    )
}
