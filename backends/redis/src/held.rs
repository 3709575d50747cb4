//! What a subscription holds, and how it is settled.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use event_core::{
    Delivery, DeliveryTag, Error, ErrorKind, ExchangeName, Message, QueueSpec, Result, Settled,
    Settlement,
};
use futures_util::future::join_all;
use redis::{Cmd, Value};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error,
    keys::{ExchangeKeys, QueueKeys},
    link::{Link, Request},
    scripts,
    server::text,
    shared::{Shared, lock, token},
    wire::{self, EntryId},
};

/// How long a settlement is tried before it is answered with an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most ids of one request.
const BATCH: usize = 1_000;

/// How long it is waited for what only hurries others up: they do the same in time.
const MOMENT: Duration = Duration::from_millis(500);

/// The most entries of one read: a server that gathers more lets both sides wait for each other.
const READ: usize = 250;

/// What a subscription holds. Dropping it is a crash, as far as others see.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) shared: Arc<Shared>,
    pub(crate) spec: QueueSpec,
    /// The name of this consumer, which no other has or ever had.
    pub(crate) me: String,
    pub(crate) generation: u64,
    /// A place for each delivery that may be held.
    room: Semaphore,
    /// How many entries are held beyond the room; their places are taken back first.
    excess: AtomicUsize,
    pub(crate) stop: CancellationToken,
    streams: Mutex<Vec<Arc<Stream>>>,
    book: Mutex<Book>,
    /// How many readers run.
    reading: watch::Sender<usize>,
}

/// One stream of the queue: it has one for each of its exchanges.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) exchange: ExchangeName,
    pub(crate) table: ExchangeKeys,
    pub(crate) keys: QueueKeys,
    pub(crate) link: Arc<Link>,
    /// Something was given back or is due soon: look before reading on.
    pub(crate) look: AtomicBool,
    /// The server counts something as ours that never arrived: find it.
    pub(crate) stray: AtomicBool,
    /// The connection that waits for entries, by its number there; 0 while none does.
    pub(crate) reader: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    entries: HashMap<u64, Entry>,
}

/// An entry in our hands.
#[derive(Clone, Debug)]
struct Entry {
    stream: Arc<Stream>,
    id: EntryId,
    /// What it may have done, and whether it was recorded that it runs alone.
    suspect: bool,
    isolated: Option<String>,
    /// A settlement is on its way. Until it is answered the server may still count it as ours, and so does the book:
    /// what is pending there and not known here would be handled again.
    settling: bool,
}

/// An entry that arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) id: EntryId,
    pub(crate) message: Message,
    pub(crate) redeliveries: u32,
    pub(crate) suspect: bool,
}

impl Stream {
    /// Has the reader look at once.
    pub(crate) async fn wake(&self) {
        self.look.store(true, Relaxed);
        let reader = self.reader.load(Relaxed);
        if reader == 0 {
            return;
        }
        let mut cmd = Cmd::new();
        cmd.arg("CLIENT").arg("UNBLOCK").arg(reader);
        let woken = async {
            let live = self.link.live().await.ok()?;
            live.ask(&cmd).await.ok()
        };
        // Otherwise it looks when its wait is over.
        let _ = timeout(MOMENT, woken).await;
    }
}

impl Held {
    pub(crate) fn new(shared: &Arc<Shared>, spec: &QueueSpec) -> Self {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let prefetch = spec.prefetch.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: shared.clone(),
            spec: spec.clone(),
            me: format!("{}:{}", spec.consumer, token()),
            generation: GENERATION.fetch_add(1, Relaxed),
            room: Semaphore::new(prefetch),
            excess: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            streams: Mutex::default(),
            book: Mutex::default(),
            reading: watch::Sender::new(0),
        }
    }

    pub(crate) fn lease(&self) -> u64 {
        u64::try_from(self.spec.lease.as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).clone()
    }

    /// Adds a stream, if it is a new one.
    pub(crate) fn add(&self, exchange: &ExchangeName) -> Option<Arc<Stream>> {
        let mut streams = lock(&self.streams);
        if streams.iter().any(|stream| stream.exchange == *exchange) {
            return None;
        }
        let table = self.shared.exchange(exchange);
        let stream = Arc::new(Stream {
            keys: table.queue(&self.spec.name),
            table,
            exchange: exchange.clone(),
            link: self.shared.link(exchange),
            look: AtomicBool::new(true),
            stray: AtomicBool::new(false),
            reader: AtomicU64::new(0),
        });
        streams.push(stream.clone());
        Some(stream)
    }

    /// The most entries of one read: so many that the next come while they are handled.
    pub(crate) fn share(&self) -> usize {
        let streams = lock(&self.streams).len().max(1);
        (self.spec.prefetch / (2 * streams)).clamp(1, READ)
    }

    /// Whether no place is left.
    pub(crate) fn is_full(&self) -> bool {
        self.room.available_permits() == 0
    }

    /// Waits for a place.
    pub(crate) async fn place(&self) {
        if let Ok(place) = self.room.acquire().await {
            place.forget();
        }
    }

    /// Takes as many places as there are, at most so many.
    pub(crate) fn places(&self, most: usize) -> usize {
        self.room.forget_permits(most)
    }

    /// Takes places for entries that are ours whether there is room or not.
    pub(crate) fn exceed(&self, places: usize) {
        let short = places - self.room.forget_permits(places);
        self.excess.fetch_add(short, Relaxed);
    }

    /// Gives places back.
    pub(crate) fn give_back(&self, places: usize) {
        let mut taken = 0;
        // It always has a value to set.
        let _ = self.excess.fetch_update(Relaxed, Relaxed, |excess| {
            taken = excess.min(places);
            Some(excess - taken)
        });
        self.room.add_permits(places - taken);
    }

    /// Notes what arrived, and hands it over in the same order. The room for it was taken before. Answers what nobody
    /// is there for any more.
    pub(crate) fn deliver(
        &self,
        stream: &Arc<Stream>,
        arrived: Vec<Arrived>,
        to: &mpsc::UnboundedSender<Result<Vec<Delivery>>>,
    ) -> Vec<DeliveryTag> {
        if arrived.is_empty() {
            return Vec::new();
        }
        let mut book = lock(&self.book);
        let book = &mut *book;
        let deliveries = arrived.into_iter().map(|arrived| {
            let number = book.next;
            book.next += 1;
            let entry = Entry {
                stream: stream.clone(),
                id: arrived.id,
                suspect: arrived.suspect,
                isolated: None,
                settling: false,
            };
            book.entries.insert(number, entry);
            let tag = DeliveryTag {
                generation: self.generation,
                number,
            };
            Delivery::new(arrived.message, tag)
                .with_redeliveries(arrived.redeliveries)
                .with_suspicion(arrived.suspect)
        });
        match to.send(Ok(deliveries.collect())) {
            Err(mpsc::error::SendError(Ok(unread))) => unread.iter().map(Delivery::tag).collect(),
            _ => Vec::new(),
        }
    }

    /// Takes out of a batch what went elsewhere.
    pub(crate) fn keep_held(&self, batch: &mut Vec<Delivery>) {
        let book = lock(&self.book);
        batch.retain(|delivery| book.entries.contains_key(&delivery.tag().number));
    }

    /// The entries of one stream that are held, by number.
    pub(crate) fn of(&self, stream: &Stream) -> Vec<(u64, EntryId)> {
        let book = lock(&self.book);
        let entries = book.entries.iter();
        entries
            .filter(|(_, entry)| entry.stream.exchange == stream.exchange)
            .map(|(number, entry)| (*number, entry.id))
            .collect()
    }

    /// Forgets what went elsewhere. Answers how many these were.
    pub(crate) fn forget(&self, numbers: impl Iterator<Item = u64>) -> usize {
        let mut book = lock(&self.book);
        let mut gone = 0;
        for number in numbers {
            // The answer to a settlement says what became of it.
            if book
                .entries
                .get(&number)
                .is_some_and(|entry| !entry.settling)
            {
                book.entries.remove(&number);
                gone += 1;
            }
        }
        self.give_back(gone);
        gone
    }

    /// A reader begins; it has ended when what this gives is dropped.
    pub(crate) fn begin_reading(self: &Arc<Self>) -> Reading {
        self.reading.send_modify(|reading| *reading += 1);
        Reading(self.clone())
    }

    async fn readers_ended(&self) {
        let mut reading = self.reading.subscribe();
        // It cannot be closed: this has the sender.
        let _ = reading.wait_for(|reading| *reading == 0).await;
    }

    /// Ends the subscription with its transport: what it holds goes back.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.wake_all().await;
        // One that hangs is not to keep the others from giving back.
        let _ = timeout(2 * MOMENT, self.readers_ended()).await;
        let numbers: Vec<u64> = lock(&self.book).entries.keys().copied().collect();
        let tag = |number| DeliveryTag {
            generation: self.generation,
            number,
        };
        self.release(numbers.into_iter().map(tag).collect()).await;
    }

    /// Gives back what nobody will handle here, and takes this consumer off if that was the last.
    pub(crate) async fn release(&self, tags: Vec<DeliveryTag>) {
        let back = tags.into_iter().map(Settlement::Release);
        self.settle_all(back.collect()).await;
        self.leave().await;
    }

    pub(crate) async fn wake_all(&self) {
        join_all(self.streams().iter().map(|stream| stream.wake())).await;
    }

    /// Takes this consumer off, if it has ended and holds nothing.
    pub(crate) async fn leave(&self) {
        if !lock(&self.book).entries.is_empty() {
            return;
        }
        // They may still be at it when the last delivery is settled, and nobody else comes by afterwards.
        if timeout(MOMENT, self.readers_ended()).await.is_err() {
            return;
        }
        for stream in self.streams() {
            let keys = &stream.keys;
            let call = scripts::LEAVE
                .call([&keys.stream, &keys.robbed, &keys.holder].map(String::as_str))
                .arg(&self.me);
            let left = async {
                let live = stream.link.live().await.ok()?;
                call.send(&live).await.ok()
            };
            // Otherwise others take it off in time.
            let _ = timeout(MOMENT, left).await;
        }
    }

    async fn settle_all(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let count = settlements.len();
        let mut results = vec![Ok(Settled::Lost); count];
        // By stream; nearly always there is one.
        let mut parts: Vec<Part> = Vec::new();
        let mut settling = Settling {
            held: self,
            numbers: Vec::with_capacity(count),
        };
        {
            let mut book = lock(&self.book);
            for (at, settlement) in settlements.into_iter().enumerate() {
                let tag = settlement.tag();
                if tag.generation != self.generation {
                    continue;
                }
                let entry = book.entries.get_mut(&tag.number);
                let Some(entry) = entry.filter(|entry| !entry.settling) else {
                    continue;
                };
                entry.settling = true;
                settling.numbers.push(tag.number);
                let entry = entry.clone();
                let stream = &entry.stream.exchange;
                let part = match parts
                    .iter()
                    .position(|part| part.stream.exchange == *stream)
                {
                    Some(part) => &mut parts[part],
                    None => {
                        parts.push(Part {
                            stream: entry.stream.clone(),
                            acks: Vec::new(),
                            others: Vec::new(),
                        });
                        let last = parts.len() - 1;
                        &mut parts[last]
                    }
                };
                let one = One {
                    at,
                    number: tag.number,
                    entry,
                };
                match settlement {
                    Settlement::Ack(_) if !one.entry.suspect => part.acks.push(one),
                    other => part.others.push((one, other)),
                }
            }
        }
        let settled = join_all(parts.into_iter().map(|part| self.settle_part(part))).await;
        let mut done = 0;
        let mut book = lock(&self.book);
        for (one, result) in settled.into_iter().flatten() {
            // What failed stays, to be settled again.
            if result.is_ok() && book.entries.remove(&one.number).is_some() {
                done += 1;
            }
            results[one.at] = result;
        }
        drop(book);
        self.give_back(done);
        drop(settling);
        results
    }

    async fn settle_part(&self, part: Part) -> Vec<(One, Result<Settled>)> {
        let mut results = Vec::with_capacity(part.acks.len() + part.others.len());
        let mut others = part.others;
        let mut acks = part.acks;
        while !acks.is_empty() {
            let rest = acks.split_off(acks.len().min(BATCH));
            let batch = std::mem::replace(&mut acks, rest);
            match self.acknowledge(&part.stream, &batch).await {
                // Something was taken from this consumer: each has to be looked at.
                Ok(None) => {
                    let ack = |one: One| {
                        let tag = DeliveryTag {
                            generation: self.generation,
                            number: one.number,
                        };
                        (one, Settlement::Ack(tag))
                    };
                    others.extend(batch.into_iter().map(ack));
                }
                Ok(Some(settled)) => {
                    results.extend(batch.into_iter().map(|one| (one, Ok(settled))));
                }
                Err(error) => {
                    results.extend(batch.into_iter().map(|one| (one, Err(error.clone()))));
                }
            }
        }
        // In the order of the stream, which is how what is given back keeps its place.
        others.sort_by_key(|(one, _)| one.entry.id);
        let soon = others.iter().any(|(_, settlement)| is_soon(settlement));
        while !others.is_empty() {
            let rest = others.split_off(others.len().min(BATCH / 10));
            let batch = std::mem::replace(&mut others, rest);
            results.extend(self.move_all(&part.stream, batch).await);
        }
        if soon && !self.stop.is_cancelled() {
            part.stream.wake().await;
        }
        results
    }

    /// Acknowledges entries that nobody suspects. Nothing when each of them has to be looked at.
    async fn acknowledge(&self, stream: &Stream, batch: &[One]) -> Result<Option<Settled>> {
        let keys = [&stream.keys.stream, &stream.keys.robbed].map(String::as_str);
        let mut call = scripts::ACKNOWLEDGE.call(keys).arg(&self.me);
        for one in batch {
            call.push(one.entry.id);
        }
        let what = format!("acknowledge deliveries of queue `{}`", self.spec.name);
        let deadline = Instant::now() + PATIENCE;
        match stream.link.request(&what, deadline, &call).await? {
            Value::Int(-1) => Ok(None),
            Value::Int(count) if usize::try_from(count) == Ok(batch.len()) => {
                Ok(Some(Settled::Done))
            }
            // Without its being taken: the stream was wiped.
            Value::Int(_) => Ok(Some(Settled::Lost)),
            _ => Err(error::strange(&what)),
        }
    }

    /// Settles entries that need a closer look or a copy.
    async fn move_all(
        &self,
        stream: &Stream,
        batch: Vec<(One, Settlement)>,
    ) -> Vec<(One, Result<Settled>)> {
        let what = format!("settle deliveries of queue `{}`", self.spec.name);
        let keys = &stream.keys;
        let keys = [
            &keys.stream,
            &keys.delayed,
            &keys.waiting,
            &keys.dead,
            &keys.suspects,
        ];
        let mut call = scripts::SETTLE
            .call(keys.map(String::as_str))
            .arg(&self.me)
            .arg(1);
        for (one, settlement) in &batch {
            call.push(one.entry.id);
            match settlement {
                Settlement::Ack(_) => call.push("ack"),
                Settlement::Release(_) => {
                    call.push("release");
                    call.push(one.entry.isolated.as_deref().unwrap_or_default());
                }
                Settlement::Retry { message, delay, .. } => {
                    call.push("retry");
                    call.push(millis(*delay));
                    call.push(token());
                    wire::push_fields(&mut call, message);
                }
                Settlement::DeadLetter { message, .. } => {
                    call.push("dead");
                    wire::push_fields(&mut call, message);
                }
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let answers = match stream.link.request(&what, deadline, &call).await {
            Ok(Value::Array(answers)) if answers.len() == batch.len() => answers,
            Ok(_) => return failed(batch, &error::strange(&what)),
            Err(error) => return failed(batch, &error),
        };
        let pairs = batch.into_iter().zip(answers);
        pairs
            .map(|((one, _), answer)| {
                let result = match answer {
                    Value::Int(1) => Ok(Settled::Done),
                    Value::Int(0) => Ok(Settled::Lost),
                    other => {
                        let said = text(&other).unwrap_or_default();
                        Err(error::not_stored(&format!("cannot {what}"), &said))
                    }
                };
                (one, result)
            })
            .collect()
    }
}

/// Entries that are being settled, until they are answered or whoever asked for it goes away.
struct Settling<'a> {
    held: &'a Held,
    numbers: Vec<u64>,
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let mut book = lock(&self.held.book);
        for number in &self.numbers {
            if let Some(entry) = book.entries.get_mut(number) {
                entry.settling = false;
            }
        }
    }
}

/// The settlements of one stream.
struct Part {
    stream: Arc<Stream>,
    acks: Vec<One>,
    others: Vec<(One, Settlement)>,
}

/// One entry being settled.
struct One {
    /// Where its answer belongs.
    at: usize,
    number: u64,
    entry: Entry,
}

fn failed(batch: Vec<(One, Settlement)>, error: &Error) -> Vec<(One, Result<Settled>)> {
    let batch = batch.into_iter();
    batch.map(|(one, _)| (one, Err(error.clone()))).collect()
}

/// Whether a reader should look for what becomes of it before its usual time.
fn is_soon(settlement: &Settlement) -> bool {
    match settlement {
        Settlement::Release(_) => true,
        Settlement::Retry { delay, .. } => *delay < Duration::from_secs(1),
        _ => false,
    }
}

/// Rounded up: never early. A wait too long for a number is as good as for ever.
fn millis(delay: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 86_400_000;
    let millis = delay.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(CENTURY).min(CENTURY)
}

impl Held {
    pub(crate) async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        if let Err(closed) = self.shared.check_open() {
            return vec![Err(closed); settlements.len()];
        }
        let results = self.settle_all(settlements).await;
        if self.stop.is_cancelled() {
            self.leave().await;
        }
        results
    }

    pub(crate) async fn isolate(&self, tag: DeliveryTag) -> Result<u32> {
        self.shared.check_open()?;
        let (stream, id, run) = {
            let mut book = lock(&self.book);
            let entry = book.entries.get_mut(&tag.number);
            let entry = entry.filter(|_| tag.generation == self.generation);
            let entry = entry.ok_or_else(|| not_held(tag))?;
            let run = entry.isolated.get_or_insert_with(token).clone();
            // From now on there is a record to take away with it.
            entry.suspect = true;
            (entry.stream.clone(), entry.id, run)
        };
        let keys = [&stream.keys.stream, &stream.keys.suspects].map(String::as_str);
        let call = scripts::ISOLATE.call(keys).arg(&self.me).arg(id).arg(run);
        let what = format!(
            "record that a suspect of queue `{}` runs alone",
            self.spec.name
        );
        let deadline = Instant::now() + PATIENCE;
        match stream.link.request(&what, deadline, &call).await? {
            Value::Int(-1) => Err(not_held(tag)),
            Value::Int(before) => Ok(u32::try_from(before).unwrap_or(u32::MAX)),
            _ => Err(error::strange(&what)),
        }
    }
}

fn not_held(tag: DeliveryTag) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("delivery {tag} no longer belongs to this consumer"),
    )
}

/// Says that a reader runs.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Held>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.send_modify(|reading| *reading -= 1);
    }
}
