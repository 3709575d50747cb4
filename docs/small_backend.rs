// The backend that `writing-a-backend.md` builds. A test compares the page with this file, and another runs it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Binding, Capabilities, Capability, ConnectionState, DeadLetter, DeadLetterId,
    DeadLetters, Deliveries, Delivery, DeliveryTag, Error, ErrorKind, ExchangeName, Message,
    QueueKind, QueueName, QueueSpec, Receipt, Removal, Result, Selection, Settle, Settled,
    Settlement, Subscription, Support, TopicMap, Topology, Transport,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

// --- The server -----------------------------------------------------------------------------------

/// Stands for the server: what a broker elsewhere would keep.
#[derive(Debug, Default)]
pub struct Server {
    state: Mutex<State>,
    /// Wakes the readers: something was stored, or settled.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    bindings: HashMap<ExchangeName, TopicMap<QueueName>>,
    queues: HashMap<QueueName, Queue>,
    /// The last number that was given to a message, a subscription or a dead letter.
    last: u64,
}

#[derive(Debug, Default)]
struct Queue {
    bindings: BTreeSet<Binding>,
    /// By place in the queue.
    ready: BTreeMap<u64, Stored>,
    held: BTreeMap<DeliveryTag, Stored>,
    /// By the time when they become ready; the number tells those of one time apart.
    waiting: BTreeMap<(Instant, u64), Stored>,
    dead: BTreeMap<u64, Message>,
}

#[derive(Debug)]
struct Stored {
    place: u64,
    message: Message,
    redeliveries: u32,
    suspect: bool,
    /// How often it began to run alone without being settled afterwards.
    alone: u32,
    /// Whether the present holder runs it alone.
    isolated: bool,
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn queue(&mut self, name: &str) -> Result<&mut Queue> {
        let missing = || {
            let text = format!("queue `{name}` does not exist; declare it first");
            Error::new(ErrorKind::NotFound, text)
        };
        self.queues.get_mut(name).ok_or_else(missing)
    }
}

impl Stored {
    fn new(place: u64, message: Message) -> Self {
        Self {
            place,
            message,
            redeliveries: 0,
            suspect: false,
            alone: 0,
            isolated: false,
        }
    }
}

// --- Step 1: what it can do, and the connection ---------------------------------------------------

static CAPABILITIES: Capabilities = Capabilities::new("small")
    .with(
        Capability::Ordered,
        Support::Refused("its consumers share a queue message by message"),
    )
    .with(
        Capability::Ephemeral,
        Support::Refused("it keeps every queue"),
    )
    .with(
        Capability::MaxLength,
        Support::Refused("it does not count what a queue holds"),
    );

#[derive(Debug)]
pub struct Small {
    server: Arc<Server>,
    connection: Arc<watch::Sender<ConnectionState>>,
}

impl Small {
    pub fn connect(server: &Arc<Server>) -> Self {
        Self {
            server: server.clone(),
            connection: Arc::new(watch::Sender::new(ConnectionState::Connected)),
        }
    }

    fn check_open(&self) -> Result<()> {
        if *self.connection.borrow() == ConnectionState::Closed {
            return Err(Error::new(
                ErrorKind::Closed,
                "the connection was closed; connect again",
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Transport for Small {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.check_open()?;
        self.server.lock().declare(topology)
    }

    async fn publish(&self, batch: Vec<Message>, deadline: Instant) -> Vec<Result<Receipt>> {
        if let Err(closed) = self.check_open() {
            return vec![Err(closed); batch.len()];
        }
        if deadline <= Instant::now() {
            let late = Error::retryable(ErrorKind::Timeout, "the deadline has passed");
            return vec![Err(late); batch.len()];
        }
        let mut state = self.server.lock();
        let results = batch.into_iter().map(|message| state.accept(message));
        let results = results.collect();
        self.server.changed.notify_waiters();
        results
    }

    async fn consume(&self, queue: &QueueSpec) -> Result<Subscription> {
        self.check_open()?;
        let mut state = self.server.lock();
        state.queue(&queue.name)?;
        let link = Arc::new(Link {
            server: self.server.clone(),
            connection: self.connection.clone(),
            queue: queue.name.clone(),
            lease: queue.lease,
            generation: state.next(),
        });
        let stop = CancellationToken::new();
        let reader = Reader {
            link: link.clone(),
            stop: stop.clone(),
        };
        Ok(Subscription {
            deliveries: Box::new(reader),
            settle: link,
            stop,
        })
    }

    async fn remove(&self, removal: &Removal) -> Result<()> {
        self.check_open()?;
        self.server.lock().remove(removal)?;
        self.server.changed.notify_waiters();
        Ok(())
    }

    async fn dead_letters(&self, queue: &str) -> Result<Box<dyn DeadLetters>> {
        self.check_open()?;
        self.server.lock().queue(queue)?;
        let (server, queue) = (self.server.clone(), queue.to_owned());
        Ok(Box::new(Letters { server, queue }))
    }

    async fn close(&self, _deadline: Instant) -> Result<()> {
        self.connection.send_replace(ConnectionState::Closed);
        Ok(())
    }
}

// --- Step 2: declare and remove -------------------------------------------------------------------

impl State {
    fn declare(&mut self, topology: &Topology) -> Result<()> {
        for exchange in &topology.exchanges {
            self.bindings.entry(exchange.clone()).or_default();
        }
        for spec in &topology.queues {
            if spec.kind == QueueKind::Existing {
                // Somebody else's: it has to be there, and is used as it is.
                self.queue(&spec.name)?;
                continue;
            }
            let queue = self.queues.entry(spec.name.clone()).or_default();
            for binding in &spec.bindings {
                // Only what is new: the map would count an entry twice.
                if queue.bindings.insert(binding.clone()) {
                    let exchange = self.bindings.entry(binding.exchange.clone());
                    let map = exchange.or_default();
                    map.insert(&binding.pattern, spec.name.clone());
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, removal: &Removal) -> Result<()> {
        match removal {
            Removal::Binding { queue, binding } => self.unbind(queue, |found| found == binding),
            Removal::OtherBindings { queue, keep } => {
                self.unbind(queue, |found| !keep.contains(found));
            }
            Removal::Queue(queue) => {
                self.unbind(queue, |_| true);
                self.queues.remove(queue);
            }
            other => {
                let text = format!("`{other:?}` is unknown to this backend");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        Ok(())
    }

    fn unbind(&mut self, name: &QueueName, unwanted: impl Fn(&Binding) -> bool) {
        // What is not there counts as removed.
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        queue.bindings.retain(|binding| {
            if unwanted(binding)
                && let Some(map) = self.bindings.get_mut(&binding.exchange)
            {
                map.remove(&binding.pattern, |bound| bound == name);
            }
            !unwanted(binding)
        });
    }
}

// --- Step 3: publish ------------------------------------------------------------------------------

impl State {
    fn accept(&mut self, message: Message) -> Result<Receipt> {
        // A set: a queue gets one copy however many of its bindings match.
        let mut queues = BTreeSet::new();
        if let Some(bindings) = self.bindings.get(message.exchange()) {
            bindings.for_each_match(message.key(), |queue| {
                queues.insert(queue.clone());
            });
        }
        if queues.is_empty() && message.is_mandatory() {
            let (exchange, key) = (message.exchange(), message.key());
            let text = format!("no queue is bound to exchange `{exchange}` for `{key}`");
            return Err(Error::new(ErrorKind::Unroutable, text));
        }
        let place = self.next();
        for name in &queues {
            if let Some(queue) = self.queues.get_mut(name) {
                let stored = Stored::new(place, message.clone());
                queue.ready.insert(place, stored);
            }
        }
        let count = u32::try_from(queues.len()).ok();
        Ok(Receipt::new(message.id().clone(), count))
    }
}

// --- Step 4: consume ------------------------------------------------------------------------------

/// What the reader and the settler of a subscription share.
#[derive(Debug)]
struct Link {
    server: Arc<Server>,
    connection: Arc<watch::Sender<ConnectionState>>,
    queue: QueueName,
    lease: Duration,
    generation: u64,
}

#[derive(Debug)]
struct Reader {
    link: Arc<Link>,
    stop: CancellationToken,
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        let mut connection = self.link.connection.subscribe();
        loop {
            // Before looking, so that nothing is missed between the look and the wait.
            let changed = self.link.server.changed.notified();
            if self.stop.is_cancelled() {
                return Ok(Arrival::Ended);
            }
            if *connection.borrow_and_update() == ConnectionState::Closed {
                return Err(Error::new(ErrorKind::Closed, "the connection was closed"));
            }
            let due = match self.link.take(max)? {
                Taken::Batch(batch) => return Ok(Arrival::Batch(batch)),
                Taken::Nothing { due } => due,
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = changed => {}
                () = reached(due) => {}
                _ = connection.changed() => {}
            }
        }
    }
}

async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

enum Taken {
    Batch(Vec<Delivery>),
    /// Not before something changes, or this time comes.
    Nothing {
        due: Option<Instant>,
    },
}

impl Link {
    fn take(&self, max: usize) -> Result<Taken> {
        let mut state = self.server.lock();
        let state = &mut *state;
        let queue = state.queues.get_mut(&self.queue).ok_or_else(|| {
            let text = format!("queue `{}` was deleted; declare it again", self.queue);
            Error::new(ErrorKind::NotFound, text)
        })?;
        queue.wake_up(Instant::now());
        let mut batch = Vec::new();
        while batch.len() < max
            && let Some((_, stored)) = queue.ready.pop_first()
        {
            state.last += 1;
            let tag = DeliveryTag {
                generation: self.generation,
                number: state.last,
            };
            batch.push(
                Delivery::new(stored.message.clone(), tag)
                    .with_redeliveries(stored.redeliveries)
                    .with_suspicion(stored.suspect),
            );
            queue.held.insert(tag, stored);
        }
        Ok(if batch.is_empty() {
            let due = queue.waiting.keys().next().map(|(due, _)| *due);
            Taken::Nothing { due }
        } else {
            Taken::Batch(batch)
        })
    }
}

impl Queue {
    /// Makes ready what is due.
    fn wake_up(&mut self, now: Instant) {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let stored = first.remove();
            self.ready.insert(stored.place, stored);
        }
    }
}

// --- Step 5: settle -------------------------------------------------------------------------------

#[async_trait]
impl Settle for Link {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut state = self.server.lock();
        let results = settlements
            .into_iter()
            .map(|settlement| Ok(state.settle(&self.queue, settlement)))
            .collect();
        self.server.changed.notify_waiters();
        results
    }

    async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        let mut state = self.server.lock();
        let stored = state.queue(&self.queue)?.held.get_mut(&tag);
        let stored = stored.ok_or_else(|| {
            let text = format!("delivery {tag} no longer belongs to this consumer");
            Error::new(ErrorKind::NotFound, text)
        })?;
        stored.isolated = true;
        stored.alone += 1;
        Ok(stored.alone - 1)
    }
}

impl State {
    fn settle(&mut self, queue: &QueueName, settlement: Settlement) -> Settled {
        let number = self.next();
        let Some(queue) = self.queues.get_mut(queue) else {
            return Settled::Lost;
        };
        let tag = settlement.tag();
        if !queue.held.contains_key(&tag) {
            return Settled::Lost;
        }
        // The copy first.
        match settlement {
            Settlement::Retry { message, delay, .. } => {
                let stored = Stored::new(number, *message);
                queue.waiting.insert((after(delay), number), stored);
            }
            Settlement::DeadLetter { message, .. } => {
                queue.dead.insert(number, *message);
            }
            Settlement::Release(_) => {
                if let Some(mut stored) = queue.held.remove(&tag) {
                    // Given back in good order: it has not killed anyone.
                    stored.alone -= u32::from(stored.isolated);
                    stored.isolated = false;
                    queue.ready.insert(stored.place, stored);
                }
            }
            Settlement::Ack(_) => {}
        }
        // The original last.
        queue.held.remove(&tag);
        Settled::Done
    }
}

/// A delay that is too long for the clock ends in thirty years.
fn after(delay: Duration) -> Instant {
    const THIRTY_YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);
    let now = Instant::now();
    now.checked_add(delay).unwrap_or_else(|| now + THIRTY_YEARS)
}

// --- Step 6: crashes ------------------------------------------------------------------------------

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.server.lock();
        let Some(queue) = state.queues.get_mut(&self.queue) else {
            return;
        };
        let ours = |tag: &&DeliveryTag| tag.generation == self.generation;
        let tags: Vec<_> = queue.held.keys().filter(ours).copied().collect();
        for tag in tags {
            if let Some(mut stored) = queue.held.remove(&tag) {
                stored.redeliveries += 1;
                stored.suspect = true;
                stored.isolated = false;
                let due = after(self.lease);
                queue.waiting.insert((due, tag.number), stored);
            }
        }
        // Readers have another time to wait for.
        self.server.changed.notify_waiters();
    }
}

// --- Step 7: dead letters -------------------------------------------------------------------------

#[derive(Debug)]
struct Letters {
    server: Arc<Server>,
    queue: String,
}

#[async_trait]
impl DeadLetters for Letters {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let mut state = self.server.lock();
        let dead = &state.queue(&self.queue)?.dead;
        let begin = after.and_then(number).map_or(0, |number| number + 1);
        let page = dead.range(begin..).take(limit);
        Ok(page
            .map(|(number, message)| letter(*number, message))
            .collect())
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        let mut state = self.server.lock();
        let numbers = state.queue(&self.queue)?.selected(selection);
        for number in &numbers {
            let place = state.next();
            let queue = state.queue(&self.queue)?;
            if let Some(message) = queue.dead.get(number) {
                let message = letter(*number, message).into_replay();
                queue.ready.insert(place, Stored::new(place, message));
                queue.dead.remove(number);
            }
        }
        self.server.changed.notify_waiters();
        Ok(numbers.len() as u64)
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        let mut state = self.server.lock();
        let queue = state.queue(&self.queue)?;
        let numbers = queue.selected(selection);
        for number in &numbers {
            queue.dead.remove(number);
        }
        Ok(numbers.len() as u64)
    }
}

impl Queue {
    fn selected(&self, selection: &Selection) -> BTreeSet<u64> {
        match selection {
            Selection::All => self.dead.keys().copied().collect(),
            Selection::Ids(ids) => {
                let numbers = ids.iter().filter_map(number);
                numbers
                    .filter(|number| self.dead.contains_key(number))
                    .collect()
            }
        }
    }
}

fn letter(number: u64, message: &Message) -> DeadLetter {
    DeadLetter::new(DeadLetterId::new(number.to_string()), message.clone())
}

fn number(id: &DeadLetterId) -> Option<u64> {
    id.as_str().parse().ok()
}
