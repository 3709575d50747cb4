//! The suite against a real RabbitMQ: the one that `RABBITMQ_URL` names, as `scripts/test` starts it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use event_amqp::AmqpTransport;
use event_conformance::{Fixture, Impossible, Proxy, Setup};
use event_core::{Error, ErrorKind, Result, Transport};
use tokio::sync::OnceCell;

/// What `scripts/brokers` sets.
const MAX_MESSAGE: usize = 4 << 20;

/// The broker behind a proxy of its own for each case, whose connections can be cut and made silent.
struct RabbitMq {
    url: Arc<str>,
    proxy: OnceCell<Proxy>,
}

impl RabbitMq {
    async fn proxy(&self) -> Result<&Proxy> {
        let started = self.proxy.get_or_try_init(|| async {
            let (_, host) = self.url.rsplit_once('@').unwrap_or(("", &self.url));
            Proxy::start(host.split('/').next().unwrap_or(host)).await
        });
        started.await.map_err(|error| {
            Error::new(ErrorKind::Connection, "cannot start a proxy").with_source(error)
        })
    }
}

#[async_trait]
impl Fixture for RabbitMq {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        // A heartbeat that notices silence within a case.
        let url = format!("{}?heartbeat=2", self.proxy().await?.url(&self.url));
        Ok(Arc::new(AmqpTransport::connect(&url).await?))
    }

    fn max_message(&self) -> Option<usize> {
        Some(MAX_MESSAGE)
    }

    async fn disconnect(&self) -> Result<(), Impossible> {
        let proxy = self.proxy().await;
        proxy.map_err(|_| Impossible("there is no proxy"))?.cut();
        Ok(())
    }

    async fn outage(&self, on: bool) -> Result<(), Impossible> {
        let proxy = self.proxy().await;
        proxy
            .map_err(|_| Impossible("there is no proxy"))?
            .silence(on);
        Ok(())
    }
}

fn main() -> ExitCode {
    let Ok(url) = std::env::var("RABBITMQ_URL") else {
        eprintln!(
            "RABBITMQ_URL names no RabbitMQ; `scripts/test` starts one, and so does `scripts/brokers up rabbitmq`"
        );
        return ExitCode::FAILURE;
    };
    let url: Arc<str> = url.into();
    Setup::new(move |_| RabbitMq {
        url: url.clone(),
        proxy: OnceCell::new(),
    })
    .with_lease(Duration::from_secs(1))
    .with_threads(4)
    .with_scorecard(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/scorecard-amqp.md"
    ))
    .run()
}
