//! The awaitable publish: of one event, and of many.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll, ready},
};

use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    address::Address,
    bus::Bus,
    capabilities::Capability,
    error::{Error, ErrorKind, Result},
    header::HeaderValue,
    id::MessageId,
    message::Message,
    outgoing::{IntoOutgoing, Outgoing},
    transport::Receipt,
};

type Results = Vec<Result<Receipt>>;
type BoxResults<'a> = Pin<Box<dyn Future<Output = Results> + Send + 'a>>;

/// A publish of one event; await it.
///
/// Nothing is sent before the first poll. Dropping it after that gives up the answer, not the message.
#[must_use = "nothing is published until this is awaited"]
pub struct Publishing<'a> {
    bus: &'a Bus,
    outgoing: Result<Outgoing>,
}

impl<'a> Publishing<'a> {
    pub(crate) fn new(bus: &'a Bus, outgoing: Result<Outgoing>) -> Self {
        Self { bus, outgoing }
    }

    /// Adds a header. A name that is reserved or not legal is the error of the publish.
    pub fn header(mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) -> Self {
        self.outgoing = self
            .outgoing
            .and_then(|outgoing| outgoing.header(name, value));
        self
    }

    /// Sets the id instead of having the bus make one.
    pub fn id(mut self, id: impl Into<MessageId>) -> Self {
        self.outgoing = self.outgoing.map(|outgoing| outgoing.id(id));
        self
    }

    /// Makes it an error of kind [`Unroutable`](ErrorKind::Unroutable) when no queue is bound for the event.
    pub fn mandatory(mut self) -> Self {
        self.outgoing = self.outgoing.map(Outgoing::mandatory);
        self
    }
}

impl fmt::Debug for Publishing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Publishing").field(&self.outgoing).finish()
    }
}

impl<'a> IntoFuture for Publishing<'a> {
    type Output = Result<Receipt>;
    type IntoFuture = PublishFuture<'a>;

    fn into_future(self) -> PublishFuture<'a> {
        let outgoing = self.outgoing.and_then(|outgoing| {
            check_options(self.bus, outgoing.message())?;
            Ok(outgoing)
        });
        let state = match outgoing {
            Err(error) => Single::Failed(Some(error)),
            Ok(outgoing) => {
                let mut message = outgoing.into_message();
                self.bus.stamp(std::iter::once(&mut message));
                let address = message.address().clone();
                let sending = Sending::new(self.bus, vec![message]);
                Single::Sending {
                    sending,
                    address,
                    bus: self.bus,
                }
            }
        };
        PublishFuture { state }
    }
}

/// Refuses an option of a single publish that the backend does not have.
fn check_options(bus: &Bus, message: &Message) -> Result<()> {
    if !message.is_mandatory() {
        return Ok(());
    }
    let of = format!("a publish to {}", message.address());
    bus.capabilities()
        .require(Capability::Mandatory, "mandatory", &of)
}

/// The future of a [`Publishing`].
#[must_use = "futures do nothing unless polled"]
pub struct PublishFuture<'a> {
    state: Single<'a>,
}

enum Single<'a> {
    Failed(Option<Error>),
    Sending {
        sending: Sending<'a>,
        address: Address,
        bus: &'a Bus,
    },
}

impl Future for PublishFuture<'_> {
    type Output = Result<Receipt>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().state {
            Single::Failed(error) => Poll::Ready(Err(error.take().unwrap_or_else(polled_again))),
            Single::Sending {
                sending,
                address,
                bus,
            } => {
                let mut results = ready!(sending.poll(cx));
                bus.account(results.iter(), |_| Some(&*address));
                let missing = || {
                    Err(Error::new(
                        ErrorKind::Internal,
                        "the backend gave no result",
                    ))
                };
                Poll::Ready(results.pop().unwrap_or_else(missing))
            }
        }
    }
}

impl fmt::Debug for PublishFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishFuture").finish_non_exhaustive()
    }
}

fn polled_again() -> Error {
    Error::new(
        ErrorKind::Internal,
        "a publish was polled after it had ended",
    )
}

/// A publish of many events as one batch; await it for a result for each, in order.
///
/// Nothing is sent before the first poll. Dropping it after that gives up the answers, not the messages.
#[must_use = "nothing is published until this is awaited"]
pub struct PublishAll<'a> {
    bus: &'a Bus,
    messages: Vec<Message>,
    /// What could not be encoded, with its place among the results, ascending.
    failed: Vec<(usize, Error)>,
}

impl<'a> PublishAll<'a> {
    pub(crate) fn new<I>(bus: &'a Bus, events: I) -> Self
    where
        I: IntoIterator,
        I::Item: IntoOutgoing,
    {
        let events = events.into_iter();
        let mut all = Self {
            bus,
            messages: Vec::with_capacity(events.size_hint().0),
            failed: Vec::new(),
        };
        for (at, event) in events.enumerate() {
            match event.into_outgoing() {
                Ok(outgoing) => all.messages.push(outgoing.into_message()),
                Err(error) => all.failed.push((at, error)),
            }
        }
        all
    }

    /// Adds a header to each. A name that is reserved or not legal is the error of every publish.
    pub fn header(mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) -> Self {
        let (name, value) = (name.into(), value.into());
        match crate::header::check_name(&name) {
            Ok(()) => {
                for message in &mut self.messages {
                    message.headers_mut().set(name.clone(), value.clone());
                }
            }
            Err(error) => {
                let count = self.messages.len() + self.failed.len();
                self.messages.clear();
                self.failed = (0..count).map(|at| (at, error.clone())).collect();
            }
        }
        self
    }

    /// Makes it an error of kind [`Unroutable`](ErrorKind::Unroutable) for each event that no queue is bound for.
    pub fn mandatory(mut self) -> Self {
        for message in &mut self.messages {
            message.set_mandatory();
        }
        self
    }
}

/// Moves what asks for an option that the backend does not have to what failed, in its own place.
fn refuse_options(
    bus: &Bus,
    messages: Vec<Message>,
    failed: Vec<(usize, Error)>,
) -> (Vec<Message>, Vec<(usize, Error)>) {
    let count = messages.len() + failed.len();
    let (mut messages, mut earlier) = (messages.into_iter(), failed.into_iter().peekable());
    let (mut accepted, mut failed) = (Vec::new(), Vec::new());
    for at in 0..count {
        if let Some(known) = earlier.next_if(|(place, _)| *place == at) {
            failed.push(known);
        } else if let Some(message) = messages.next() {
            match check_options(bus, &message) {
                Ok(()) => accepted.push(message),
                Err(error) => failed.push((at, error)),
            }
        }
    }
    (accepted, failed)
}

impl fmt::Debug for PublishAll<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishAll")
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}

impl<'a> IntoFuture for PublishAll<'a> {
    type Output = Results;
    type IntoFuture = PublishAllFuture<'a>;

    fn into_future(self) -> PublishAllFuture<'a> {
        let Self {
            bus,
            mut messages,
            mut failed,
        } = self;
        if messages
            .iter()
            .any(|message| check_options(bus, message).is_err())
        {
            (messages, failed) = refuse_options(bus, messages, failed);
        }
        bus.stamp(messages.iter_mut());
        // Only for a warning, and shared texts; but a clone for each message is work that a bus whose queues
        // are bound never needs. So the addresses are kept in runs: most batches have one.
        let addresses = Addresses::of(&messages);
        let sending = (!messages.is_empty()).then(|| Sending::new(bus, messages));
        PublishAllFuture {
            bus,
            sending,
            addresses,
            failed,
        }
    }
}

/// The future of a [`PublishAll`].
#[must_use = "futures do nothing unless polled"]
pub struct PublishAllFuture<'a> {
    bus: &'a Bus,
    sending: Option<Sending<'a>>,
    addresses: Addresses,
    failed: Vec<(usize, Error)>,
}

impl Future for PublishAllFuture<'_> {
    type Output = Results;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Results> {
        let this = self.get_mut();
        let mut results = match &mut this.sending {
            Some(sending) => ready!(sending.poll(cx)),
            None => Vec::new(),
        };
        this.bus
            .account(results.iter(), |at| this.addresses.get(at));
        for (at, error) in this.failed.drain(..) {
            // Ascending, so each place exists by the time it is filled.
            results.insert(at.min(results.len()), Err(error));
        }
        Poll::Ready(results)
    }
}

impl fmt::Debug for PublishAllFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishAllFuture").finish_non_exhaustive()
    }
}

/// The addresses of a batch, in runs of equal ones: where each run ends, and its address.
struct Addresses(Vec<(usize, Address)>);

impl Addresses {
    fn of(messages: &[Message]) -> Self {
        let mut runs: Vec<(usize, Address)> = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            match runs.last_mut() {
                Some((end, address)) if address == message.address() => *end = at + 1,
                _ => runs.push((at + 1, message.address().clone())),
            }
        }
        Self(runs)
    }

    fn get(&self, at: usize) -> Option<&Address> {
        let run = self.0.partition_point(|(end, _)| *end <= at);
        self.0.get(run).map(|(_, address)| address)
    }
}

/// A batch on its way through the layers to the transport, in its span.
pub(crate) struct Sending<'a> {
    results: BoxResults<'a>,
    span: Span,
    count: usize,
}

impl<'a> Sending<'a> {
    pub(crate) fn new(bus: &'a Bus, batch: Vec<Message>) -> Self {
        let count = batch.len();
        let span = tracing::debug_span!(
            target: "switchboard",
            "publish",
            exchange = batch.first().map(|message| message.exchange().as_str()),
            key = batch.first().map(|message| message.key().as_str()),
            count,
            failed = tracing::field::Empty,
        );
        let results: BoxResults<'a> = match bus.layers() {
            None => bus
                .transport()
                .publish(batch, Instant::now() + bus.deadline()),
            Some(stack) => Box::pin(stack.clone().publish(batch)),
        };
        Self {
            results,
            span,
            count,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Results> {
        let _entered = self.span.enter();
        let results = ready!(self.results.as_mut().poll(cx));
        if !self.span.is_disabled() {
            self.span.record(
                "failed",
                results.iter().filter(|result| result.is_err()).count(),
            );
        }
        debug_assert_eq!(
            results.len(),
            self.count,
            "a transport answers for each message of a batch"
        );
        Poll::Ready(results)
    }
}
