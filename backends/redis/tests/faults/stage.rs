//! What a fault is tried on: a Redis, a line to it that breaks, and names of the test's own.

use std::{sync::Arc, time::Duration};

use event_conformance::{Broker, CaseResult, Consumer, Failure, Stage, Stages, publish};
use event_core::{Delivery, Transport};
use event_redis::RedisTransport;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, aio::MultiplexedConnection};

/// The lease of the queues, unless a test says otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// A heartbeat that notices silence within a test.
const OPTIONS: &str = "?heartbeat=1";

pub(crate) static REDIS: Stages = Stages::new("redis", "REDIS_URL", |url| {
    Box::pin(
        async move { Ok(Arc::new(RedisTransport::connect(&url).await?) as Arc<dyn Transport>) },
    )
})
.with_lease(LEASE)
.with_limit(Duration::from_secs(120));

/// Tries something on the Redis that all tests share, with a heartbeat of a second.
pub(crate) async fn on_redis(
    name: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    REDIS.shared(name, OPTIONS, test).await
}

/// Tries something on a Redis of its own, which `prepare` may change before anybody is connected.
pub(crate) async fn on_own_redis(
    name: &str,
    prepare: impl AsyncFnOnce(Admin) -> CaseResult,
    test: impl AsyncFnOnce(&Stage, &Broker) -> CaseResult,
) -> CaseResult {
    let prepare = async |broker: &Broker| prepare(Admin::connect(broker.url()).await?).await;
    REDIS.own(name, OPTIONS, prepare, test).await
}

/// For a server that is as it is.
pub(crate) async fn nothing(_: Admin) -> CaseResult {
    Ok(())
}

/// A key of a queue on the exchange `order`: its `stream`, `delayed`, `waiting`, `dead` or `suspects`.
pub(crate) fn key(at: &Stage, kind: &str, queue: &str) -> String {
    format!(
        "switchboard:{{{}}}:{kind}:{}",
        at.name("order"),
        at.name(queue)
    )
}

/// A consumer of `billing_order` whose line is the proxy's, with this many orders in its hands.
pub(crate) async fn holds(at: &Stage, count: u64) -> CaseResult<(Consumer, Vec<Delivery>)> {
    let spec = at.cx.spec("billing_order", &["order.*.submit"])?;
    at.direct.declare(&[&spec]).await?;
    let mut consumer = at.cx.consume(&at.cx.process().await?, &spec).await?;
    publish(at.direct.bus(), 1..=count).await?;
    let held = consumer.take(usize::try_from(count)?).await?;
    Ok((consumer, held))
}

/// Asks and changes the server without the framework.
#[derive(Clone)]
pub(crate) struct Admin(MultiplexedConnection);

impl Admin {
    /// A connection to the server of a stage.
    pub(crate) async fn of(at: &Stage) -> CaseResult<Self> {
        Self::connect(at.url()).await
    }

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
