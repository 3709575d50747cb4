//! Publishing to one exchange: one task has its binding table, and what is on its way.
//!
//! Messages go in batches, a few of them at a time on one connection, so the server works while the next is written.
//! When something goes wrong with one, the table being out of date among it, those that follow come back as well, and
//! everything is sent again in its order. Only a cluster that is moving keys may take a later one and not an earlier.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use event_core::{Error, ErrorKind, ExchangeName, Message, Order, Orders, Receipt, Result};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use redis::{Cmd, RedisError, Value};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error,
    keys::ExchangeKeys,
    link::{Link, Live, Phase, Request},
    scripts,
    server::text,
    shared::{lock, token},
    table::Table,
    wire,
};

/// The most messages of a batch, and the most that it appends: a script holds up the whole server.
const BATCH: usize = 500;
const APPENDS: usize = 1_000;
/// The most bytes of a batch of several messages.
const BYTES: usize = 1 << 20;
/// How many batches are on their way at a time.
pub(crate) const WINDOW: u32 = 4;
/// From how many messages on a batch is sent while others are on their way.
const WORTHWHILE: usize = 64;
/// How many messages are taken in beyond those on their way.
const BACKLOG: usize = 4 * BATCH;
/// How long it is tried to send something again after the server refused it for the moment.
const PAUSE: Duration = Duration::from_millis(20);

/// What a publisher is made of.
#[derive(Debug)]
pub(crate) struct Publisher {
    exchange: ExchangeName,
    keys: ExchangeKeys,
    link: Arc<Link>,
    /// How many replicas have to have it, and how long that may take.
    wait: Option<(u32, Duration)>,
    max_message: usize,
    orders: Orders<Message>,
    backlog: VecDeque<Order<Message>>,
    /// Whether anybody can still publish.
    open: bool,
    table: Option<Table>,
    /// The connection that the last batch went to.
    live: Option<Arc<Live>>,
    /// Whether the server has to be given the scripts again.
    forgotten: bool,
    /// Whether the server refused something for the moment.
    troubled: bool,
    trouble: Trouble,
}

/// What the server said last when it refused something for the moment: callers hear it at their deadline.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<Error>>>);

impl Trouble {
    fn note(&self, error: Option<Error>) {
        *lock(&self.0) = error;
    }

    /// What a caller hears at its deadline.
    pub(crate) fn late(&self, link: &Link) -> Error {
        if let Some(said) = &*lock(&self.0) {
            return said.clone();
        }
        match &*link.phase().borrow() {
            Phase::Down(why) => cut_off(why.as_ref()),
            _ => Error::retryable(
                ErrorKind::Timeout,
                "Redis did not confirm the message by the deadline; it may have been stored",
            ),
        }
    }
}

/// A batch on its way.
struct Sent {
    orders: Vec<Order<Message>>,
    /// The queues that the numbers in the answer stand for.
    queues: Vec<String>,
    answer: Result<Value, RedisError>,
    /// What the replicas said.
    replicas: Option<Result<Value, RedisError>>,
}

type Calls = FuturesOrdered<BoxFuture<'static, Sent>>;

impl Publisher {
    pub(crate) fn new(
        exchange: ExchangeName,
        keys: ExchangeKeys,
        link: Arc<Link>,
        wait: Option<(u32, Duration)>,
        max_message: usize,
        orders: Orders<Message>,
        trouble: Trouble,
    ) -> Self {
        Self {
            exchange,
            keys,
            link,
            wait,
            max_message,
            orders,
            backlog: VecDeque::new(),
            open: true,
            table: None,
            live: None,
            forgotten: false,
            troubled: false,
            trouble,
        }
    }

    /// Runs until nobody can publish any more and everything is answered.
    pub(crate) async fn run(mut self, closing: CancellationToken) {
        let mut calls = Calls::new();
        // What comes back before it can be sent again, in its order.
        let mut back: Vec<Order<Message>> = Vec::new();
        loop {
            self.take_in();
            if calls.is_empty() {
                for order in back.drain(..).rev() {
                    self.backlog.push_front(order);
                }
                if std::mem::take(&mut self.troubled) {
                    self.pause().await;
                }
                self.expire();
                if self.backlog.is_empty() {
                    if !self.open {
                        return;
                    }
                } else {
                    match self.ready().await {
                        Ok(()) => {}
                        Err(Some(error)) => self.refuse(&error),
                        Err(None) => {
                            self.troubled = true;
                            continue;
                        }
                    }
                }
            }
            // While something comes back, nothing may overtake it.
            while back.is_empty()
                && self.is_worthwhile(calls.len())
                && let Some(call) = self.send()
            {
                calls.push_back(call);
            }
            if calls.is_empty() && !self.backlog.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                Some(sent) = calls.next(), if !calls.is_empty() => {
                    self.answer(sent, &mut back);
                }
                order = self.orders.next(), if self.open && self.backlog.len() < BACKLOG => match order {
                    Some(order) => self.backlog.push_back(order),
                    None => self.open = false,
                },
                () = closing.cancelled(), if self.open => {
                    // What was handed in is still sent.
                    self.orders.close();
                    while let Some(order) = self.orders.try_next() {
                        self.backlog.push_back(order);
                    }
                    self.open = false;
                }
            }
        }
    }

    fn take_in(&mut self) {
        while self.open
            && self.backlog.len() < BACKLOG
            && let Some(order) = self.orders.try_next()
        {
            self.backlog.push_back(order);
        }
    }

    fn is_worthwhile(&self, on_their_way: usize) -> bool {
        match on_their_way {
            0 => !self.backlog.is_empty(),
            some if some >= WINDOW as usize => false,
            _ => self.backlog.len() >= WORTHWHILE,
        }
    }

    /// Waits a moment, or until the next deadline.
    async fn pause(&mut self) {
        let next = self.backlog.iter().map(Order::deadline).min();
        let pause = Instant::now() + PAUSE;
        sleep_until(next.map_or(pause, |next| next.min(pause))).await;
    }

    /// Answers those whose time is over: their callers have gone.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.backlog.iter().all(|order| order.deadline() > now) {
            return;
        }
        let (expired, left) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition::<VecDeque<_>, _>(|order| order.deadline() <= now);
        self.backlog = left;
        for order in expired {
            order.finish(Err(self.trouble.late(&self.link)));
        }
    }

    /// Sees to a connection and the table; an error is about all that wait, and none means that waiting is all there
    /// is to do.
    async fn ready(&mut self) -> Result<(), Option<Error>> {
        let deadline = self.backlog.iter().map(Order::deadline).min();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let live = match timeout_at(deadline, self.link.live()).await {
            Ok(Ok(live)) => live,
            Ok(Err(closed)) => return Err(Some(closed)),
            Err(_) => return Err(None),
        };
        if self.forgotten {
            match timeout_at(deadline, scripts::load(&live)).await {
                Ok(Ok(())) => self.forgotten = false,
                _ => return Err(None),
            }
        }
        if self.table.is_none() {
            let what = format!("read the bindings of exchange `{}`", self.exchange);
            let keys = [&self.keys.version, &self.keys.bindings, &self.keys.queues];
            let call = scripts::TABLE.call(keys.map(String::as_str)).arg(token());
            match timeout_at(deadline, call.send(&live)).await {
                Ok(Ok(Value::Array(answer))) => {
                    self.table = Table::read(&self.keys, &answer);
                    if self.table.is_none() {
                        return Err(Some(error::strange(&what)));
                    }
                }
                Ok(Ok(_)) => return Err(Some(error::strange(&what))),
                Ok(Err(error)) if error::is_passing(&error) => {
                    self.note(&what, &error);
                    return Err(None);
                }
                Ok(Err(error)) => return Err(Some(error::failed(&what, &error))),
                Err(_) => return Err(None),
            }
        }
        self.live = Some(live);
        Ok(())
    }

    /// Keeps what the server said, for those whose deadline passes. That the connection was lost is none of it.
    fn note(&self, what: &str, error: &RedisError) {
        let said = !error::is_lost(error);
        self.trouble.note(said.then(|| error::failed(what, error)));
    }

    /// Answers everything with an error.
    fn refuse(&mut self, error: &Error) {
        for order in self.backlog.drain(..) {
            order.finish(Err(error.clone()));
        }
    }

    /// Sends what fits into a batch.
    fn send(&mut self) -> Option<BoxFuture<'static, Sent>> {
        let live = self.live.as_ref().filter(|live| !live.is_lost())?;
        let table = self.table.as_mut()?;
        let mut orders: Vec<Order<Message>> = Vec::new();
        // The targets of this batch, and their places in it.
        let mut places: Vec<Option<u32>> = vec![None; table.targets.len()];
        let mut targets: Vec<u32> = Vec::new();
        let (mut bytes, mut args) = (0, 0);
        // Of all messages behind each other, and how many are of each.
        let mut here: Vec<u32> = Vec::new();
        let mut counts: Vec<usize> = Vec::new();
        while orders.len() < BATCH
            && let Some(next) = self.backlog.front()
        {
            let message = next.item();
            let weight = wire::weight(message);
            let matching = table.matches(message.key());
            let full = bytes + weight > BYTES || here.len() + matching.len() > APPENDS;
            if full && !orders.is_empty() {
                break;
            }
            let refused = refuse(message, self.max_message);
            if refused.is_none() {
                here.extend(matching.iter().map(|target| {
                    let place = &mut places[*target as usize];
                    *place.get_or_insert_with(|| {
                        targets.push(*target);
                        u32::try_from(targets.len()).unwrap_or(u32::MAX)
                    })
                }));
                counts.push(matching.len());
                bytes += weight;
                args += wire::most_args(message);
            }
            let Some(order) = self.backlog.pop_front() else {
                break;
            };
            match refused {
                Some(error) => order.finish(Err(error)),
                None => orders.push(order),
            }
        }
        if orders.is_empty() {
            return None;
        }
        let chosen: Vec<_> = targets
            .iter()
            .map(|target| &table.targets[*target as usize])
            .collect();
        let keys = [&self.keys.version, &self.keys.bindings, &self.keys.queues];
        let keys: Vec<&str> = keys
            .into_iter()
            .chain(chosen.iter().map(|target| &target.key))
            .map(String::as_str)
            .collect();
        let mut call = scripts::PUBLISH.call(keys).arg(&table.version);
        call.reserve(2 * chosen.len() + here.len() + args, bytes);
        for target in &chosen {
            call.push(&target.queue);
            call.push(&target.limit);
        }
        let mut here = here.iter();
        for (order, count) in orders.iter().zip(counts) {
            call.push(count);
            for place in here.by_ref().take(count) {
                call.push(place);
            }
            wire::push_fields(&mut call, order.item());
        }
        let queues = chosen.iter().map(|target| target.queue.clone()).collect();
        let live = live.clone();
        let wait = self.wait;
        let sent = async move {
            let replicas = async {
                let (count, most) = wait?;
                let mut cmd = Cmd::new();
                cmd.arg("WAIT")
                    .arg(count)
                    .arg(u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
                Some(live.ask(&cmd).await)
            };
            let (answer, replicas) =
                futures_util::future::join(live.ask(call.cmd()), replicas).await;
            Sent {
                orders,
                queues,
                answer,
                replicas,
            }
        };
        // Written now, whatever this task has done before: batches are to arrive in their order.
        let mut sent = unconstrained(sent).boxed();
        match (&mut sent).now_or_never() {
            Some(done) => Some(futures_util::future::ready(done).boxed()),
            None => Some(sent),
        }
    }

    /// Answers a batch, or takes it back to be sent again.
    fn answer(&mut self, sent: Sent, back: &mut Vec<Order<Message>>) {
        let Sent {
            orders,
            queues,
            answer,
            replicas,
        } = sent;
        let what = format!("publish to exchange `{}`", self.exchange);
        let answers = match answer {
            Ok(Value::Array(answers)) => answers,
            Ok(_) => return fail(orders, &error::strange(&what)),
            Err(error) if scripts::is_forgotten(&error) || error::is_passing(&error) => {
                // Perhaps stored, perhaps not: the same id a second time.
                if scripts::is_forgotten(&error) {
                    self.forgotten = true;
                } else {
                    self.troubled = true;
                    self.note(&what, &error);
                }
                back.extend(orders);
                return;
            }
            Err(error) => return fail(orders, &error::failed(&what, &error)),
        };
        self.trouble.note(None);
        match answers.first() {
            Some(Value::BulkString(word)) if word == b"STALE" => {
                self.table = Table::read(&self.keys, &answers[1..]);
                back.extend(orders);
                return;
            }
            Some(Value::BulkString(word)) if word == b"GONE" => {
                self.table = None;
                // It was there: somebody wiped the server, and with it the queues of others.
                return fail(orders, &wiped(&self.exchange));
            }
            _ => {}
        }
        let short = match (self.wait, replicas) {
            (Some((wanted, within)), Some(answer)) => short_of(wanted, within, answer),
            _ => None,
        };
        if answers.len() != orders.len() {
            return fail(orders, &error::strange(&what));
        }
        for (order, answer) in orders.into_iter().zip(answers) {
            let result = match answer {
                Value::Int(0) if order.item().is_mandatory() => Err(unroutable(order.item())),
                Value::Int(queues) => match &short {
                    Some(error) => Err(error.clone()),
                    None => Ok(Receipt::new(
                        order.item().id().clone(),
                        u32::try_from(queues).ok(),
                    )),
                },
                other => {
                    let said = text(&other).unwrap_or_default();
                    Err(refused(&said, &queues, &self.exchange))
                }
            };
            order.finish(result);
        }
    }
}

fn fail(orders: Vec<Order<Message>>, error: &Error) {
    for order in orders {
        order.finish(Err(error.clone()));
    }
}

/// Why a message is not sent at all.
fn refuse(message: &Message, most: usize) -> Option<Error> {
    let size = message.payload().len();
    let text = if size > most {
        format!(
            "the payload has {size} bytes, and this Redis takes {most} (`proto-max-bulk-len` there, `max_message` in \
             the URL); send a reference to it instead"
        )
    } else if let Some((name, _)) = message
        .headers()
        .iter()
        .find(|(_, value)| value.as_bytes().len() > most)
    {
        format!("the header `{name}` has more bytes than the {most} that this Redis takes at once")
    } else if message.headers().len() > wire::MOST_HEADERS {
        format!(
            "the message has {} headers; at most {} are possible",
            message.headers().len(),
            wire::MOST_HEADERS
        )
    } else {
        return None;
    };
    Some(Error::new(ErrorKind::TooLarge, text))
}

/// The deadline passed without a connection, for this reason.
fn cut_off(why: Option<&Error>) -> Error {
    let text = "the deadline passed without a connection to Redis; the message may have been stored before it was lost";
    match why {
        // A wrong password does not become right.
        Some(why) if !why.is_retryable() => Error::new(why.kind(), format!("{text}: {why}")),
        Some(why) => Error::retryable(why.kind(), format!("{text}: {why}")),
        None => Error::retryable(ErrorKind::Timeout, text),
    }
}

fn unroutable(message: &Message) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "no queue is bound to exchange `{}` for the key `{}`; start the service that binds one, or publish \
             without `mandatory`",
            message.exchange(),
            message.key()
        ),
    )
}

fn wiped(exchange: &ExchangeName) -> Error {
    Error::retryable(
        ErrorKind::NotFound,
        format!(
            "exchange `{exchange}` is gone from Redis: its data was wiped, and the queues with it; publish again when \
             the services have declared theirs"
        ),
    )
}

/// What a script says about one message: a word, the number of a target, and perhaps more.
fn refused(said: &str, queues: &[String], exchange: &ExchangeName) -> Error {
    let mut words = said.splitn(3, ' ');
    let word = words.next().unwrap_or_default();
    let queue = words
        .next()
        .and_then(|place| place.parse::<usize>().ok())
        .and_then(|place| queues.get(place.checked_sub(1)?))
        .map_or("", String::as_str);
    match word {
        "full" => Error::retryable(
            ErrorKind::Overloaded,
            format!(
                "queue `{queue}` is full (`max_length`), and no queue took the message; try again when its consumers \
                 have caught up"
            ),
        ),
        "missing" => Error::retryable(
            ErrorKind::NotFound,
            format!(
                "the stream of queue `{queue}` is gone from Redis, although the queue is bound to exchange \
                 `{exchange}`; restart its service, which declares it again, or delete the queue"
            ),
        ),
        _ => error::not_stored(
            &format!("cannot store the message in queue `{queue}`"),
            words.next().unwrap_or(said),
        ),
    }
}

/// An error when not enough replicas have it.
fn short_of(wanted: u32, within: Duration, answer: Result<Value, RedisError>) -> Option<Error> {
    let have = match answer {
        Ok(Value::Int(have)) if have >= i64::from(wanted) => return None,
        Ok(Value::Int(have)) => have.to_string(),
        _ => "an unknown number".to_owned(),
    };
    Some(Error::retryable(
        ErrorKind::Timeout,
        format!(
            "the message is stored, and {have} of {wanted} replicas have it after {} ms (`wait`, `wait_timeout`)",
            within.as_millis()
        ),
    ))
}
