//! The suite against a real Redis: the one that `REDIS_URL` names, as `scripts/test` starts it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use event_conformance::{Fixture, Impossible, Proxy, Setup};
use event_core::{Error, ErrorKind, Result, Transport};
use event_redis::RedisTransport;
use tokio::sync::OnceCell;

/// What the URL sets.
const MAX_MESSAGE: usize = 4 << 20;

/// The broker behind a proxy of its own for each case, whose connections can be cut and made silent.
struct Redis {
    url: Arc<str>,
    proxy: OnceCell<Proxy>,
}

impl Redis {
    async fn proxy(&self) -> Result<&Proxy> {
        let started = self.proxy.get_or_try_init(|| async {
            let (_, host) = self.url.split_once("://").unwrap_or(("", &self.url));
            Proxy::start(host.split('/').next().unwrap_or(host)).await
        });
        started.await.map_err(|error| {
            Error::new(ErrorKind::Connection, "cannot start a proxy").with_source(error)
        })
    }
}

#[async_trait]
impl Fixture for Redis {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        // A heartbeat that notices silence within a case.
        let url = format!(
            "{}?heartbeat=1&max_message={MAX_MESSAGE}",
            self.proxy().await?.url(&self.url)
        );
        Ok(Arc::new(RedisTransport::connect(&url).await?))
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
    let Ok(url) = std::env::var("REDIS_URL") else {
        eprintln!(
            "REDIS_URL names no Redis; `scripts/test` starts one, and so does `scripts/brokers up redis`"
        );
        return ExitCode::FAILURE;
    };
    let url: Arc<str> = url.into();
    Setup::new(move |_| Redis {
        url: url.clone(),
        proxy: OnceCell::new(),
    })
    .with_lease(Duration::from_secs(2))
    .with_threads(4)
    .with_scorecard(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/scorecard-redis.md"
    ))
    .run()
}
