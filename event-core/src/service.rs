//! A service: queues with their handlers, run together.

use std::{collections::HashSet, convert::Infallible, fmt, pin::pin, sync::Arc, time::Duration};

use smol_str::SmolStr;
use tokio::task::{JoinError, JoinSet};
use tower::{Layer, Service as TowerService, ServiceExt};

use crate::{
    bus::Bus,
    checks,
    consumer::{self, ReadyQueue, Stops},
    delivery::Delivery,
    error::{BoxError, Error, ErrorKind, Result},
    observe::{Observed, Observer},
    queue::{BoxHandler, Queue, QueueSettings, Registered, ServiceLayer},
    reply::Reply,
    shutdown::{IntoShutdown, Shutdown},
    topology::{Binding, QueueKind, Removal, Topology},
};

/// A service: queues with their handlers, and the state that the handlers share.
///
/// ```
/// # use event_core::{Bus, Queue, RawEvent, Service, Shutdown};
/// # async fn example(bus: Bus) -> event_core::Result<()> {
/// async fn archive(event: RawEvent) {
///     println!("{} {:?}", event.key, event.payload);
/// }
///
/// Service::new("archive")
///     .queue(Queue::new("archive_all").bind("order", "#").handle(archive))
///     .run(&bus, Shutdown::never())
///     .await
/// # }
/// ```
///
/// In a file that writes middleware, name tower's trait by its path, `tower::Service`: the two meet
/// nowhere else.
#[must_use = "a service does nothing until it runs"]
pub struct Service<S = ()> {
    name: SmolStr,
    state: Arc<S>,
    queues: Vec<(QueueSettings, Vec<Registered<S>>)>,
    layers: Vec<ServiceLayer>,
    observer: Option<Observer>,
    deadline: Duration,
}

impl Service<()> {
    /// A service without queues. Its name is the `source` of the events that its handlers return, and
    /// stands in dead letters.
    pub fn new(name: impl Into<SmolStr>) -> Self {
        Self::build(name.into(), ())
    }

    /// The same service with a state that its handlers take with `State<…>`. Comes before the queues.
    pub fn with_state<S>(self, state: S) -> Service<S> {
        let Self {
            name,
            layers,
            observer,
            deadline,
            ..
        } = self;
        Service {
            layers,
            observer,
            deadline,
            ..Service::build(name, state)
        }
    }
}

impl<S> Service<S> {
    fn build(name: SmolStr, state: S) -> Self {
        Self {
            name,
            state: Arc::new(state),
            queues: Vec::new(),
            layers: Vec::new(),
            observer: None,
            deadline: Duration::from_secs(30),
        }
    }
}

impl<S: Send + Sync + 'static> Service<S> {
    /// Adds a queue.
    pub fn queue<L>(mut self, queue: Queue<S, L>) -> Self {
        self.queues.push((queue.settings, queue.handlers));
        self
    }

    /// Puts a [`tower::Layer`] around every handler of the service, outside of those added before and of the
    /// queues' own. It costs a box for each message; [`Queue::layer`] does not.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<BoxHandler> + Send + Sync + 'static,
        L::Service: TowerService<Delivery, Response = Reply> + Clone + Send + Sync + 'static,
        <L::Service as TowerService<Delivery>>::Error: Into<BoxError>,
        <L::Service as TowerService<Delivery>>::Future: Send + 'static,
    {
        self.layers.push(Arc::new(move |inner| {
            BoxHandler::new(layer.layer(inner).map_err(Into::into))
        }));
        self
    }

    /// Watches what becomes of each delivery, before it is settled: for one line of a log for each, or for
    /// tests. Keep it short: nothing of the queue is settled meanwhile.
    pub fn inspect(mut self, observer: impl Fn(&Observed<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// How long handlers in flight may go on after the service was told to stop. 30 seconds by default.
    pub fn with_shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The queues and bindings that the service declares when it starts.
    ///
    /// # Errors
    /// A name or a setting is not legal.
    pub fn topology(&self) -> Result<Topology> {
        let mut topology = Topology::default();
        for (settings, _) in &self.queues {
            let spec = checks::spec(settings, &self.name)?;
            for Binding { exchange, .. } in &spec.bindings {
                if !topology.exchanges.contains(exchange) {
                    topology.exchanges.push(exchange.clone());
                }
            }
            // An ephemeral queue exists only while it is consumed, and an existing one is not ours to declare.
            if spec.kind == QueueKind::Durable {
                topology.queues.push(spec);
            }
        }
        Ok(topology)
    }

    /// Checks the service, declares its queues, and handles what they receive until the shutdown, or until
    /// a queue fails for good. Dropping the future is a crash, as far as the broker sees: what was in
    /// flight comes back after the lease.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] and [`ErrorKind::Unsupported`] before anything is declared;
    /// [`ErrorKind::Mismatch`] when something exists with other arguments; what ended a queue afterwards.
    pub async fn run(self, bus: &Bus, shutdown: impl IntoShutdown) -> Result<()> {
        let Shutdown { mut stop, now } = shutdown.into_shutdown();
        let mut running = tokio::select! {
            biased;
            running = self.start(bus) => running?,
            // The broker does not answer, and nothing is in flight yet.
            () = &mut stop => return Ok(()),
        };
        let stops = running.stops.clone();
        let signals = async {
            stop.await;
            stops.stop();
            now.await;
            stops.stop_now();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            ended = running.join() => ended,
            never = signals => match never {},
        }
    }

    /// Checks the service, declares its queues, and begins to handle what they receive. From here on its
    /// queues get what is published.
    ///
    /// # Errors
    /// As [`run`](Self::run), before anything is handled.
    pub async fn start(self, bus: &Bus) -> Result<Running> {
        let bus = bus.clone().with_source(self.name.clone());
        let topology = self.topology()?;
        let unbindings = self.unbindings()?;
        let Self {
            name,
            state,
            queues,
            layers,
            observer,
            deadline,
        } = self;
        if queues.is_empty() {
            return Err(checks::setup(format!(
                "service `{name}` has no queue; add `.queue(Queue::new(…))`"
            )));
        }
        let ready = ready(&name, &state, queues, &layers, &bus)?;
        bus.transport().declare(&topology).await?;
        for removal in &unbindings {
            bus.transport().remove(removal).await?;
        }
        let mut stops = Stops::default();
        let mut subscribed = Vec::with_capacity(ready.len());
        // All or nothing: a queue that cannot be consumed ends the start before anything is handled.
        for queue in ready {
            let subscription = bus.transport().consume(&queue.spec).await?;
            stops.add_reader(subscription.stop.clone());
            subscribed.push((queue, subscription));
        }
        let mut tasks = JoinSet::new();
        for (queue, subscription) in subscribed {
            tracing::info!(target: "switchboard", service = %name, queue = %queue.spec.name, "handling deliveries");
            let (bus, observer) = (bus.clone(), observer.clone());
            consumer::spawn(
                queue,
                subscription,
                name.clone(),
                bus,
                observer,
                &stops,
                &mut tasks,
            );
        }
        Ok(Running {
            tasks,
            stops,
            deadline,
        })
    }

    fn unbindings(&self) -> Result<Vec<Removal>> {
        let mut removals = Vec::new();
        for (settings, _) in &self.queues {
            for (exchange, pattern) in &settings.unbindings {
                let (queue, binding) = (settings.name.parse()?, Binding::new(exchange, pattern)?);
                removals.push(Removal::Binding { queue, binding });
            }
        }
        Ok(removals)
    }
}

/// Makes the queues ready, or says what is wrong with the first that is not.
fn ready<S>(
    service: &str,
    state: &Arc<S>,
    queues: Vec<(QueueSettings, Vec<Registered<S>>)>,
    layers: &[ServiceLayer],
    bus: &Bus,
) -> Result<Vec<ReadyQueue>> {
    let mut names = HashSet::new();
    let mut ready = Vec::with_capacity(queues.len());
    for (settings, handlers) in queues {
        let spec = checks::spec(&settings, service)?;
        if !names.insert(spec.name.clone()) {
            let text = format!(
                "service `{service}` has two queues named `{}`; give their handlers to one",
                spec.name
            );
            return Err(checks::setup(text));
        }
        let queue = checks::ready(&settings, spec, handlers, state, layers)?;
        // After what is wrong on every backend.
        checks::capabilities(&queue.spec, bus.capabilities())?;
        checks::beside_the_spec(&settings, bus.capabilities())?;
        ready.push(queue);
    }
    Ok(ready)
}

impl<S> fmt::Debug for Service<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues: Vec<_> = self
            .queues
            .iter()
            .map(|(settings, _)| &settings.name)
            .collect();
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("queues", &queues)
            .finish_non_exhaustive()
    }
}

/// A service that runs. Made by [`Service::start`]. Dropping it without [`shutdown`](Self::shutdown) is a
/// crash, as far as the broker sees.
#[derive(Debug)]
#[must_use = "dropping a running service is a crash, as far as the broker sees"]
pub struct Running {
    tasks: JoinSet<Result<()>>,
    stops: Stops,
    deadline: Duration,
}

/// How long tasks may take to give back what they hold after they were told to stop at once.
const GIVE_BACK: Duration = Duration::from_secs(10);

impl Running {
    /// Tells the service to stop: it takes nothing more, gives back what has not been started, and finishes
    /// what has, until its shutdown deadline.
    pub fn stop(&self) {
        self.stops.stop();
    }

    /// Tells the service to stop at once: what is in flight goes back too.
    pub fn stop_now(&self) {
        self.stops.stop_now();
    }

    /// Stops the service and waits until it has ended.
    ///
    /// # Errors
    /// What ended one of its queues.
    pub async fn shutdown(mut self) -> Result<()> {
        self.stop();
        self.join().await
    }

    /// Waits until the service has ended: because it was stopped, or because a queue failed for good, which
    /// stops the others.
    ///
    /// # Errors
    /// What ended one of its queues.
    pub async fn join(&mut self) -> Result<()> {
        let (stops, deadline) = (self.stops.clone(), self.deadline);
        let mut late = pin!(async move {
            stops.stop.cancelled().await;
            tokio::select! {
                () = tokio::time::sleep(deadline) => stops.stop_now(),
                () = stops.stop_now.cancelled() => {}
            }
            tokio::time::sleep(GIVE_BACK).await;
        });
        let mut result = Ok(());
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.tasks.join_next() => ended,
                () = &mut late => {
                    // The broker does not answer. It gives to others what was not given back.
                    self.tasks.abort_all();
                    return result.and(Err(Error::retryable(
                        ErrorKind::Timeout,
                        "the broker did not take back in time what was in flight; it comes back after the lease",
                    )));
                }
            };
            let Some(ended) = ended else { return result };
            if let Err(error) = ended.unwrap_or_else(|error| Err(task_failed(&error))) {
                tracing::error!(target: "switchboard", %error, "a queue failed for good; the service stops");
                self.stop();
                result = result.and(Err(error));
            }
        }
    }
}

fn task_failed(error: &JoinError) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("a task of the service ended: {error}"),
    )
}
