//! The suite against a real RabbitMQ: the one that `RABBITMQ_URL` names, as `scripts/test` starts it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use event_amqp::AmqpTransport;
use event_conformance::{Fixture, Setup};
use event_core::{Result, Transport};

struct RabbitMq(Arc<str>);

#[async_trait]
impl Fixture for RabbitMq {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        Ok(Arc::new(AmqpTransport::connect(&self.0).await?))
    }
}

fn main() -> ExitCode {
    let Ok(url) = std::env::var("RABBITMQ_URL") else {
        eprintln!(
            "RABBITMQ_URL names no RabbitMQ; run `scripts/test`, or start one: eval \"$(scripts/brokers up rabbitmq | sed 's/^/export /')\""
        );
        return ExitCode::FAILURE;
    };
    let url: Arc<str> = url.into();
    Setup::new(move |_| RabbitMq(url.clone()))
        .with_lease(Duration::from_secs(1))
        .run()
}
