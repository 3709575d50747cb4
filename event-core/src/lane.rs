//! A lane runs one handler: in place if it is ready at once, otherwise beside the others.

use std::{
    any::Any,
    collections::VecDeque,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::{
    future::{Either, FutureExt, Map, Ready, ready},
    stream::{FuturesUnordered, Stream},
};
use tower::Service;
use tracing::Span;

use crate::{
    delivery::Delivery,
    error::{BoxError, Error, ErrorKind},
    handler::{Arguments, Handler},
    outcome::Verdict,
    reply::{IntoReply, Reply},
};

/// One handler of one worker. `dyn`, so that handlers with different futures share a queue; owned by one
/// task, so that it needs no lock.
pub(crate) trait Lane: Send {
    /// Starts the handler for the delivery in `slot`. `Ready` when it is done already.
    fn start(
        &mut self,
        slot: usize,
        delivery: &Delivery,
        span: &Span,
        cx: &mut Context<'_>,
    ) -> Poll<Reply>;

    /// The next handler that is done, with its slot. `Pending` also when none is running.
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Reply)>;
}

/// Makes the lanes of a handler, one for each worker.
#[doc(hidden)]
#[derive(Clone)]
pub struct MakeLane(Arc<dyn Fn() -> Box<dyn Lane> + Send + Sync>);

impl MakeLane {
    pub(crate) fn new<L: Lane + 'static>(make: impl Fn() -> L + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::new(make())))
    }

    pub(crate) fn lane(&self) -> Box<dyn Lane> {
        (self.0)()
    }
}

impl std::fmt::Debug for MakeLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MakeLane").finish_non_exhaustive()
    }
}

/// Futures of one type in flight. Their boxes are recycled: a future that was polled once cannot move, so
/// one that may stay pending has to be polled in its box the first time too.
struct Flight<Fut: Future> {
    spare: Vec<Pin<Box<Option<Fut>>>>,
    pending: FuturesUnordered<Running<Fut>>,
}

struct Running<Fut> {
    future: Option<Pin<Box<Option<Fut>>>>,
    slot: usize,
    span: Span,
}

/// Dropped in flight when its service ends. What its destructor panics with must reach neither the others of
/// its lane nor, as a second panic, the process.
impl<Fut> Drop for Running<Fut> {
    fn drop(&mut self) {
        if let Some(place) = self.future.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(place)));
        }
    }
}

type Caught<T> = std::result::Result<T, Box<dyn Any + Send>>;

impl<Fut: Future> Flight<Fut> {
    fn new() -> Self {
        Self {
            spare: Vec::new(),
            pending: FuturesUnordered::new(),
        }
    }

    fn start(&mut self, slot: usize, future: Fut, span: &Span) -> Poll<Caught<Fut::Output>> {
        let mut place = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        place.set(Some(future));
        // Without a waker: if it stays pending, it is polled again with one of its own at once.
        match poll_caught(&mut place, span, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => {
                self.recycle(place);
                Poll::Ready(output)
            }
            Poll::Pending => {
                self.pending.push(Running {
                    future: Some(place),
                    slot,
                    span: span.clone(),
                });
                Poll::Pending
            }
        }
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Caught<Fut::Output>)> {
        match Pin::new(&mut self.pending).poll_next(cx) {
            Poll::Ready(Some((slot, place, output))) => {
                self.recycle(place);
                Poll::Ready((slot, output))
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn recycle(&mut self, mut place: Pin<Box<Option<Fut>>>) {
        // Dropping what a handler left behind may panic as well; the place is lost then, nothing else.
        if catch_unwind(AssertUnwindSafe(|| place.set(None))).is_ok() {
            self.spare.push(place);
        }
    }
}

impl<Fut: Future> Future for Running<Fut> {
    type Output = (usize, Pin<Box<Option<Fut>>>, Caught<Fut::Output>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(mut place) = this.future.take() else {
            return Poll::Pending;
        };
        match poll_caught(&mut place, &this.span, cx) {
            Poll::Ready(output) => Poll::Ready((this.slot, place, output)),
            Poll::Pending => {
                this.future = Some(place);
                Poll::Pending
            }
        }
    }
}

fn poll_caught<Fut: Future>(
    place: &mut Pin<Box<Option<Fut>>>,
    span: &Span,
    cx: &mut Context<'_>,
) -> Poll<Caught<Fut::Output>> {
    let Some(future) = place.as_mut().as_pin_mut() else {
        return Poll::Pending;
    };
    let _entered = span.enter();
    // A handler is dropped after it panicked and nothing of it is looked at again.
    match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

/// A panic is a failure like another: it is tried again.
fn panicked(panic: Box<dyn Any + Send>) -> Reply {
    let text = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other
            .downcast::<&str>()
            .map_or_else(|_| "no message".to_owned(), |text| (*text).to_owned()),
    };
    Reply::of(Verdict::Failed {
        after: None,
        error: Some(format!("the handler panicked: {text}").into()),
    })
}

/// The lane of a handler without layers: the delivery is lent to it.
pub(crate) struct HandlerLane<F: Handler<Args>, Args, S> {
    handler: F,
    state: Arc<S>,
    flight: Flight<F::Future>,
    arguments: PhantomData<fn(Args)>,
}

impl<F: Handler<Args>, Args, S> HandlerLane<F, Args, S> {
    pub(crate) fn new(handler: F, state: Arc<S>) -> Self {
        Self {
            handler,
            state,
            flight: Flight::new(),
            arguments: PhantomData,
        }
    }
}

fn reply<T: IntoReply>(output: Caught<T>) -> Reply {
    // Turning the value into a reply runs code of the user's: `Publish` encodes what it returned.
    output
        .and_then(|value| catch_unwind(AssertUnwindSafe(|| value.into_reply())))
        .unwrap_or_else(panicked)
}

impl<F, Args, S> Lane for HandlerLane<F, Args, S>
where
    F: Handler<Args>,
    F::Output: IntoReply,
    F::Future: Send,
    Args: Arguments<S>,
    S: Send + Sync,
{
    fn start(
        &mut self,
        slot: usize,
        delivery: &Delivery,
        span: &Span,
        _: &mut Context<'_>,
    ) -> Poll<Reply> {
        let call =
            || Args::extract(delivery, &self.state).map(|arguments| self.handler.call(arguments));
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(future)) => self.flight.start(slot, future, span).map(reply),
            Ok(Err(error)) => Poll::Ready(Reply::of(Verdict::Unusable(error))),
            Err(panic) => Poll::Ready(panicked(panic)),
        }
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Reply)> {
        self.flight
            .poll_done(cx)
            .map(|(slot, output)| (slot, reply(output)))
    }
}

type Replied = std::result::Result<Reply, BoxError>;

/// A handler as a tower service: what layers are put around.
///
/// An argument that cannot be made from the delivery is an answer like others, so that a layer for retries
/// or timeouts does not take it for a failure of its own.
pub struct HandlerService<F, Args, S> {
    handler: F,
    state: Arc<S>,
    arguments: PhantomData<fn(Args)>,
}

impl<F, Args, S> HandlerService<F, Args, S> {
    pub(crate) fn new(handler: F, state: Arc<S>) -> Self {
        Self {
            handler,
            state,
            arguments: PhantomData,
        }
    }
}

impl<F: Clone, Args, S> Clone for HandlerService<F, Args, S> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            state: self.state.clone(),
            arguments: PhantomData,
        }
    }
}

impl<F, Args, S> std::fmt::Debug for HandlerService<F, Args, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerService").finish_non_exhaustive()
    }
}

impl<F, Args, S> Service<Delivery> for HandlerService<F, Args, S>
where
    F: Handler<Args>,
    F::Output: IntoReply,
    Args: Arguments<S>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Either<Ready<Replied>, Map<F::Future, fn(F::Output) -> Replied>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        match Args::extract(&delivery, &self.state) {
            Ok(arguments) => Either::Right(
                self.handler
                    .call(arguments)
                    .map(|output| Ok(output.into_reply())),
            ),
            Err(error) => Either::Left(ready(Ok(Reply::of(Verdict::Unusable(error))))),
        }
    }
}

/// The lane of a handler with layers: each call gets a delivery of its own, and may have to wait for a place.
pub(crate) struct LayeredLane<V: Service<Delivery>> {
    service: V,
    flight: Flight<V::Future>,
    /// What waits for the service to be ready, in order.
    waiting: VecDeque<(usize, Delivery, Span)>,
}

impl<V: Service<Delivery, Response = Reply>> LayeredLane<V>
where
    V::Error: Into<BoxError>,
{
    pub(crate) fn new(service: V) -> Self {
        Self {
            service,
            flight: Flight::new(),
            waiting: VecDeque::new(),
        }
    }

    fn reply(output: Caught<std::result::Result<Reply, V::Error>>) -> Reply {
        match output {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => failed(error.into()),
            Err(panic) => panicked(panic),
        }
    }

    /// Whether the service is ready, or what it failed with.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Reply>> {
        match catch_unwind(AssertUnwindSafe(|| self.service.poll_ready(cx))) {
            Ok(ready) => ready.map_err(|error| failed(error.into())),
            Err(panic) => Poll::Ready(Err(panicked(panic))),
        }
    }

    /// Calls the service, which is ready or has failed.
    fn call(
        &mut self,
        ready: std::result::Result<(), Reply>,
        slot: usize,
        delivery: Delivery,
        span: &Span,
    ) -> Poll<Reply> {
        if let Err(reply) = ready {
            return Poll::Ready(reply);
        }
        let service = &mut self.service;
        let call = || {
            let _entered = span.enter();
            service.call(delivery)
        };
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(future) => self.flight.start(slot, future, span).map(Self::reply),
            Err(panic) => Poll::Ready(panicked(panic)),
        }
    }
}

/// What a layer fails with is a failure of the handler, unless it is an error of ours that says otherwise.
fn failed(error: BoxError) -> Reply {
    let unusable = |error: &Error| matches!(error.kind(), ErrorKind::Decode | ErrorKind::Invalid);
    match error.downcast_ref::<Error>() {
        Some(ours) if unusable(ours) => Reply::of(Verdict::Unusable(ours.clone())),
        _ => Reply::of(crate::outcome::HandlerError::from(error).into_verdict()),
    }
}

impl<V> Lane for LayeredLane<V>
where
    V: Service<Delivery, Response = Reply> + Send,
    V::Error: Into<BoxError>,
    V::Future: Send,
{
    fn start(
        &mut self,
        slot: usize,
        delivery: &Delivery,
        span: &Span,
        cx: &mut Context<'_>,
    ) -> Poll<Reply> {
        let delivery = delivery.clone();
        if self.waiting.is_empty()
            && let Poll::Ready(ready) = self.poll_ready(cx)
        {
            return self.call(ready, slot, delivery, span);
        }
        self.waiting.push_back((slot, delivery, span.clone()));
        Poll::Pending
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Reply)> {
        if let Poll::Ready((slot, output)) = self.flight.poll_done(cx) {
            return Poll::Ready((slot, Self::reply(output)));
        }
        while !self.waiting.is_empty()
            && let Poll::Ready(ready) = self.poll_ready(cx)
        {
            let Some((slot, delivery, span)) = self.waiting.pop_front() else {
                break;
            };
            if let Poll::Ready(reply) = self.call(ready, slot, delivery, &span) {
                return Poll::Ready((slot, reply));
            }
        }
        // What was just started has to be polled with this task's waker.
        self.flight
            .poll_done(cx)
            .map(|(slot, output)| (slot, Self::reply(output)))
    }
}
