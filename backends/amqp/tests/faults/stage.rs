//! What a fault is tried on: a RabbitMQ, a line to it that breaks, and names of the test's own.

use std::{
    env,
    ops::RangeInclusive,
    path::Path,
    process::Command,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use event_amqp::AmqpTransport;
use event_conformance::{
    Broker, CaseResult, Context, Failure, Fixture, Ledger, Proxy, Seen, Setup, orders::order,
};
use event_core::{Bus, Transport};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use tokio::{sync::Mutex, time::timeout};

/// A RabbitMQ with a line that breaks, for one test.
pub(crate) struct Stage {
    /// Its processes reach the broker by the proxy.
    pub(crate) cx: Context,
    /// Its processes reach the broker directly. They use the same names.
    pub(crate) direct: Context,
    pub(crate) proxy: Arc<Proxy>,
    url: String,
    prefix: String,
}

struct Line(String);

#[async_trait]
impl Fixture for Line {
    async fn connect(&self) -> event_core::Result<Arc<dyn Transport>> {
        Ok(Arc::new(AmqpTransport::connect(&self.0).await?))
    }
}

/// Tries something on the RabbitMQ that all tests share. The options are those of a URL.
pub(crate) async fn on_rabbitmq(
    name: &str,
    options: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    let shared = Shared::find().await?;
    try_on(shared.url(), name, options, test).await
}

/// Tries something on a RabbitMQ of its own, which `prepare` may change before anybody is connected.
pub(crate) async fn on_own_rabbitmq(
    name: &str,
    prepare: impl AsyncFnOnce(&Broker) -> CaseResult,
    test: impl AsyncFnOnce(&Stage, &Broker) -> CaseResult,
) -> CaseResult {
    on_own_rabbitmq_with(name, "", prepare, test).await
}

/// The same, with options of a URL.
pub(crate) async fn on_own_rabbitmq_with(
    name: &str,
    options: &str,
    prepare: impl AsyncFnOnce(&Broker) -> CaseResult,
    test: impl AsyncFnOnce(&Stage, &Broker) -> CaseResult,
) -> CaseResult {
    let broker = Broker::start("rabbitmq").await?;
    prepare(&broker).await?;
    let test = async |at: &Stage| test(at, &broker).await;
    try_on(broker.url(), name, options, test).await
}

async fn try_on(
    url: &str,
    name: &str,
    options: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    let at = Stage::open(url, name, options).await?;
    let limit = length(Duration::from_secs(180));
    let result = timeout(limit, test(&at)).await;
    at.proxy.silence(false);
    at.proxy.silence_replies(false);
    at.proxy.refuse(false);
    for cx in [&at.direct, &at.cx] {
        let cleaned = cx.within("to delete the queues", cx.clean_up()).await;
        // What the test says is more important.
        if matches!(result, Ok(Ok(()))) {
            cleaned??;
        }
    }
    result.unwrap_or_else(|_| Err(Failure::new(format!("it did not end within {limit:?}"))))
}

/// A length of time, or a number of times, that `scripts/soak` multiplies.
pub(crate) fn length<T: std::ops::Mul<u32>>(short: T) -> T::Output {
    let factor = env::var("SWITCHBOARD_SOAK").ok();
    short * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

enum Shared {
    Given(String),
    Started(Arc<Broker>),
}

impl Shared {
    /// The broker that `scripts/test` started, or one that ends with the last test that uses it.
    async fn find() -> CaseResult<Self> {
        static STARTED: Mutex<Weak<Broker>> = Mutex::const_new(Weak::new());
        if let Ok(url) = env::var("RABBITMQ_URL") {
            return Ok(Self::Given(url));
        }
        let mut started = STARTED.lock().await;
        if let Some(broker) = started.upgrade() {
            return Ok(Self::Started(broker));
        }
        let broker = Arc::new(Broker::start("rabbitmq").await?);
        *started = Arc::downgrade(&broker);
        Ok(Self::Started(broker))
    }

    fn url(&self) -> &str {
        match self {
            Self::Given(url) => url,
            Self::Started(broker) => broker.url(),
        }
    }
}

impl Stage {
    async fn open(url: &str, name: &str, options: &str) -> CaseResult<Self> {
        let (address, _) = url
            .trim_start_matches("amqp://")
            .split_once(['/', '?'])
            .unwrap_or((url.trim_start_matches("amqp://"), ""));
        let address = address.rsplit('@').next().unwrap_or(address);
        let proxy = Arc::new(Proxy::start(address).await?);
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        // Two runs on one broker do not begin in one millisecond.
        let prefix = format!("t{:x}.{name}.", since.as_millis());
        let (line, straight) = (proxy.url(url) + options, url.to_owned() + options);
        let setup = Setup::new(move |_| Line(line.clone()));
        let cx = Context::open(&setup, &prefix).await?;
        let setup = Setup::new(move |_| Line(straight.clone()));
        let direct = Context::open(&setup, &prefix).await?;
        let url = url.to_owned();
        Ok(Self {
            cx,
            direct,
            proxy,
            url,
            prefix,
        })
    }

    /// Where another process finds the broker and the queues.
    pub(crate) fn to_text(&self) -> String {
        format!("{} {}", self.url, self.prefix)
    }

    /// What that process has.
    pub(crate) async fn from_text(text: &str) -> CaseResult<Context> {
        let (url, prefix) = text.split_once(' ').unwrap_or((text, ""));
        let url = url.to_owned();
        Context::open(&Setup::new(move |_| Line(url.clone())), prefix).await
    }

    /// What a queue is called on the broker.
    pub(crate) fn name(&self, queue: &str) -> String {
        format!("{}{queue}", self.prefix)
    }

    /// A connection without the framework.
    pub(crate) async fn admin(&self) -> CaseResult<Admin> {
        let options = ConnectionProperties::default();
        let connection = Connection::connect(&self.url, options).await?;
        Ok(Admin(connection))
    }

    /// Waits until the process is connected again, which a publish shows.
    pub(crate) async fn is_up(&self, bus: &Bus) -> CaseResult {
        let up = || async {
            let probe = event_conformance::orders::raw("probe", "probe", "{}")?;
            Ok(bus.publish(&probe).await.is_ok())
        };
        self.cx.until("a publish to succeed again", up).await
    }
}

/// Asks and changes the broker without the framework.
pub(crate) struct Admin(Connection);

impl Admin {
    /// A channel of its own for each request, since an error closes it.
    pub(crate) async fn channel(&self) -> CaseResult<Channel> {
        Ok(self.0.create_channel().await?)
    }

    /// How many messages of a queue wait for a consumer.
    pub(crate) async fn ready(&self, queue: &str) -> CaseResult<u32> {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = self.channel().await?;
        let found = channel.queue_declare(queue.into(), options, FieldTable::default());
        let count = found.await?.message_count();
        channel.close(200, "done".into()).await?;
        Ok(count)
    }

    pub(crate) async fn delete(&self, queue: &str) -> CaseResult {
        let channel = self.channel().await?;
        let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await?;
        channel.close(200, "done".into()).await?;
        Ok(())
    }
}

/// Calls the server's own tool.
pub(crate) async fn ctl(broker: &Broker, arguments: &[&str]) -> CaseResult<String> {
    let installed = Path::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
    let tool = match installed.exists() {
        true => installed,
        false => Path::new("rabbitmqctl"),
    };
    let mut call = Command::new(tool);
    let node = format!("switchboard-{}@localhost", broker.port("amqp")?);
    call.args(["--node", &node]).args(arguments);
    // The cookie that says who may do this is in the home of the server.
    call.env("HOME", broker.folder());
    call.env("ERL_EPMD_PORT", broker.port("epmd")?.to_string());
    // A broker that is just being stopped is no reason to leave a file behind.
    call.env("ERL_CRASH_DUMP", "/dev/null");
    let output = tokio::task::spawn_blocking(move || call.output()).await??;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(said(&output.stdout)),
        false => Err(Failure::new(format!(
            "rabbitmqctl {arguments:?}: {}{}",
            said(&output.stdout),
            said(&output.stderr)
        ))),
    }
}

/// Publishes orders one after the other, each confirmed.
pub(crate) async fn publish(bus: &Bus, ids: RangeInclusive<u64>) -> CaseResult<Ledger> {
    let ledger = Ledger::new();
    let orders: Vec<_> = ids.map(order).collect();
    for result in ledger.publish_all(bus, &orders).await {
        result?;
    }
    Ok(ledger)
}

/// The numbers of what was handled to its end, in order, each once.
pub(crate) fn done(seen: &[Seen]) -> Vec<u64> {
    let ended = seen.iter().filter(|seen| seen.ended.is_some());
    let mut numbers: Vec<_> = ended.map(Seen::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
