//! What a case is given: a broker, names of its own, and time limits.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use event_core::{
    Binding, Bus, Capability, ExchangeName, Message, Process, Queue, QueueSpec, Receipt, Removal,
    RetryPolicy, RoutingKey, Running, Service, Support, Topology, Transport,
};
use tokio::time::{Instant, timeout};

use crate::{
    consumer::Consumer,
    desk::Desk,
    failure::{CaseResult, Failure},
    fixture::{Fixture, Impossible},
    inbox::Inbox,
    orders::OrderSubmitted,
    scope::Scope,
    setup::Setup,
};

/// What a case is given: a broker, names of its own, and time limits.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    setup: Setup,
    fixture: Box<dyn Fixture>,
    scope: Scope,
    bus: Bus,
    messages: AtomicU64,
}

impl Context {
    /// Opens one for a test that is not a case of the suite. The prefix, such as `fault-3.`, is put before all names
    /// on the broker; nothing else there may begin with it.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn open(setup: &Setup, prefix: &str) -> CaseResult<Self> {
        let fixture = setup.open(prefix);
        let scope = Scope::new(prefix);
        let bus = connect(setup, &*fixture, &scope).await?;
        Ok(Self(Arc::new(Inner {
            setup: setup.clone(),
            fixture,
            scope,
            bus,
            messages: AtomicU64::new(1),
        })))
    }

    /// The case's own connection.
    pub fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// Another process: a bus on a connection of its own.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn process(&self) -> CaseResult<Bus> {
        connect(&self.0.setup, &*self.0.fixture, &self.0.scope).await
    }

    /// Another process, whose transport is wrapped in something that interferes.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn process_over(
        &self,
        wrap: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
    ) -> CaseResult<Bus> {
        let bus = self.process().await?;
        let wrapped = wrap(bus.transport().clone());
        Ok(Bus::from_arc(wrapped).with_process(Process::separate()))
    }

    /// Whether the backend can do it, natively or not.
    pub fn can(&self, capability: Capability) -> bool {
        let support = self.bus().capabilities().support(capability);
        !matches!(support, Support::Refused(_))
    }

    /// The lease that the cases' queues have: short, so that a crash costs little time.
    pub fn lease(&self) -> Duration {
        self.0.setup.lease
    }

    /// How long a case waits for something that must happen.
    pub fn patience(&self) -> Duration {
        self.0.setup.patience
    }

    /// How long a case waits for something that must not happen.
    pub fn quiet(&self) -> Duration {
        self.0.setup.quiet
    }

    /// Long enough for what a crashed consumer held to come back, and for what comes back wrongly to be seen.
    pub fn beyond_the_lease(&self) -> Duration {
        self.lease() * 2 + self.quiet()
    }

    /// A desk at which everything ends well.
    pub fn desk(&self) -> Desk {
        Desk::new(self.patience(), self.quiet())
    }

    /// An inbox for handlers that are functions.
    pub fn inbox<T>(&self) -> Inbox<T> {
        Inbox::new(self.patience())
    }

    /// A queue bound to `order.*.submit`, whose only handler is the desk, named `bill`.
    pub fn queue(&self, name: &str, desk: &Desk) -> Queue {
        self.new_queue(name)
            .bind("order", "order.*.submit")
            .lease(self.lease())
            .handle(desk.takes::<OrderSubmitted>())
            .named("bill")
    }

    /// A queue without bindings and handlers, with the default policy as far as the backend can wait.
    pub fn new_queue<S>(&self, name: &str) -> Queue<S> {
        Queue::new(name).retry(self.policy())
    }

    /// The default policy, or nothing that waits for a backend that refuses delayed retries.
    pub fn policy(&self) -> RetryPolicy {
        if self.can(Capability::DelayedRetry) {
            RetryPolicy::default()
        } else {
            RetryPolicy::never().unknown(Duration::ZERO)
        }
    }

    /// Starts a service named `billing` with one queue.
    ///
    /// # Errors
    /// Those of the start.
    pub async fn start(&self, bus: &Bus, queue: Queue) -> CaseResult<Running> {
        Ok(Service::new("billing").queue(queue).start(bus).await?)
    }

    /// A queue for the transport, bound to these patterns of the exchange `order`.
    ///
    /// # Errors
    /// A name is not legal.
    pub fn spec(&self, name: &str, patterns: &[&str]) -> CaseResult<QueueSpec> {
        let mut spec = QueueSpec::new(name.parse()?);
        spec.lease = self.lease();
        spec.consumer = "conformance".into();
        for pattern in patterns {
            spec.bindings.push(Binding::new("order", pattern)?);
        }
        Ok(spec)
    }

    /// Declares queues for the transport, with the exchanges that they are bound to.
    ///
    /// # Errors
    /// Those of the declaration.
    pub async fn declare(&self, queues: &[&QueueSpec]) -> CaseResult {
        Ok(self.bus().topology().declare(&topology(queues)).await?)
    }

    /// A message for the exchange `order`, for the transport. Its id is its place in the case, as text.
    ///
    /// # Errors
    /// The key is not legal.
    pub fn message(&self, key: &str, payload: impl Into<event_core::Bytes>) -> CaseResult<Message> {
        let id = format!("message-{}", self.0.messages.fetch_add(1, Relaxed));
        let (exchange, key) = (ExchangeName::new("order")?, RoutingKey::new(key)?);
        Ok(Message::new(exchange, key, payload).with_id(&*id))
    }

    /// Publishes messages by the transport, without the framework, and makes sure that each was taken.
    ///
    /// # Errors
    /// One was not.
    pub async fn send(&self, batch: Vec<Message>) -> CaseResult<Vec<Receipt>> {
        let deadline = Instant::now() + self.patience() / 2;
        let results = self.bus().transport().publish(batch, deadline).await;
        Ok(results.into_iter().collect::<Result<_, _>>()?)
    }

    /// Consumes a queue without the framework.
    ///
    /// # Errors
    /// The queue cannot be consumed.
    pub async fn consume(&self, bus: &Bus, queue: &QueueSpec) -> CaseResult<Consumer> {
        Ok(Consumer::start(bus, queue, self.patience(), self.quiet()).await?)
    }

    /// Declares a queue bound to `order.*.submit` and consumes it without the framework.
    ///
    /// # Errors
    /// The queue cannot be declared or consumed.
    pub async fn consumer(&self, name: &str) -> CaseResult<Consumer> {
        let spec = self.spec(name, &["order.*.submit"])?;
        self.declare(&[&spec]).await?;
        self.consume(self.bus(), &spec).await
    }

    /// Makes sure that a queue bound to `order.*.submit` has nothing for a new consumer, neither now nor when
    /// a lease has passed.
    ///
    /// # Errors
    /// Something came.
    pub async fn nothing_is_left(&self, queue: &str) -> CaseResult {
        let spec = self.spec(queue, &["order.*.submit"])?;
        let mut consumer = self.consume(&self.process().await?, &spec).await?;
        consumer.gets_nothing_for(self.beyond_the_lease()).await
    }

    /// Waits for something that must happen.
    ///
    /// # Errors
    /// It did not within the patience of the set-up.
    #[track_caller]
    pub fn within<F: Future + Send>(
        &self,
        what: &str,
        future: F,
    ) -> impl Future<Output = CaseResult<F::Output>> + Send + use<F> {
        let failure = Failure::new(format!("waited in vain: {what}"));
        let patience = self.patience();
        async move { timeout(patience, future).await.map_err(|_| failure) }
    }

    /// Waits until a question is answered with yes, asking again after a moment: for what cannot be waited
    /// for, such as what a queue's dead letters are.
    ///
    /// # Errors
    /// It was not within the patience of the set-up, or asking failed.
    #[track_caller]
    pub fn until<F, Fut>(
        &self,
        what: &str,
        ask: F,
    ) -> impl Future<Output = CaseResult> + Send + use<F, Fut>
    where
        F: Fn() -> Fut + Send,
        Fut: Future<Output = CaseResult<bool>> + Send,
    {
        let asking = async move {
            // Often at first, for what takes a moment; then seldom, for what may never come.
            let mut pause = Duration::from_millis(1);
            while !ask().await? {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(250));
            }
            Ok(())
        };
        let asking = self.within(what, asking);
        async move { asking.await? }
    }

    /// The dead letters of a queue, as soon as there are this many.
    ///
    /// # Errors
    /// There were not within the patience of the set-up.
    #[track_caller]
    pub fn dead_letters(
        &self,
        queue: &str,
        count: usize,
    ) -> impl Future<Output = CaseResult<Vec<event_core::DeadLetter>>> + Send + use<> {
        let (cx, queue) = (self.clone(), queue.to_owned());
        let waiting = self.until(&format!("{count} dead letters in `{queue}`"), {
            let (cx, queue) = (cx.clone(), queue.clone());
            move || {
                let (cx, queue) = (cx.clone(), queue.clone());
                async move {
                    let letters = cx.bus().dead_letters(&queue).await?;
                    Ok(letters.list(count).await?.len() >= count)
                }
            }
        });
        async move {
            waiting.await?;
            let letters = cx.bus().dead_letters(&queue).await?;
            // More than asked for, so that one too many is seen.
            Ok(letters.list(count + 10).await?)
        }
    }

    /// The largest payload that the broker takes.
    ///
    /// # Errors
    /// The fixture does not know: the case is not tried.
    pub fn max_message(&self) -> CaseResult<usize> {
        let unknown = "this fixture does not say how large a message may be";
        self.0
            .fixture
            .max_message()
            .ok_or_else(|| Failure::not_tried(unknown))
    }

    /// Cuts all connections; they connect again.
    ///
    /// # Errors
    /// The fixture cannot do it: the case is not tried.
    pub async fn disconnect(&self) -> CaseResult {
        self.0.fixture.disconnect().await.map_err(not_tried)
    }

    /// Makes the broker silent, or lets it answer again.
    ///
    /// # Errors
    /// The fixture cannot do it: the case is not tried.
    pub async fn outage(&self, on: bool) -> CaseResult {
        self.0.fixture.outage(on).await.map_err(not_tried)
    }

    /// Removes every queue that was declared. The suite does it after each case.
    ///
    /// # Errors
    /// The broker cannot be reached, or does not remove them.
    pub async fn clean_up(&self) -> CaseResult {
        // A case that ended in an outage must not leave the broker in it. Not every fixture can.
        let _ = self.0.fixture.outage(false).await;
        if !self.can(Capability::DeleteQueue) {
            return Ok(());
        }
        let transport = self.0.setup.connect(&*self.0.fixture).await?;
        for queue in self.0.scope.declared() {
            let removal = Removal::Queue(queue);
            self.within("to delete a queue of the case", transport.remove(&removal))
                .await??;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("bus", self.bus())
            .finish_non_exhaustive()
    }
}

async fn connect(setup: &Setup, fixture: &dyn Fixture, scope: &Scope) -> CaseResult<Bus> {
    let transport = setup.connect(fixture).await?;
    Ok(Bus::from_arc(scope.around(transport))
        .with_process(Process::separate())
        .with_publish_deadline(setup.patience / 2))
}

/// The topology of queues for the transport, with the exchanges that they are bound to.
pub fn topology(queues: &[&QueueSpec]) -> Topology {
    let mut topology = Topology::default();
    for queue in queues {
        for binding in &queue.bindings {
            if !topology.exchanges.contains(&binding.exchange) {
                topology.exchanges.push(binding.exchange.clone());
            }
        }
        topology.queues.push((*queue).clone());
    }
    topology
}

fn not_tried(Impossible(why): Impossible) -> Failure {
    Failure::not_tried(why)
}
