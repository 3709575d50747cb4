//! Publishing: one task owns one channel in confirm mode and keeps a window of publishes on their way.
//!
//! One task, because a channel that several threads publish on counts its confirmations wrongly. What was on its
//! way when a channel or a connection was lost is sent again, with the id it had, until its deadline.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use event_core::{Bytes, Error, ErrorKind, ExchangeName, Message, Order, Orders, Receipt, Result};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{self, Owned},
    error,
    link::{Link, Live},
    topology,
    wire::{self, Notes, Returned},
};

/// How many publishes are on their way at a time. More are no faster.
const WINDOW: usize = 1_000;
/// How long after its deadline a confirmation is waited for.
const OVERDUE: Duration = Duration::from_secs(5);
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
        // Closed: what is left is answered with that when it is dropped.
        while let Ok(live) = self.link.live().await {
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

    async fn publish_on(
        &mut self,
        live: &Arc<Live>,
        channel: &Arc<Owned>,
        flights: &mut Flights,
        closing: &CancellationToken,
    ) -> End {
        let mut confirms = FuturesUnordered::new();
        let mut seen = Vec::new();
        loop {
            let window = if self.cautious > 0 { 1 } else { WINDOW };
            while flights.open < window
                && let Some(pending) = self.next_pending()
            {
                match self.prepare(live, pending).await {
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
                    Prepared::Lost(pending) => {
                        self.backlog.push_front(pending);
                        return End::Lost(None);
                    }
                }
            }
            if self.ended && flights.open == 0 {
                return End::Done;
            }
            // As long as RabbitMQ blocks publishing, another channel would be no better.
            let overdue = match flights.oldest_deadline() {
                Some(deadline) if live.blocked().is_none() => deadline + OVERDUE,
                _ => Instant::now() + Duration::from_secs(3_600),
            };
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
                () = sleep_until(overdue) => {
                    // A queue that confirms nothing must not hold up the others. What is still to be sent goes on
                    // another channel.
                    tracing::warn!(target: "switchboard", "RabbitMQ confirms nothing for long; publishing on another channel");
                    return End::Lost(None);
                }
                order = self.orders.next(), if flights.open < window && !self.ended => match order {
                    Some(order) => self.backlog.push_back(Pending { order, tries: 0 }),
                    None => self.ended = true,
                },
                () = closing.cancelled(), if !self.ended => {
                    // What was handed in before is still published.
                    self.orders.close();
                    while let Some(order) = self.orders.try_next() {
                        self.backlog.push_back(Pending { order, tries: 0 });
                    }
                    self.ended = true;
                }
            }
        }
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
            Some(Pending { order, tries: 0 })
        })
    }

    /// Sees to it that a message can be sent, or answers it.
    async fn prepare(&mut self, live: &Arc<Live>, pending: Pending) -> Prepared {
        let outbound = pending.order.item();
        let message = &outbound.message;
        let refused = if pending.order.deadline() <= Instant::now() {
            Some(late(None))
        } else if message.payload().len() > self.max_message {
            Some(too_large(message, self.max_message))
        } else if let Some(name) = wire::misunderstood(message) {
            Some(Error::new(
                ErrorKind::InvalidName,
                format!(
                    "the header `{name}` of {} would be read by RabbitMQ itself; use another name",
                    message.address()
                ),
            ))
        } else if !wire::fits(message) {
            Some(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the headers of {} do not fit into a frame of AMQP (128 KiB)",
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
            let exchange = message.exchange().clone();
            match topology::exchange(live, &exchange).await {
                Ok(()) => {
                    self.exchanges.insert(exchange);
                }
                Err(error) if error.kind() == ErrorKind::Connection || live.is_lost() => {
                    return Prepared::Lost(pending);
                }
                Err(error) => {
                    pending.order.finish(Err(error));
                    return Prepared::Answered;
                }
            }
        }
        Prepared::Send(pending)
    }

    /// What is to become of the messages that were on their way when a channel or connection was lost.
    fn take_back(&mut self, flights: Flights, why: Option<&lapin::Error>) {
        let mut back: Vec<Pending> = flights.into_unanswered();
        let alone = back.len() == 1;
        let refusal = why.and_then(error::refusal);
        // The culprit, where the server says which it is.
        let mut culprit: Box<dyn Fn(&Outbound) -> bool> = Box::new(|_| false);
        let mut known = true;
        if let Some(exchange) = why.and_then(error::missing_exchange) {
            // Declared again with the next publish.
            self.exchanges.remove(exchange);
        } else if let Some(most) = why.and_then(error::max_message) {
            self.max_message = self.max_message.min(most);
            culprit = Box::new(move |outbound| outbound.message.payload().len() > most);
        } else if let Some(refused) = why.and_then(error::refused_route) {
            culprit = Box::new(move |outbound| {
                let (exchange, key) = outbound.route();
                exchange == refused.exchange
                    && refused.key.as_deref().is_none_or(|refused| refused == key)
            });
        } else {
            known = refusal.is_none();
        }
        for pending in &mut back {
            pending.tries = pending.tries.saturating_add(1);
        }
        let most = self.max_message;
        let (failed, back): (Vec<_>, Vec<_>) = back.into_iter().partition(|pending| {
            culprit(pending.order.item()) || (alone && (!known || pending.tries >= TRIES))
        });
        if !known || back.iter().any(|pending| pending.tries >= TRIES) {
            // One of them, and nobody knows which.
            self.cautious = back.len();
        }
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
    Lost(Pending),
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

/// What is on its way on one channel, by number, in order.
#[derive(Default)]
struct Flights {
    first: u64,
    pending: VecDeque<Option<Pending>>,
    open: usize,
    /// What the server returned, and was not yet told to whoever published it.
    returned: HashMap<Returned, u32>,
}

impl Flights {
    fn next_number(&self) -> u64 {
        self.first + self.pending.len() as u64
    }

    fn push(&mut self, pending: Pending) {
        self.pending.push_back(Some(pending));
        self.open += 1;
    }

    /// When the caller of the oldest has given up.
    fn oldest_deadline(&self) -> Option<Instant> {
        let oldest = self.pending.front()?.as_ref()?;
        Some(oldest.order.deadline())
    }

    fn take(&mut self, number: u64) -> Option<Pending> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let pending = self.pending.get_mut(at)?.take()?;
        self.open -= 1;
        while let Some(None) = self.pending.front() {
            self.pending.pop_front();
            self.first += 1;
        }
        Some(pending)
    }

    fn take_in(
        &mut self,
        number: u64,
        confirm: lapin::Result<Confirmation>,
        seen: &mut Vec<(u64, bool)>,
        failed: &mut Option<lapin::Error>,
    ) {
        match confirm {
            Ok(confirmation) => {
                seen.push((number, confirmation.is_ack()));
                if let Some(returned) = confirmation.take_message() {
                    *self.returned.entry(Returned::read(&returned)).or_default() += 1;
                }
            }
            // It stays on its way. What the server said is worth more than that the channel is closed.
            Err(error) => {
                if failed
                    .as_ref()
                    .is_none_or(|known| error::refusal(known).is_none())
                {
                    *failed = Some(error);
                }
            }
        }
    }

    fn take_in_ready<F>(
        &mut self,
        confirms: &mut FuturesUnordered<F>,
        seen: &mut Vec<(u64, bool)>,
        failed: &mut Option<lapin::Error>,
    ) where
        F: Future<Output = (u64, lapin::Result<Confirmation>)>,
    {
        while let Some(Some((number, confirm))) = confirms.next().now_or_never() {
            self.take_in(number, confirm, seen, failed);
        }
    }

    fn answer(&mut self, number: u64, acked: bool) {
        let Some(Pending { order, .. }) = self.take(number) else {
            return;
        };
        let outbound = order.item();
        let message = &outbound.message;
        let result = if !acked {
            Err(overloaded(outbound))
        } else if self.was_returned(outbound) {
            if outbound.copy.is_some() {
                Err(missing_target(outbound))
            } else if message.is_mandatory() {
                Err(unroutable(message))
            } else {
                Ok(Receipt::new(message.id().clone(), Some(0)))
            }
        } else {
            Ok(Receipt::new(message.id().clone(), None))
        };
        order.finish(result);
    }

    fn was_returned(&mut self, outbound: &Outbound) -> bool {
        if self.returned.is_empty() {
            return false;
        }
        let (exchange, key) = outbound.route();
        let name = Returned::of(&outbound.message, exchange, key);
        let Some(count) = self.returned.get_mut(&name) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&name);
        }
        true
    }

    fn into_unanswered(self) -> Vec<Pending> {
        self.pending.into_iter().flatten().collect()
    }
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

fn unroutable(message: &Message) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "no queue is bound to exchange `{}` for the key `{}`; declare the queue first or publish without \
             `mandatory`",
            message.exchange(),
            message.key()
        ),
    )
}

fn missing_target(outbound: &Outbound) -> Error {
    let (_, queue) = outbound.route();
    Error::retryable(
        ErrorKind::NotFound,
        format!(
            "queue `{queue}` does not exist, and a copy has to be stored in it; declare it again"
        ),
    )
}

fn overloaded(outbound: &Outbound) -> Error {
    let what = match &outbound.copy {
        Some((queue, _)) => format!("queue `{queue}`"),
        None => format!(
            "a queue that is bound to exchange `{}` for the key `{}`",
            outbound.message.exchange(),
            outbound.message.key()
        ),
    };
    Error::retryable(
        ErrorKind::Overloaded,
        format!(
            "{what} refused the message: it is full (`max_length`), or could not store it; try again when its \
             consumers have caught up"
        ),
    )
}
