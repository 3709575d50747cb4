//! Reading one stream: a task with a connection of its own, which waits for entries, takes over what others gave back
//! or left, and moves retries that are due.
//!
//! A read is never given up in the middle: what the server had handed out by then would be held by nobody.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use event_core::{Delivery, Error, ErrorKind, QueueKind, Result};
use redis::{Cmd, RedisError, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    error,
    held::{Arrived, Held, Reading as Running, Stream},
    keys::GROUP,
    link::Live,
    scripts,
    server::text,
    shared::PATIENCE,
    topology,
    wire::{Entry, EntryId, Reading},
};

/// How long a read waits at most, and so how late this is with what nobody announced.
const TICK: Duration = Duration::from_millis(500);
/// How often a consumer of an ordered queue looks whether its turn has come.
const TURN: Duration = Duration::from_millis(100);
/// How long a stop waits for what a failed read has taken.
const LAST: Duration = Duration::from_secs(2);
/// How many retries are moved at once.
const MOVES: u32 = 200;
/// How many entries that others left are taken over at once.
const TAKES: usize = 200;

pub(crate) type Inbox = mpsc::UnboundedSender<Result<Vec<Delivery>>>;
/// An inbox that does not keep a subscription from ending.
pub(crate) type WeakInbox = mpsc::WeakUnboundedSender<Result<Vec<Delivery>>>;

pub(crate) struct Lane {
    // Dropped before the inbox: whoever sees its end takes this consumer off, unless it still reads.
    _running: Running,
    held: Arc<Held>,
    stream: Arc<Stream>,
    inbox: Inbox,
    reading: Reading,
    live: Option<Live>,
    /// Which table the stream was declared with: another one means that everything was wiped.
    born: Option<String>,
    /// Room for entries that a failed read may have taken.
    owed: Option<usize>,
    /// When to look at the latest.
    next_look: Instant,
    /// Whether there was more to take over than there was room.
    more: bool,
    /// Whether this consumer is the one of an ordered queue, and has all that the one before had.
    holder: bool,
    /// Until when nobody counts as silent who may just have been as cut off as this.
    grace: Option<Instant>,
    /// Why retries that are due stay where they are, as it was said last.
    trouble: String,
}

/// Why reading goes on in another way.
enum Trouble {
    /// Something passing: try again.
    Passing,
    /// It will not go on.
    Fatal(Error),
}

impl Lane {
    pub(crate) fn new(held: &Arc<Held>, stream: Arc<Stream>, inbox: Inbox) -> Self {
        Self {
            reading: Reading::new(stream.exchange.clone()),
            _running: held.begin_reading(),
            held: held.clone(),
            stream,
            inbox,
            live: None,
            born: None,
            owed: None,
            next_look: Instant::now(),
            more: false,
            holder: false,
            grace: None,
            trouble: String::new(),
        }
    }

    /// Runs until the subscription is stopped.
    pub(crate) async fn run(mut self) {
        let mut pause = Duration::from_millis(20);
        while !self.held.stop.is_cancelled() {
            match self.step().await {
                Ok(()) => pause = Duration::from_millis(20),
                Err(Trouble::Fatal(error)) => {
                    let _ = self.inbox.send(Err(error));
                    return;
                }
                Err(Trouble::Passing) => {
                    self.or_stop(sleep(pause)).await;
                    pause = (2 * pause).min(Duration::from_secs(1));
                }
            }
        }
        // What a failed read took is not to wait for its lease.
        if self.owed.is_some() {
            let last = async {
                if self.live.as_ref().is_none_or(Live::is_lost) {
                    let servers = self.held.shared.servers.clone();
                    let found = servers.connect(Some(&self.stream.exchange)).await;
                    self.live = Some(found.map_err(|_| Trouble::Passing)?);
                }
                self.reconcile().await
            };
            // Otherwise it does.
            let _ = timeout(LAST, last).await;
        }
        let held = self.held.clone();
        drop(self);
        // Unless something is held, which whoever settles it does.
        held.leave().await;
    }

    async fn or_stop<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.held.stop.cancelled() => None,
            done = future => Some(done),
        }
    }

    async fn step(&mut self) -> Result<(), Trouble> {
        if self.live.as_ref().is_none_or(Live::is_lost) {
            self.connect().await?;
        }
        if self.stream.stray.swap(false, Relaxed) {
            self.owed.get_or_insert(0);
        }
        if self.owed.is_some() {
            self.reconcile().await?;
        }
        let asked = self.stream.look.swap(false, Relaxed);
        if asked || self.more || Instant::now() >= self.next_look {
            self.take_over().await?;
            if self.held.spec.ordered && !self.holder {
                let wait = TURN.min(self.next_look.saturating_duration_since(Instant::now()));
                self.next_look = Instant::now();
                self.or_stop(sleep(wait)).await;
                return Ok(());
            }
        }
        let Some(room) = self.room().await else {
            return Ok(());
        };
        if self.more {
            // What others gave back comes before what is new.
            self.held.give_back(room);
            return Ok(());
        }
        self.read(room).await
    }

    /// Places for some entries, if there are any before it is time to look again.
    async fn room(&self) -> Option<usize> {
        let held = &self.held;
        let until = self
            .next_look
            .max(Instant::now() + Duration::from_millis(1));
        self.or_stop(timeout_at(until, held.place())).await?.ok()?;
        Some(1 + held.places(held.share() - 1))
    }

    async fn connect(&mut self) -> Result<(), Trouble> {
        self.stream.reader.store(0, Relaxed);
        let servers = self.held.shared.servers.clone();
        let exchange = self.stream.exchange.clone();
        let live = match self.or_stop(servers.connect(Some(&exchange))).await {
            None => return Ok(()),
            Some(Ok(live)) => live,
            Some(Err(error)) => {
                tracing::warn!(target: "switchboard", queue = %self.held.spec.name, %error, "cannot connect to read");
                return Err(Trouble::Passing);
            }
        };
        let mut cmd = Cmd::new();
        cmd.arg("CLIENT").arg("ID");
        // Without the right to it, a stop waits until a read is over.
        if let Ok(Ok(Value::Int(id))) = timeout(PATIENCE, live.ask(&cmd)).await {
            self.stream
                .reader
                .store(u64::try_from(id).unwrap_or(0), Relaxed);
        }
        self.live = Some(live);
        if self.born.is_none() {
            match self.ask_born().await {
                Ok(born) => self.born = Some(born),
                Err(trouble) => {
                    // Without it a deletion could not be told from a wipe.
                    self.live = None;
                    return Err(trouble);
                }
            }
        } else {
            self.grace = Some(Instant::now() + self.held.spec.lease / 2);
        }
        Ok(())
    }

    /// The first part of the version of the exchange's table.
    async fn ask_born(&self) -> Result<String, Trouble> {
        let mut cmd = Cmd::new();
        cmd.arg("GET").arg(&self.stream.table.version);
        let answer = self.ask(&cmd).await.map_err(|_| Trouble::Passing)?;
        let version = text(&answer).unwrap_or_default();
        Ok(version.split('.').next().unwrap_or_default().to_owned())
    }

    /// Asks something that is answered at once.
    async fn ask(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let Some(live) = &self.live else {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        };
        let heartbeat = self.held.shared.servers.endpoints.heartbeat;
        match timeout(2 * heartbeat, live.ask(cmd)).await {
            Ok(answer) => answer,
            Err(_) => {
                live.fail();
                Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
            }
        }
    }

    async fn run_script(&self, call: &scripts::Call) -> Result<Value, RedisError> {
        match self.ask(call.cmd()).await {
            Err(error) if scripts::is_forgotten(&error) => {
                self.ask(&call.load()).await?;
                self.ask(call.cmd()).await
            }
            answer => answer,
        }
    }

    /// Moves retries that are due, and takes over what was given back or left, as far as there is room.
    async fn take_over(&mut self) -> Result<(), Trouble> {
        let held = self.held.clone();
        let room = held.places(TAKES);
        let keys = &self.stream.keys;
        let keys = [
            &keys.stream,
            &keys.delayed,
            &keys.waiting,
            &keys.suspects,
            &keys.robbed,
            &keys.holder,
        ];
        let call = scripts::RECOVER
            .call(keys.map(String::as_str))
            .arg(&held.me)
            .arg(held.lease())
            .arg(room)
            .arg(i32::from(held.spec.ordered))
            .arg(MOVES)
            .arg(i32::from(self.holder))
            .arg(match self.grace {
                // Others renew what they hold first, which they could not do either.
                Some(until) if until > Instant::now() => 2 * held.lease(),
                _ => held.lease(),
            });
        self.owed = Some(room);
        let answer = match self.run_script(&call).await {
            Ok(answer) => answer,
            Err(error) => {
                // Whatever the error, a part of it may have been done.
                return Err(self.trouble(error).await);
            }
        };
        self.owed = None;
        let Some(Recovered {
            may_read,
            due,
            more,
            taken,
            lost,
            trouble,
        }) = recovered(answer)
        else {
            held.give_back(room);
            return Err(Trouble::Fatal(error::strange("take over deliveries")));
        };
        // Not before all that the former one had is here: what is new comes behind it.
        self.holder = held.spec.ordered && may_read && !more;
        self.more = more;
        let wait = u64::try_from(due).map_or(TICK, |due| TICK.min(Duration::from_millis(due)));
        self.next_look = Instant::now() + wait;
        if self.trouble != trouble {
            if !trouble.is_empty() {
                let error = error::not_stored("cannot move retries that are due", &trouble);
                tracing::warn!(target: "switchboard", queue = %held.spec.name, %error, "retries wait");
            }
            self.trouble = trouble;
        }
        self.say_lost(&lost);
        self.arrive(taken, room).await;
        Ok(())
    }

    fn say_lost(&self, lost: &[EntryId]) {
        if !lost.is_empty() {
            let ids: Vec<_> = lost.iter().map(EntryId::to_string).collect();
            tracing::error!(
                target: "switchboard", queue = %self.held.spec.name, exchange = %self.stream.exchange, ?ids,
                "messages were lost: somebody trimmed the stream, or deleted from it, what was being handled"
            );
        }
    }

    /// Hands over what arrived, and gives back the room that it does not need.
    async fn arrive(&mut self, taken: Vec<Taken>, room: usize) {
        let mut arrived = Vec::with_capacity(taken.len());
        let mut wakes = Vec::new();
        for taken in taken {
            match self.reading.read(taken.fields) {
                Entry::Message(message) => arrived.push(Arrived {
                    id: taken.id,
                    message,
                    redeliveries: taken.redeliveries,
                    suspect: taken.suspect,
                }),
                Entry::Wake => wakes.push(taken.id),
            }
        }
        match room.checked_sub(arrived.len()) {
            Some(left) => self.held.give_back(left),
            // What was found long after it was read.
            None => self.held.exceed(arrived.len() - room),
        }
        // What was given back goes in the order of the stream, whoever had it.
        arrived.sort_by_key(|arrived| arrived.id);
        let unread = self.held.deliver(&self.stream, arrived, &self.inbox);
        if !unread.is_empty() && self.held.stop.is_cancelled() {
            // The service stopped at once, in the middle of a read.
            self.held.release(unread).await;
        }
        if !wakes.is_empty() {
            self.stream.look.store(true, Relaxed);
            let keys = &self.stream.keys;
            let keys = [
                &keys.stream,
                &keys.delayed,
                &keys.waiting,
                &keys.dead,
                &keys.suspects,
            ];
            let mut call = scripts::SETTLE
                .call(keys.map(String::as_str))
                .arg(&self.held.me)
                .arg(0);
            for id in wakes {
                call.push(id.to_string());
                call.push("ack");
            }
            if self.run_script(&call).await.is_err() {
                // They are ours until they are gone.
                self.owed.get_or_insert(0);
            }
        }
    }

    /// Reads what is new, waiting for it until it is time to look.
    async fn read(&mut self, room: usize) -> Result<(), Trouble> {
        let wait = self.next_look.saturating_duration_since(Instant::now());
        let mut wait = wait.clamp(Duration::from_millis(1), TICK);
        if self.held.is_full() && self.held.streams().len() > 1 {
            // The last place is not to be waited with while another exchange has something for it.
            wait = wait.min(TURN / 10);
        }
        let mut cmd = Cmd::new();
        cmd.arg("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.held.me)
            .arg("COUNT")
            .arg(room)
            .arg("BLOCK")
            .arg(u64::try_from(wait.as_millis()).unwrap_or(1).max(1))
            .arg("STREAMS")
            .arg(&self.stream.keys.stream)
            .arg(">");
        self.owed = Some(room);
        let answer = self.ask_blocking(&cmd).await;
        match answer {
            Ok(Value::Nil) => {
                self.owed = None;
                self.held.give_back(room);
                Ok(())
            }
            Ok(answer) => {
                self.owed = None;
                let Some(taken) = read_entries(answer) else {
                    self.held.give_back(room);
                    return Err(Trouble::Fatal(error::strange("read")));
                };
                self.arrive(taken, room).await;
                Ok(())
            }
            Err(error) => {
                if !error::is_lost(&error) {
                    self.owed = None;
                    self.held.give_back(room);
                }
                Err(self.trouble(error).await)
            }
        }
    }

    /// Asks something that waits on the server, and has it stop waiting when the subscription stops.
    async fn ask_blocking(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let asked = self.ask(cmd);
        tokio::pin!(asked);
        tokio::select! {
            biased;
            answer = &mut asked => return answer,
            () = self.held.stop.cancelled() => {}
        }
        // Its answer is waited for all the same: it may hold entries.
        let (answer, ()) = tokio::join!(asked, self.stream.wake());
        answer
    }

    /// Finds what a failed read has taken, and hands it over.
    async fn reconcile(&mut self) -> Result<(), Trouble> {
        if self.live.as_ref().is_none_or(Live::is_lost) {
            self.connect().await?;
        }
        // Before it is asked: only this task adds to it, and what is settled meanwhile is not to be found again.
        let known: HashSet<_> = self
            .held
            .of(&self.stream)
            .into_iter()
            .map(|(_, id)| id)
            .collect();
        let keys = &self.stream.keys;
        let call = scripts::RENEW
            .call([keys.stream.as_str(), keys.holder.as_str()])
            .arg(&self.held.me)
            .arg(self.held.lease());
        let pending = match self.run_script(&call).await {
            Ok(answer) => ids(answer),
            Err(error) => return Err(self.trouble(error).await),
        };
        let mut taken = Vec::new();
        let mut lost = Vec::new();
        for id in pending.into_iter().filter(|id| !known.contains(id)) {
            let mut range = Cmd::new();
            let text = id.to_string();
            range
                .arg("XRANGE")
                .arg(&self.stream.keys.stream)
                .arg(&text)
                .arg(&text);
            let mut alone = Cmd::new();
            alone
                .arg("HEXISTS")
                .arg(&self.stream.keys.suspects)
                .arg(&text);
            let mut count = Cmd::new();
            count.arg("XPENDING").arg(&self.stream.keys.stream);
            count.arg(GROUP).arg(&text).arg(&text).arg(1);
            let deliveries = match self.ask(&count).await {
                Ok(answer) => deliveries(answer),
                Err(error) => return Err(self.trouble(error).await),
            };
            let found = match self.ask(&range).await {
                Ok(answer) => entries(answer),
                Err(error) => return Err(self.trouble(error).await),
            };
            let suspect = match self.ask(&alone).await {
                Ok(answer) => answer == Value::Int(1),
                Err(error) => return Err(self.trouble(error).await),
            };
            match found.and_then(|mut found| found.pop()) {
                Some((id, fields)) => taken.push(Taken {
                    id,
                    fields,
                    redeliveries: deliveries.saturating_sub(1),
                    suspect,
                }),
                None => lost.push(id),
            }
        }
        self.say_lost(&lost);
        let room = self.owed.take().unwrap_or(0);
        self.arrive(taken, room).await;
        Ok(())
    }

    /// What is to be done about an error.
    async fn trouble(&mut self, error: RedisError) -> Trouble {
        if error::is_gone(&error) {
            return self.gone().await;
        }
        let queue = &self.held.spec.name;
        let passing = error::is_passing(&error);
        let error = error::failed(&format!("read queue `{queue}`"), &error);
        if error.kind() == ErrorKind::Permission {
            return Trouble::Fatal(error);
        }
        if !passing {
            tracing::warn!(target: "switchboard", %queue, %error, "reading is tried again");
        }
        Trouble::Passing
    }

    /// The stream is not there any more.
    async fn gone(&mut self) -> Trouble {
        let held = self.held.clone();
        let queue = &held.spec.name;
        let exchange = &self.stream.exchange;
        let (born, exchanges) = match (
            self.ask_born().await,
            topology::exchanges(&held.shared, queue).await,
        ) {
            (Ok(born), Ok(exchanges)) => (born, exchanges),
            _ => return Trouble::Passing,
        };
        let wiped = Some(&born) != self.born.as_ref();
        if held.spec.kind != QueueKind::Durable || (!wiped && exchanges.is_none()) {
            return Trouble::Fatal(Error::new(
                ErrorKind::NotFound,
                format!("queue `{queue}` was deleted while it was consumed"),
            ));
        }
        tracing::error!(
            target: "switchboard", %queue, %exchange,
            "the queue's stream is gone from Redis, with all that it held; it is declared again"
        );
        match topology::declare_again(&held.shared, &held.spec, exchange).await {
            Ok(()) => {
                self.born = None;
                self.live = None;
                Trouble::Passing
            }
            Err(error) if error.is_retryable() => Trouble::Passing,
            Err(error) => Trouble::Fatal(error),
        }
    }
}

/// An entry that was taken.
struct Taken {
    id: EntryId,
    fields: Vec<Value>,
    redeliveries: u32,
    suspect: bool,
}

/// What taking over answers.
struct Recovered {
    may_read: bool,
    due: i64,
    more: bool,
    taken: Vec<Taken>,
    lost: Vec<EntryId>,
    /// Why retries that are due stay where they are.
    trouble: String,
}

fn recovered(answer: Value) -> Option<Recovered> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [
        Value::Int(may_read),
        Value::Int(due),
        Value::Int(more),
        Value::Array(taken),
        lost,
        trouble,
    ] = <[Value; 6]>::try_from(parts).ok()?
    else {
        return None;
    };
    let taken = taken.into_iter().map(|entry| {
        let Value::Array(parts) = entry else {
            return None;
        };
        let [id, Value::Array(fields), Value::Int(redeliveries), alone] =
            <[Value; 4]>::try_from(parts).ok()?
        else {
            return None;
        };
        Some(Taken {
            id: EntryId::parse(&id)?,
            fields,
            redeliveries: u32::try_from(redeliveries).unwrap_or(0),
            suspect: text(&alone).is_some_and(|alone| !alone.is_empty()),
        })
    });
    Some(Recovered {
        may_read: may_read == 1,
        due,
        more: more == 1,
        taken: taken.collect::<Option<_>>()?,
        lost: ids(lost),
        trouble: text(&trouble).unwrap_or_default(),
    })
}

/// How often the one entry that was asked for was delivered.
fn deliveries(answer: Value) -> u32 {
    let Value::Array(pending) = answer else {
        return 0;
    };
    match pending.into_iter().next() {
        Some(Value::Array(parts)) => match parts.last() {
            Some(Value::Int(count)) => u32::try_from(*count).unwrap_or(0),
            _ => 0,
        },
        _ => 0,
    }
}

/// What a read answers: a stream's name with its entries.
fn read_entries(answer: Value) -> Option<Vec<Taken>> {
    let Value::Array(mut streams) = answer else {
        return None;
    };
    let Value::Array(mut stream) = streams.pop()? else {
        return None;
    };
    let found = entries(stream.pop()?)?;
    let taken = |(id, fields)| Taken {
        id,
        fields,
        redeliveries: 0,
        suspect: false,
    };
    Some(found.into_iter().map(taken).collect())
}

/// Entries with their fields.
pub(crate) fn entries(answer: Value) -> Option<Vec<(EntryId, Vec<Value>)>> {
    let Value::Array(entries) = answer else {
        return None;
    };
    let entry = |entry: Value| {
        let Value::Array(mut parts) = entry else {
            return None;
        };
        let Value::Array(fields) = parts.pop()? else {
            return None;
        };
        Some((EntryId::parse(&parts.pop()?)?, fields))
    };
    entries.into_iter().map(entry).collect()
}

pub(crate) fn ids(answer: Value) -> Vec<EntryId> {
    match answer {
        Value::Array(ids) => ids.iter().filter_map(EntryId::parse).collect(),
        _ => Vec::new(),
    }
}
