//! The bus: one broker as an application sees it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;
use tokio::{sync::watch, time::Instant};

use crate::{
    address::Address,
    capabilities::{Capabilities, Capability},
    checks,
    counters::{Counters, Tally, add},
    dead_letter::DeadLetterQueue,
    error::{ErrorKind, Result},
    id::IdMaker,
    isolation::Process,
    message::{Message, unix_micros},
    once::Once,
    outgoing::IntoOutgoing,
    publish_layer::{PublishLayer, PublishLayers, PublishStack},
    publishing::{PublishAll, Publishing},
    topology::{Binding, Removal, Topology},
    transport::{ConnectionState, Receipt, Transport},
};

/// One broker as an application sees it: publishes events, carries services, knows its dead letters.
///
/// Cheap to clone; clones share the connection and the counters. The `with_…` methods give a bus that
/// shares both and differs in one setting.
#[derive(Clone)]
pub struct Bus {
    transport: Arc<dyn Transport>,
    layers: PublishLayers,
    tally: Arc<Tally>,
    unroutable: Arc<Once>,
    process: Process,
    source: SmolStr,
    deadline: Duration,
}

impl Bus {
    /// A bus over a transport. Applications call `switchboard::connect` with a URL.
    pub fn new(transport: impl Transport) -> Self {
        Self::from_arc(Arc::new(transport))
    }

    /// A bus over a transport that is shared with someone else.
    pub fn from_arc(transport: Arc<dyn Transport>) -> Self {
        Self {
            transport,
            layers: PublishLayers::default(),
            tally: Arc::default(),
            unroutable: Arc::default(),
            process: Process::this(),
            source: executable(),
            deadline: Duration::from_secs(30),
        }
    }

    /// Says who publishes: the `source` of the envelope. By default the name of the executable; events that
    /// a handler returns carry the name of their service.
    pub fn with_source(mut self, source: impl Into<SmolStr>) -> Self {
        self.source = source.into();
        self
    }

    /// How long a publish may take before it fails with [`ErrorKind::Timeout`]. 30 seconds by default.
    pub fn with_publish_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self.layers.rebuild(&self.transport, deadline);
        self
    }

    /// Counts this bus to another process when it comes to what runs alone; see [`Process`].
    pub fn with_process(mut self, process: Process) -> Self {
        self.process = process;
        self
    }

    /// Wraps publishing in a [`tower::Layer`], outside of those added before. It sees whole batches:
    /// `tower::Service<Vec<Message>, Response = Vec<Result<Receipt>>>`.
    ///
    /// An error of the layer is the result of every message of its batch.
    pub fn layer<L: PublishLayer + Clone + Send + Sync + 'static>(mut self, layer: L) -> Self {
        self.layers.push(layer);
        self.layers.rebuild(&self.transport, self.deadline);
        self
    }

    /// Publishes an event; await it. `Ok` means that the broker has it.
    ///
    /// The event is encoded by this call, so that it is not borrowed while waiting.
    pub fn publish<'a>(&'a self, event: impl IntoOutgoing) -> Publishing<'a> {
        Publishing::new(self, event.into_outgoing())
    }

    /// Publishes many events as one batch; await it for a result for each, in order.
    ///
    /// An event that cannot be encoded is an error in its own place; the others are published.
    pub fn publish_all<'a, I>(&'a self, events: I) -> PublishAll<'a>
    where
        I: IntoIterator,
        I::Item: IntoOutgoing,
    {
        PublishAll::new(self, events)
    }

    /// What happened on this bus and its clones so far.
    pub fn counters(&self) -> Counters {
        self.tally.read()
    }

    /// The state of the connection, now and from now on.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.transport.state()
    }

    /// What the backend can do.
    pub fn capabilities(&self) -> &Capabilities {
        self.transport.capabilities()
    }

    /// Declares and removes exchanges, queues and bindings without running a service.
    pub fn topology(&self) -> BusTopology<'_> {
        BusTopology { bus: self }
    }

    /// The dead letters of a queue.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the queue does not exist.
    pub async fn dead_letters(&self, queue: &str) -> Result<DeadLetterQueue> {
        DeadLetterQueue::open(self, queue).await
    }

    /// Flushes what is under way, within the publish deadline, and closes the connection for all clones.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when something was still under way at the deadline.
    pub async fn close(&self) -> Result<()> {
        self.transport.close(Instant::now() + self.deadline).await
    }

    /// The transport below, for tools and tests.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    pub(crate) fn layers(&self) -> Option<&PublishStack> {
        self.layers.stack()
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Gives messages what only the bus knows, with one look at the clock for all.
    pub(crate) fn stamp<'m>(&self, messages: impl Iterator<Item = &'m mut Message>) {
        let now = unix_micros(SystemTime::now());
        let ids = IdMaker::at(now);
        for message in messages {
            message.stamp(|| ids.next(), now, &self.source);
        }
    }

    /// Counts what became of a batch, and warns about what went nowhere.
    pub(crate) fn account<'r>(
        &self,
        results: impl Iterator<Item = &'r Result<Receipt>>,
        address: impl Fn(usize) -> Option<&'r Address>,
    ) {
        let (mut published, mut unroutable) = (0, 0);
        for (at, result) in results.enumerate() {
            match result {
                Ok(receipt) => {
                    published += 1;
                    if receipt.queues == Some(0) {
                        unroutable += 1;
                        self.warn_unroutable(address(at));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unroutable => unroutable += 1,
                Err(_) => {}
            }
        }
        add(&self.tally.published, published);
        add(&self.tally.unroutable, unroutable);
    }

    /// Warns once for each address.
    fn warn_unroutable(&self, address: Option<&Address>) {
        if let Some(address) = address.map(Address::to_string)
            && self.unroutable.first(&address)
        {
            tracing::warn!(
                target: "switchboard",
                "published to {address}, and no queue is bound for it: the message went nowhere; \
                 declare the queue first, or publish it `mandatory`"
            );
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("transport", &self.transport)
            .field("source", &self.source)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

fn executable() -> SmolStr {
    let path = std::env::current_exe().ok();
    let name = path
        .as_deref()
        .and_then(|path| path.file_stem())
        .map(|name| name.to_string_lossy());
    name.map_or_else(|| SmolStr::new_static("switchboard"), SmolStr::new)
}

/// What exists on the broker of a bus, to be changed by explicit calls. Made by [`Bus::topology`].
#[derive(Clone, Copy, Debug)]
pub struct BusTopology<'a> {
    bus: &'a Bus,
}

impl BusTopology<'_> {
    /// Declares what is not there yet, as starting a service does.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when something exists with other arguments;
    /// [`ErrorKind::Unsupported`] when the backend cannot do something.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        for queue in &topology.queues {
            checks::capabilities(queue, self.bus.capabilities())?;
        }
        self.bus.transport.declare(topology).await
    }

    /// Removes one binding. What is not there counts as removed.
    ///
    /// # Errors
    /// A name is not legal, or the broker did not answer.
    pub async fn unbind(&self, queue: &str, exchange: &str, pattern: &str) -> Result<()> {
        let of = format!("queue `{queue}`");
        self.bus
            .capabilities()
            .require(Capability::Unbind, "unbind", &of)?;
        let (queue, binding) = (queue.parse()?, Binding::new(exchange, pattern)?);
        self.bus
            .transport
            .remove(&Removal::Binding { queue, binding })
            .await
    }

    /// Removes the bindings that the queues of a topology have and the topology does not name.
    ///
    /// Another version of the service may need them: call it when no older one runs.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the broker cannot list bindings.
    pub async fn prune(&self, topology: &Topology) -> Result<()> {
        for queue in &topology.queues {
            let of = format!("queue `{}`", queue.name);
            self.bus
                .capabilities()
                .require(Capability::Prune, "prune", &of)?;
            let removal = Removal::OtherBindings {
                queue: queue.name.clone(),
                keep: queue.bindings.clone(),
            };
            self.bus.transport.remove(&removal).await?;
        }
        Ok(())
    }

    /// Deletes a queue with what it holds, its waiting retries and its dead letters.
    ///
    /// # Errors
    /// The name is not legal, or the broker did not answer.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        let of = format!("queue `{queue}`");
        self.bus
            .capabilities()
            .require(Capability::DeleteQueue, "delete_queue", &of)?;
        self.bus
            .transport
            .remove(&Removal::Queue(queue.parse()?))
            .await
    }
}
