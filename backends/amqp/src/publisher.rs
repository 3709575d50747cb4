//! Publishing: one task owns one channel in confirm mode and keeps a window of publishes on their way.
//!
//! One task, because a channel that several threads publish on counts its confirmations wrongly. What was on its
//! way when a channel or a connection was lost is sent again, with the id it had, until its deadline.
//!
//! One long file, because the loop that sends and what it decides about a message are one idea.

mod culprit;
mod flights;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use event_core::{Bytes, Error, ErrorKind, ExchangeName, Message, Order, Orders, Result};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use self::{culprit::Culprit, flights::Flights};
use crate::{
    channel::{self, Owned},
    error,
    link::{Link, Live},
    topology,
    wire::{self, Notes},
};

/// How many publishes are on their way at a time. More are no faster.
const WINDOW: usize = 1_000;
/// How long after its deadline a confirmation is waited for.
const OVERDUE: Duration = Duration::from_secs(5);
/// How often it is looked whether what cannot be sent at present is too late.
const SWEEP: Duration = Duration::from_millis(100);
/// How often a message that was alone on its way may lose the connection before it is given up.
const TRIES: u8 = 3;

/// A message to its exchange, or a copy straight to a queue.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) message: Message,
    /// The queue of a copy, and what is written beside it.
    pub(crate) copy: Option<(String, Notes)>,
}

impl Outbound {
    pub(crate) fn event(message: Message) -> Self {
        Self {
            message,
            copy: None,
        }
    }

    pub(crate) fn copy(message: Message, queue: String, notes: Notes) -> Self {
        Self {
            message,
            copy: Some((queue, notes)),
        }
    }

    /// Exchange and key on the wire.
    fn route(&self) -> (&str, &str) {
        match &self.copy {
            None => (self.message.exchange(), self.message.key()),
            Some((queue, _)) => ("", queue),
        }
    }

    fn properties(&self) -> BasicProperties {
        match &self.copy {
            None => wire::properties(&self.message),
            Some((_, notes)) => wire::copy_properties(&self.message, notes),
        }
    }

    fn what(&self) -> String {
        match &self.copy {
            None => format!("publish {}", self.message.address()),
            Some((queue, _)) => format!("store a copy in queue `{queue}`"),
        }
    }
}

pub(crate) struct Publisher {
    link: Arc<Link>,
    orders: Orders<Outbound>,
    /// To be sent first, in order: what was on its way when something was lost.
    backlog: VecDeque<Pending>,
    /// No caller is left.
    ended: bool,
    /// Exchanges that are known to be there, on this connection.
    exchanges: HashSet<ExchangeName>,
    /// The largest payload that the server takes, as far as it is known.
    max_message: usize,
    /// How many are still to be sent one at a time, to find the one that the server does not take.
    cautious: usize,
}

struct Pending {
    order: Order<Outbound>,
    /// How often a channel or a connection was lost with it on its way.
    tries: u8,
}

impl Pending {
    fn new(order: Order<Outbound>) -> Self {
        Self { order, tries: 0 }
    }

    fn is_late(&self) -> bool {
        self.order.deadline() <= Instant::now()
    }

    /// Answers it: its deadline has passed before it could be sent, or be sent again.
    fn too_late(self, live: Option<&Live>) {
        let error = match self.tries {
            0 if live.and_then(Live::blocked).is_none() => unsent(),
            _ => late(live),
        };
        self.order.finish(Err(error));
    }
}

/// How the time on one channel ended.
enum End {
    /// All callers are gone, and everything was answered.
    Done,
    /// The channel is of no use any more; with why, if that is known.
    Lost(Option<lapin::Error>),
}

impl Publisher {
    pub(crate) fn new(link: Arc<Link>, orders: Orders<Outbound>) -> Self {
        Self {
            link,
            orders,
            backlog: VecDeque::new(),
            ended: false,
            exchanges: HashSet::new(),
            max_message: usize::MAX,
            cautious: 0,
        }
    }

    /// Runs until nobody can publish any more and everything is answered, or the link is closed.
    pub(crate) async fn run(mut self, closing: CancellationToken) {
        let mut generation = 0;
        while let Some(live) = self.connected(&closing).await {
            if generation != live.generation {
                generation = live.generation;
                self.exchanges.clear();
                // It may have been raised meanwhile.
                self.max_message = usize::MAX;
            }
            let channel = match open(&live).await {
                Ok(channel) => Arc::new(channel),
                Err(error) => {
                    tracing::warn!(target: "switchboard", %error, "cannot open a channel to publish on");
                    live.fail();
                    // For the link to notice.
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let mut flights = Flights::default();
            let end = self
                .publish_on(&live, &channel, &mut flights, &closing)
                .await;
            let End::Lost(why) = end else {
                channel.end().await;
                return;
            };
            self.take_back(flights, why.as_ref());
            if live.is_lost() {
                live.fail();
            }
        }
    }

    /// The connection, as soon as there is one. Nothing when the link is closed, and what is left is answered with
    /// that when it is dropped; nor when nobody waits for anything any more.
    async fn connected(&mut self, closing: &CancellationToken) -> Option<Arc<Live>> {
        let link = self.link.clone();
        let mut live = std::pin::pin!(link.live());
        let mut sweep = sweeps();
        loop {
            if self.ended && self.backlog.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                live = &mut live => return live.ok(),
                _ = sweep.tick(), if !self.backlog.is_empty() => self.answer_late(None),
                () = closing.cancelled(), if !self.ended => self.close(),
                order = self.orders.next(), if !self.ended => self.take_in(order),
            }
        }
    }

    async fn publish_on(
        &mut self,
        live: &Arc<Live>,
        channel: &Arc<Owned>,
        flights: &mut Flights,
        closing: &CancellationToken,
    ) -> End {
        let mut confirms = FuturesUnordered::new();
        // At most one: what comes behind the message that needs it waits in its place.
        let mut declaring = FuturesUnordered::new();
        let mut seen = Vec::new();
        let mut blocked = live.watch_blocked();
        let mut sweep = sweeps();
        loop {
            // What lapin was given is sent when the server takes publishes again, however late that is; so while it
            // takes none, lapin is given none.
            let is_blocked = blocked.borrow_and_update().is_some();
            let window = match self.cautious {
                _ if is_blocked => 0,
                0 => WINDOW,
                _ => 1,
            };
            while flights.open < window
                && declaring.is_empty()
                && let Some(pending) = self.next_pending()
            {
                match self.prepare(live, pending) {
                    Prepared::Send(pending) => {
                        let outbound = pending.order.item();
                        let (exchange, key) = outbound.route();
                        let send = send(
                            channel.clone(),
                            flights.next_number(),
                            exchange.into(),
                            key.into(),
                            outbound.message.payload().clone(),
                            outbound.properties(),
                        );
                        flights.push(pending);
                        confirms.push(send);
                    }
                    Prepared::Answered => {}
                    Prepared::Declare(exchange, pending) => {
                        self.backlog.push_front(pending);
                        declaring.push(async move {
                            let declared = topology::exchange(live, &exchange).await;
                            (exchange, declared)
                        });
                    }
                }
            }
            if self.ended && flights.open == 0 && self.backlog.is_empty() {
                return End::Done;
            }
            // As long as RabbitMQ blocks publishing, another channel would be no better.
            let overdue = match flights.oldest_deadline() {
                Some(deadline) if !is_blocked => deadline + OVERDUE,
                _ => Instant::now() + Duration::from_secs(3_600),
            };
            let waits = !self.backlog.is_empty() && (is_blocked || !declaring.is_empty());
            tokio::select! {
                biased;
                Some((number, confirm)) = confirms.next(), if !confirms.is_empty() => {
                    if confirm.is_ok() {
                        live.was_of_use();
                    }
                    if let Err(error) = self.confirmed(channel, flights, &mut confirms, &mut seen, number, confirm) {
                        return End::Lost(Some(error));
                    }
                }
                () = live.lost() => return End::Lost(None),
                _ = blocked.changed() => {}
                Some((exchange, declared)) = declaring.next(), if !declaring.is_empty() => {
                    if let Err(error) = self.declared(exchange, declared) {
                        tracing::debug!(target: "switchboard", %error, "the connection was lost with an exchange to declare");
                        return End::Lost(None);
                    }
                }
                () = sleep_until(overdue) => {
                    // A queue that confirms nothing must not hold up the others. What is still to be sent goes on
                    // another channel.
                    tracing::warn!(target: "switchboard", "RabbitMQ confirms nothing for long; publishing on another channel");
                    return End::Lost(None);
                }
                _ = sweep.tick(), if waits => self.answer_late(Some(live)),
                order = self.orders.next(), if (is_blocked || flights.open < window) && !self.ended => self.take_in(order),
                () = closing.cancelled(), if !self.ended => self.close(),
            }
        }
    }

    fn take_in(&mut self, order: Option<Order<Outbound>>) {
        match order {
            Some(order) => self.backlog.push_back(Pending::new(order)),
            None => self.ended = true,
        }
    }

    /// Takes nothing more. What was handed in before is still published.
    fn close(&mut self) {
        self.orders.close();
        while let Some(order) = self.orders.try_next() {
            self.backlog.push_back(Pending::new(order));
        }
        self.ended = true;
    }

    /// Answers what waits and is too late, so that it takes no room from what is not.
    fn answer_late(&mut self, live: Option<&Live>) {
        if !self.backlog.iter().any(Pending::is_late) {
            return;
        }
        for pending in std::mem::take(&mut self.backlog) {
            if pending.is_late() {
                pending.too_late(live);
            } else {
                self.backlog.push_back(pending);
            }
        }
    }

    /// An exchange was declared, or it failed for whoever needs it first. An error is a lost connection.
    fn declared(&mut self, exchange: ExchangeName, declared: Result<()>) -> Result<()> {
        match declared {
            Ok(()) => {
                self.exchanges.insert(exchange);
            }
            Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
            Err(error) => {
                let needs_it = self.backlog.front().is_some_and(|first| {
                    let first = first.order.item();
                    first.copy.is_none() && *first.message.exchange() == exchange
                });
                // Otherwise its deadline has passed meanwhile.
                if needs_it && let Some(first) = self.backlog.pop_front() {
                    first.order.finish(Err(error));
                }
            }
        }
        Ok(())
    }

    /// Answers what was confirmed, all of it that is there.
    ///
    /// lapin attaches what the server returned to whichever confirmation comes next, not to that of the same
    /// message; a return never comes later than its own confirmation, though, nor than those that the server sent
    /// together with it. So everything is looked at before anything is answered, and once more after lapin is
    /// done with the confirmations that it was taking in meanwhile.
    fn confirmed<F>(
        &mut self,
        channel: &Channel,
        flights: &mut Flights,
        confirms: &mut FuturesUnordered<F>,
        seen: &mut Vec<(u64, bool)>,
        number: u64,
        confirm: lapin::Result<Confirmation>,
    ) -> lapin::Result<()>
    where
        F: Future<Output = (u64, lapin::Result<Confirmation>)>,
    {
        let mut failed = None;
        flights.take_in(number, confirm, seen, &mut failed);
        flights.take_in_ready(confirms, seen, &mut failed);
        while !seen.is_empty() {
            // Waits for the lock that lapin holds while it takes in what the server sent together.
            let _ = channel.wait_for_confirms().now_or_never();
            let mut later = Vec::new();
            flights.take_in_ready(confirms, &mut later, &mut failed);
            for (number, acked) in std::mem::replace(seen, later) {
                self.cautious = self.cautious.saturating_sub(1);
                flights.answer(number, acked);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn next_pending(&mut self) -> Option<Pending> {
        self.backlog.pop_front().or_else(|| {
            let order = self.orders.try_next()?;
            Some(Pending::new(order))
        })
    }

    /// Whether a message can be sent; answers it if it never can be.
    fn prepare(&self, live: &Live, pending: Pending) -> Prepared {
        if pending.is_late() {
            pending.too_late(Some(live));
            return Prepared::Answered;
        }
        let outbound = pending.order.item();
        let message = &outbound.message;
        let frame = live.connection.configuration().frame_max();
        let refused = if message.payload().len() > self.max_message {
            Some(too_large(message, self.max_message))
        } else if let Some(name) = wire::misunderstood(message) {
            Some(Error::new(
                ErrorKind::InvalidName,
                format!(
                    "the header `{name}` of {} would be read by RabbitMQ itself; use another name",
                    message.address()
                ),
            ))
        } else if !wire::fits(message, frame) {
            Some(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the headers of {} do not fit into a frame of AMQP, which has {frame} bytes here; id, source and \
                     partition key are among them; put what is long into the payload",
                    message.address()
                ),
            ))
        } else {
            None
        };
        if let Some(error) = refused {
            pending.order.finish(Err(error));
            return Prepared::Answered;
        }
        if outbound.copy.is_none() && !self.exchanges.contains(message.exchange()) {
            return Prepared::Declare(message.exchange().clone(), pending);
        }
        Prepared::Send(pending)
    }

    /// What is to become of the messages that were on their way when a channel or connection was lost.
    fn take_back(&mut self, flights: Flights, why: Option<&lapin::Error>) {
        let mut back: Vec<Pending> = flights.into_unanswered();
        let alone = back.len() == 1;
        let culprit = Culprit::of(why);
        match &culprit {
            // Declared again with the next publish.
            Culprit::Exchange(exchange) => {
                self.exchanges.remove(exchange.as_str());
            }
            Culprit::Larger(most) => self.max_message = self.max_message.min(*most),
            _ => {}
        }
        for pending in &mut back {
            pending.tries = pending.tries.saturating_add(1);
        }
        let unknown = matches!(culprit, Culprit::Unknown);
        let (failed, back): (Vec<_>, Vec<_>) = back.into_iter().partition(|pending| {
            culprit.is(pending.order.item()) || (alone && (unknown || pending.tries >= TRIES))
        });
        if unknown || back.iter().any(|pending| pending.tries >= TRIES) {
            // One of them, and nobody knows which.
            self.cautious = back.len();
        }
        let most = self.max_message;
        for pending in failed {
            let outbound = pending.order.item();
            let error = match why {
                _ if outbound.message.payload().len() > most => too_large(&outbound.message, most),
                Some(why) => error::of(&outbound.what(), why),
                None => error::lost(&outbound.what()),
            };
            pending.order.finish(Err(error));
        }
        for pending in back.into_iter().rev() {
            self.backlog.push_front(pending);
        }
    }
}

enum Prepared {
    Send(Pending),
    Answered,
    /// Its exchange has to be declared before.
    Declare(ExchangeName, Pending),
}

/// When it is looked for what is too late.
fn sweeps() -> tokio::time::Interval {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep
}

async fn open(live: &Arc<Live>) -> Result<Owned> {
    let channel = channel::open(live).await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    channel.answer("have publishes confirmed", select).await?;
    Ok(channel)
}

/// Written to the connection at the first poll, then confirmed.
async fn send(
    channel: Arc<Owned>,
    number: u64,
    exchange: ShortString,
    key: ShortString,
    payload: Bytes,
    properties: BasicProperties,
) -> (u64, lapin::Result<Confirmation>) {
    let options = BasicPublishOptions {
        // Of every message: otherwise one that no queue is bound for is confirmed, and nobody hears of it.
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let sent = channel.basic_publish(exchange, key, options, &payload, properties);
    let confirmation = match sent.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (number, confirmation)
}

/// What a caller is told whose deadline has passed.
pub(crate) fn late(live: Option<&Live>) -> Error {
    match live.and_then(Live::blocked) {
        Some(why) => Error::retryable(
            ErrorKind::Overloaded,
            format!(
                "RabbitMQ has blocked publishing ({why}) and did not take the message before its deadline; free \
                 memory or disk space on the server, or raise its limits"
            ),
        ),
        None => Error::retryable(
            ErrorKind::Timeout,
            "the deadline passed before RabbitMQ confirmed the message; it may have been stored",
        ),
    }
}

/// What a caller is told whose deadline has passed before its message was sent at all.
fn unsent() -> Error {
    Error::retryable(
        ErrorKind::Timeout,
        "the deadline passed before the message could be sent to RabbitMQ; it was not stored",
    )
}

fn too_large(message: &Message, most: usize) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "the message to {} has {} bytes, and this RabbitMQ takes at most {most}; publish a reference to it \
             instead, or raise `max_message_size` on the server",
            message.address(),
            message.payload().len()
        ),
    )
}
