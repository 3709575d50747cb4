//! A queue as its service describes it: what goes in, who handles it, and how.

use std::{fmt, sync::Arc, time::Duration};

use smol_str::SmolStr;
use tower::{
    Layer, Service as TowerService, ServiceExt,
    layer::util::{Identity, Stack},
    util::BoxCloneSyncService,
};

use crate::{
    delivery::Delivery,
    error::BoxError,
    event::{Event, all_routes},
    handler::{Arguments, Handler},
    lane::{HandlerLane, HandlerService, LayeredLane, MakeLane},
    reply::{IntoReply, Reply},
    retry::RetryPolicy,
    route::{Route, RouteInfo},
    topology::QueueKind,
};

/// A handler with its layers, as `Service::layer` sees it: a tower service that is boxed once per message.
pub type BoxHandler = BoxCloneSyncService<Delivery, Reply, BoxError>;

/// A layer of the whole service.
pub(crate) type ServiceLayer = Arc<dyn Fn(BoxHandler) -> BoxHandler + Send + Sync>;

/// A queue of a [`Service`](crate::Service): what goes in, who handles it, and how.
///
/// Names and settings are checked when the service starts; a mistake is one sentence then.
pub struct Queue<S = (), L = Identity> {
    pub(crate) settings: QueueSettings,
    pub(crate) handlers: Vec<Registered<S>>,
    layers: L,
}

/// What a queue is, apart from its handlers.
#[derive(Clone, Debug)]
pub(crate) struct QueueSettings {
    pub(crate) name: String,
    pub(crate) kind: QueueKind,
    pub(crate) bindings: Vec<(String, String)>,
    pub(crate) unbindings: Vec<(String, String)>,
    pub(crate) concurrency: usize,
    pub(crate) workers: usize,
    pub(crate) prefetch: Option<usize>,
    pub(crate) lease: Duration,
    pub(crate) ordered: bool,
    pub(crate) max_length: Option<u64>,
    pub(crate) retry: RetryPolicy,
}

/// Makes the lanes of a handler once the state and the layers of its service are known.
type WithState<S> = Box<dyn FnOnce(Arc<S>, &[ServiceLayer]) -> MakeLane + Send>;

/// A handler of a queue, before the service's state is known.
pub(crate) struct Registered<S> {
    pub(crate) name: Option<SmolStr>,
    pub(crate) routes: Vec<&'static RouteInfo>,
    pub(crate) make: WithState<S>,
}

impl<S> Queue<S, Identity> {
    /// A durable queue: declared when the service starts, and kept, with what is published to it, while the
    /// service is down.
    pub fn new(name: impl Into<String>) -> Self {
        Self::of_kind(name, QueueKind::Durable)
    }

    /// A queue that someone else declared: it is used as it is, and nothing is declared or bound.
    pub fn existing(name: impl Into<String>) -> Self {
        Self::of_kind(name, QueueKind::Existing)
    }

    /// A broadcast: every process gets every message while it runs, at most once. Nothing is kept: no
    /// retries, no dead letters, and what is published while the process is down is missed.
    pub fn ephemeral(name: impl Into<String>) -> Self {
        Self::of_kind(name, QueueKind::Ephemeral)
    }

    fn of_kind(name: impl Into<String>, kind: QueueKind) -> Self {
        Self {
            settings: QueueSettings {
                name: name.into(),
                kind,
                bindings: Vec::new(),
                unbindings: Vec::new(),
                concurrency: 16,
                workers: 1,
                prefetch: None,
                lease: Duration::from_secs(30),
                ordered: false,
                max_length: None,
                retry: RetryPolicy::default(),
            },
            handlers: Vec::new(),
            layers: Identity::new(),
        }
    }
}

impl<S, L> Queue<S, L> {
    /// Lets in what is published to the exchange with a key that matches the pattern: words separated by
    /// dots, `*` for one word, `#` for any number of words.
    pub fn bind(mut self, exchange: impl Into<String>, pattern: impl Into<String>) -> Self {
        self.settings
            .bindings
            .push((exchange.into(), pattern.into()));
        self
    }

    /// Removes a binding when the service starts. Declaring only adds: a pattern that is no longer bound
    /// here stays bound until this, or `topology().prune()`, removes it.
    pub fn unbind(mut self, exchange: impl Into<String>, pattern: impl Into<String>) -> Self {
        self.settings
            .unbindings
            .push((exchange.into(), pattern.into()));
        self
    }

    /// How many handlers may be in flight at the same time in this process. 16 by default.
    ///
    /// Handlers of one partition key are never in flight together.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.settings.concurrency = handlers;
        self
    }

    /// How many tasks run the handlers, split by partition key. 1 by default, which serves handlers that
    /// wait; more help handlers that use the processor. The concurrency is shared among them.
    pub fn workers(mut self, tasks: usize) -> Self {
        self.settings.workers = tasks;
        self
    }

    /// The most deliveries this process holds. By default 16 for each place of `concurrency`, at least 64.
    pub fn prefetch(mut self, deliveries: usize) -> Self {
        self.settings.prefetch = Some(deliveries);
        self
    }

    /// How long the broker waits for a sign of life before it gives deliveries to another consumer. 30
    /// seconds by default. A handler may take longer: signs of life do not come from handlers.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Handles messages of one partition key strictly in order, across processes and retries: while one
    /// waits for its next attempt, those after it wait too. Refused where the broker cannot keep it.
    ///
    /// The count of attempts is kept by the consumer, and starts anew when the process is restarted.
    pub fn ordered(mut self) -> Self {
        self.settings.ordered = true;
        self
    }

    /// The most messages the queue holds. Publishing to a full queue fails with
    /// [`Overloaded`](crate::ErrorKind::Overloaded), also if other queues took the message. No limit by
    /// default.
    pub fn max_length(mut self, messages: u64) -> Self {
        self.settings.max_length = Some(messages);
        self
    }

    /// How often and when failed deliveries are tried again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// Puts a [`tower::Layer`] around the handlers that are registered after this call. The layer's type is
    /// kept, so that nothing is boxed; for all handlers of a service there is
    /// [`Service::layer`](crate::Service::layer).
    pub fn layer<N>(self, layer: N) -> Queue<S, Stack<L, N>> {
        Queue {
            settings: self.settings,
            handlers: self.handlers,
            layers: Stack::new(self.layers, layer),
        }
    }

    /// Handles an event with a function: all routes of its type, and those of older versions that it reads.
    ///
    /// Several handlers that take one message run in the order of registration; only those that fail run
    /// again.
    pub fn handle<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        F::Future: Send,
        F::Output: IntoReply,
        Args: Arguments<S> + 'static,
        S: Send + Sync + 'static,
        L: HandlerLayers<F, Args, S> + Clone,
    {
        let routes = all_routes::<Args::Event>();
        self.register(handler, routes)
    }

    /// Handles one route of a type with several events.
    pub fn on<E, F, Args>(self, route: Route<E>, handler: F) -> Self
    where
        E: Event,
        F: Handler<Args>,
        F::Future: Send,
        F::Output: IntoReply,
        Args: Arguments<S, Event = E> + 'static,
        S: Send + Sync + 'static,
        L: HandlerLayers<F, Args, S> + Clone,
    {
        self.register(handler, vec![route.info()])
    }

    fn register<F, Args>(mut self, handler: F, routes: Vec<&'static RouteInfo>) -> Self
    where
        F: Handler<Args>,
        L: HandlerLayers<F, Args, S> + Clone,
    {
        let name = handler.name().map(SmolStr::new);
        let layers = self.layers.clone();
        let make =
            Box::new(move |state, service: &[ServiceLayer]| layers.make(handler, state, service));
        self.handlers.push(Registered { name, routes, make });
        self
    }

    /// Names the handler that was registered last, instead of by its function. A closure must be named.
    ///
    /// Names stand in retries and dead letters: keep them when the function is renamed.
    pub fn named(mut self, name: impl Into<SmolStr>) -> Self {
        if let Some(last) = self.handlers.last_mut() {
            last.name = Some(name.into());
        }
        self
    }
}

impl<S, L> fmt::Debug for Queue<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handlers: Vec<_> = self.handlers.iter().map(|handler| &handler.name).collect();
        f.debug_struct("Queue")
            .field("settings", &self.settings)
            .field("handlers", &handlers)
            .finish()
    }
}

/// The layers of a queue that fit around a handler: tower layers whose service takes a [`Delivery`],
/// answers a [`Reply`], and fails with anything that is an error.
#[diagnostic::on_unimplemented(
    message = "the layers of this queue do not fit around this handler",
    note = "a layer's service must be `tower::Service<Delivery, Response = Reply>`, `Clone + Send + Sync`, with a `Send` future"
)]
pub trait HandlerLayers<F, Args, S>: Send + 'static {
    #[doc(hidden)]
    fn make(self, handler: F, state: Arc<S>, service: &[ServiceLayer]) -> MakeLane;
}

/// Without layers the handler is lent its delivery, and nothing is cloned.
impl<F, Args, S> HandlerLayers<F, Args, S> for Identity
where
    F: Handler<Args>,
    F::Future: Send,
    F::Output: IntoReply,
    Args: Arguments<S> + 'static,
    S: Send + Sync + 'static,
{
    fn make(self, handler: F, state: Arc<S>, service: &[ServiceLayer]) -> MakeLane {
        if service.is_empty() {
            return MakeLane::new(move || HandlerLane::new(handler.clone(), state.clone()));
        }
        boxed(HandlerService::new(handler, state), service)
    }
}

impl<F, Args, S, N, L> HandlerLayers<F, Args, S> for Stack<L, N>
where
    Stack<L, N>: Layer<HandlerService<F, Args, S>> + Send + 'static,
    <Stack<L, N> as Layer<HandlerService<F, Args, S>>>::Service:
        TowerService<Delivery, Response = Reply> + Clone + Send + Sync + 'static,
    <<Stack<L, N> as Layer<HandlerService<F, Args, S>>>::Service as TowerService<Delivery>>::Error:
        Into<BoxError>,
    <<Stack<L, N> as Layer<HandlerService<F, Args, S>>>::Service as TowerService<Delivery>>::Future:
        Send + 'static,
{
    fn make(self, handler: F, state: Arc<S>, service: &[ServiceLayer]) -> MakeLane {
        // One service for all workers: a limit on concurrency is one limit.
        let layered = self.layer(HandlerService::new(handler, state));
        if service.is_empty() {
            return MakeLane::new(move || LayeredLane::new(layered.clone()));
        }
        boxed(layered, service)
    }
}

fn boxed<V>(handler: V, layers: &[ServiceLayer]) -> MakeLane
where
    V: TowerService<Delivery, Response = Reply> + Clone + Send + Sync + 'static,
    V::Error: Into<BoxError>,
    V::Future: Send + 'static,
{
    let boxed = BoxHandler::new(handler.map_err(Into::into));
    let layered = layers.iter().fold(boxed, |inner, layer| layer(inner));
    MakeLane::new(move || LayeredLane::new(layered.clone()))
}
