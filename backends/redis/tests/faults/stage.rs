//! What a fault is tried on: a Redis, a line to it that breaks, and names of the test's own.

use std::{
    env,
    ops::RangeInclusive,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use event_conformance::{
    Broker, CaseResult, Consumer, Context, Failure, Fixture, Ledger, Proxy, Seen, Setup,
    orders::order,
};
use event_core::{Bus, Delivery, Transport};
use event_redis::RedisTransport;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, aio::MultiplexedConnection};
use tokio::{sync::Mutex, time::timeout};

/// A Redis with a line that breaks, for one test.
pub(crate) struct Stage {
    /// Its processes reach the server by the proxy.
    pub(crate) cx: Context,
    /// Its processes reach the server directly. They use the same names.
    pub(crate) direct: Context,
    pub(crate) proxy: Arc<Proxy>,
    url: String,
    prefix: String,
}

struct Line(String);

#[async_trait]
impl Fixture for Line {
    async fn connect(&self) -> event_core::Result<Arc<dyn Transport>> {
        Ok(Arc::new(RedisTransport::connect(&self.0).await?))
    }
}

/// Tries something on the Redis that all tests share, with a heartbeat of a second.
pub(crate) async fn on_redis(
    name: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    let shared = Shared::find().await?;
    try_on(shared.url(), name, test).await
}

/// Tries something on a Redis of its own, which `prepare` may change before anybody is connected.
pub(crate) async fn on_own_redis(
    name: &str,
    prepare: impl AsyncFnOnce(Admin) -> CaseResult,
    test: impl AsyncFnOnce(&Stage, &Broker) -> CaseResult,
) -> CaseResult {
    let broker = Broker::start("redis").await?;
    prepare(Admin::connect(broker.url()).await?).await?;
    let test = async |at: &Stage| test(at, &broker).await;
    try_on(broker.url(), name, test).await
}

/// For a server that is as it is.
pub(crate) async fn nothing(_: Admin) -> CaseResult {
    Ok(())
}

async fn try_on(url: &str, name: &str, test: impl AsyncFnOnce(&Stage) -> CaseResult) -> CaseResult {
    let at = Stage::open(url, name).await?;
    let limit = length(Duration::from_secs(120));
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
    /// The server that `scripts/test` started, or one that ends with the last test that uses it.
    async fn find() -> CaseResult<Self> {
        static STARTED: Mutex<Weak<Broker>> = Mutex::const_new(Weak::new());
        if let Ok(url) = env::var("REDIS_URL") {
            return Ok(Self::Given(url));
        }
        let mut started = STARTED.lock().await;
        if let Some(broker) = started.upgrade() {
            return Ok(Self::Started(broker));
        }
        let broker = Arc::new(Broker::start("redis").await?);
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

/// The lease of the queues, unless a test says otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

impl Stage {
    async fn open(url: &str, name: &str) -> CaseResult<Self> {
        let address = url.trim_start_matches("redis://");
        let address = address.split(['/', '?']).next().unwrap_or(address);
        let address = address.rsplit('@').next().unwrap_or(address);
        let proxy = Arc::new(Proxy::start(address).await?);
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        // Two runs on one server do not begin in one millisecond.
        let prefix = format!("t{:x}.{name}.", since.as_millis());
        let options = "?heartbeat=1";
        let (line, straight) = (proxy.url(url) + options, url.to_owned() + options);
        let setup = Setup::new(move |_| Line(line.clone())).with_lease(LEASE);
        let cx = Context::open(&setup, &prefix).await?;
        let setup = Setup::new(move |_| Line(straight.clone())).with_lease(LEASE);
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

    /// What another process of a test needs to have the same names.
    pub(crate) fn to_text(&self) -> String {
        format!("{} {}", self.url, self.prefix)
    }

    /// What that process has.
    pub(crate) async fn from_text(text: &str) -> CaseResult<Context> {
        let (url, prefix) = text.split_once(' ').unwrap_or((text, ""));
        let url = url.to_owned();
        let setup = Setup::new(move |_| Line(url.clone())).with_lease(LEASE);
        Context::open(&setup, prefix).await
    }

    /// What a queue or an exchange is called on the server.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A key of a queue on the exchange `order`: its `stream`, `delayed`, `waiting`, `dead` or `suspects`.
    pub(crate) fn key(&self, kind: &str, queue: &str) -> String {
        format!(
            "switchboard:{{{}}}:{kind}:{}",
            self.name("order"),
            self.name(queue)
        )
    }

    /// A connection without the framework.
    pub(crate) async fn admin(&self) -> CaseResult<Admin> {
        Admin::connect(&self.url).await
    }

    /// Waits until the process is connected again, which a publish shows.
    pub(crate) async fn is_up(&self, bus: &Bus) -> CaseResult {
        let up = || async {
            let probe = event_conformance::orders::raw("probe", "probe", "{}")?;
            Ok(bus.publish(&probe).await.is_ok())
        };
        self.cx.until("a publish to succeed again", up).await
    }

    /// A consumer of `billing_order` whose line is the proxy's, with this many orders in its hands.
    pub(crate) async fn holds(&self, count: u64) -> CaseResult<(Consumer, Vec<Delivery>)> {
        let spec = self.cx.spec("billing_order", &["order.*.submit"])?;
        self.direct.declare(&[&spec]).await?;
        let mut consumer = self.cx.consume(&self.cx.process().await?, &spec).await?;
        publish(self.direct.bus(), 1..=count).await?;
        let held = consumer.take(usize::try_from(count)?).await?;
        Ok((consumer, held))
    }
}

/// Asks and changes the server without the framework.
#[derive(Clone)]
pub(crate) struct Admin(MultiplexedConnection);

impl Admin {
    pub(crate) async fn connect(url: &str) -> CaseResult<Self> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = Client::open(url)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Self(connection.await?))
    }

    /// Asks words with spaces between them.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &str) -> CaseResult<T> {
        let mut cmd = Cmd::new();
        for word in words.split(' ') {
            cmd.arg(word);
        }
        Ok(cmd.query_async(&mut self.0.clone()).await?)
    }

    /// Asks, and only wants it done.
    pub(crate) async fn tell(&self, words: &str) -> CaseResult {
        self.ask::<redis::Value>(words).await.map(drop)
    }

    /// Sends a command whose words have spaces in them.
    pub(crate) async fn run(&self, cmd: &Cmd) -> CaseResult {
        cmd.exec_async(&mut self.0.clone()).await?;
        Ok(())
    }

    /// A number from what the server says about itself.
    pub(crate) async fn info(&self, section: &str, field: &str) -> CaseResult<u64> {
        let info: String = self.ask(&format!("INFO {section}")).await?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|number| number.trim().parse().ok());
        number.ok_or_else(|| Failure::new(format!("the server does not say `{field}`")))
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
