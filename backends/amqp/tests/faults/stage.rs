//! What a fault is tried on: a RabbitMQ, a line to it that breaks, and names of the test's own.

use std::{path::Path, process::Command, sync::Arc};

use event_amqp::AmqpTransport;
use event_conformance::{Broker, CaseResult, Failure, Stage, Stages};
use event_core::Transport;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};

pub(crate) static RABBITMQ: Stages = Stages::new("rabbitmq", "RABBITMQ_URL", |url| {
    Box::pin(async move { Ok(Arc::new(AmqpTransport::connect(&url).await?) as Arc<dyn Transport>) })
});

/// Tries something on the RabbitMQ that all tests share. The options are those of a URL.
pub(crate) async fn on_rabbitmq(
    name: &str,
    options: &str,
    test: impl AsyncFnOnce(&Stage) -> CaseResult,
) -> CaseResult {
    RABBITMQ.shared(name, options, test).await
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
    RABBITMQ.own(name, options, prepare, test).await
}

/// Asks and changes the broker without the framework.
pub(crate) struct Admin(Connection);

impl Admin {
    /// A connection to the broker of a stage.
    pub(crate) async fn of(at: &Stage) -> CaseResult<Self> {
        let options = ConnectionProperties::default();
        Ok(Self(Connection::connect(at.url(), options).await?))
    }

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
