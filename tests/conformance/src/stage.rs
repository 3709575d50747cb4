//! What a fault is tried on: a broker, a line to it that breaks, and names of the test's own.

use std::{
    env, fmt,
    ops::{Mul, RangeInclusive},
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use event_core::{Bus, Result, Transport};
use futures_util::future::BoxFuture;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    broker::Broker,
    context::Context,
    desk::Seen,
    failure::{CaseResult, Failure},
    fixture::Fixture,
    ledger::Ledger,
    orders::{order, raw},
    proxy::Proxy,
    setup::Setup,
};

type Connect = fn(String) -> BoxFuture<'static, Result<Arc<dyn Transport>>>;

/// Where the faults of one backend are tried: the broker that `scripts/test` started, or one that ends with the last
/// test that uses it, or one for a single test.
pub struct Stages {
    broker: &'static str,
    variable: &'static str,
    connect: Connect,
    lease: Option<Duration>,
    limit: Duration,
    started: Mutex<Weak<Broker>>,
}

enum Found {
    Given(String),
    Started(Arc<Broker>),
}

impl Stages {
    /// For the broker of this name in `scripts/brokers`, whose URL may stand in this variable, and to which this
    /// connects.
    pub const fn new(broker: &'static str, variable: &'static str, connect: Connect) -> Self {
        Self {
            broker,
            variable,
            connect,
            lease: None,
            limit: Duration::from_secs(180),
            started: Mutex::const_new(Weak::new()),
        }
    }

    /// With this lease for the queues of its tests, unless one says otherwise.
    pub const fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// With this limit for each test. 180 seconds by default.
    pub const fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Tries something on the broker that all tests share. The options are those of a URL.
    ///
    /// # Errors
    /// Those of the test, or it did not end in time.
    pub async fn shared(
        &self,
        name: &str,
        options: &str,
        test: impl AsyncFnOnce(&Stage) -> CaseResult,
    ) -> CaseResult {
        let found = self.find().await?;
        self.try_on(found.url(), name, options, test).await
    }

    /// Tries something on a broker of its own, which `prepare` may change before anybody is connected.
    ///
    /// # Errors
    /// Those of the test, or it did not end in time.
    pub async fn own(
        &self,
        name: &str,
        options: &str,
        prepare: impl AsyncFnOnce(&Broker) -> CaseResult,
        test: impl AsyncFnOnce(&Stage, &Broker) -> CaseResult,
    ) -> CaseResult {
        let broker = Broker::start(self.broker).await?;
        prepare(&broker).await?;
        let test = async |at: &Stage| test(at, &broker).await;
        self.try_on(broker.url(), name, options, test).await
    }

    /// What another process has, by [`Stage::to_text`].
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn from_text(&self, text: &str) -> CaseResult<Context> {
        let (url, prefix) = text.split_once(' ').unwrap_or((text, ""));
        self.context(url, prefix).await
    }

    /// A connection to a URL, with names that begin with a prefix.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn context(&self, url: &str, prefix: &str) -> CaseResult<Context> {
        Context::open(&self.setup(url.to_owned()), prefix).await
    }

    async fn try_on(
        &self,
        url: &str,
        name: &str,
        options: &str,
        test: impl AsyncFnOnce(&Stage) -> CaseResult,
    ) -> CaseResult {
        let at = self.open(url, name, options).await?;
        let limit = length(self.limit);
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

    async fn find(&self) -> CaseResult<Found> {
        if let Ok(url) = env::var(self.variable) {
            return Ok(Found::Given(url));
        }
        let mut started = self.started.lock().await;
        if let Some(broker) = started.upgrade() {
            return Ok(Found::Started(broker));
        }
        let broker = Arc::new(Broker::start(self.broker).await?);
        *started = Arc::downgrade(&broker);
        Ok(Found::Started(broker))
    }

    async fn open(&self, url: &str, name: &str, options: &str) -> CaseResult<Stage> {
        let proxy = Arc::new(Proxy::before(url).await?);
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        // Two processes may begin in one millisecond.
        let run = std::process::id();
        let prefix = format!("t{:x}p{run:x}.{name}.", since.as_millis());
        let line = self.setup(proxy.url(url) + options);
        let straight = self.setup(url.to_owned() + options);
        Ok(Stage {
            cx: Context::open(&line, &prefix).await?,
            direct: Context::open(&straight, &prefix).await?,
            proxy,
            url: url.to_owned(),
            prefix,
        })
    }

    fn setup(&self, url: String) -> Setup {
        let connect = self.connect;
        let setup = Setup::new(move |_| Line {
            url: url.clone(),
            connect,
        });
        match self.lease {
            Some(lease) => setup.with_lease(lease),
            None => setup,
        }
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stages")
            .field("broker", &self.broker)
            .field("variable", &self.variable)
            .finish_non_exhaustive()
    }
}

impl Found {
    fn url(&self) -> &str {
        match self {
            Self::Given(url) => url,
            Self::Started(broker) => broker.url(),
        }
    }
}

struct Line {
    url: String,
    connect: Connect,
}

#[async_trait]
impl Fixture for Line {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        (self.connect)(self.url.clone()).await
    }
}

/// A broker with a line that breaks, for one test.
pub struct Stage {
    /// Its processes reach the broker by the proxy.
    pub cx: Context,
    /// Its processes reach the broker directly. They use the same names.
    pub direct: Context,
    /// The line.
    pub proxy: Arc<Proxy>,
    url: String,
    prefix: String,
}

impl Stage {
    /// Where the broker is, without the line.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a queue or an exchange is called on the broker.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What another process of a test needs to have the same broker and names.
    pub fn to_text(&self) -> String {
        format!("{} {}", self.url, self.prefix)
    }

    /// Waits until the process is connected again, which a publish shows.
    ///
    /// # Errors
    /// It was not within the patience of the set-up.
    pub async fn is_up(&self, bus: &Bus) -> CaseResult {
        let up = || async {
            let probe = raw("probe", "probe", "{}")?;
            Ok(bus.publish(&probe).await.is_ok())
        };
        self.cx.until("a publish to succeed again", up).await
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("proxy", &self.proxy)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// A length of time, or a number of times, that `scripts/soak` multiplies.
pub fn length<T: Mul<u32>>(short: T) -> T::Output {
    let factor = env::var("SWITCHBOARD_SOAK").ok();
    short * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Publishes orders one after the other, each confirmed.
///
/// # Errors
/// One was not.
pub async fn publish(bus: &Bus, ids: RangeInclusive<u64>) -> CaseResult<Ledger> {
    let ledger = Ledger::new();
    let orders: Vec<_> = ids.map(order).collect();
    for result in ledger.publish_all(bus, &orders).await {
        result?;
    }
    Ok(ledger)
}

/// The numbers of what was handled to its end, in order, each once.
pub fn done(seen: &[Seen]) -> Vec<u64> {
    let ended = seen.iter().filter(|seen| seen.ended.is_some());
    let mut numbers: Vec<_> = ended.map(Seen::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
