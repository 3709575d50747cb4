//! The suite against a real Redis: the one that `REDIS_URL` names, as `scripts/test` starts it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use event_conformance::{Proxied, Setup};
use event_core::Transport;
use event_redis::RedisTransport;

/// What the URL sets.
const MAX_MESSAGE: usize = 4 << 20;

fn main() -> ExitCode {
    let Ok(url) = std::env::var("REDIS_URL") else {
        eprintln!(
            "REDIS_URL names no Redis; `scripts/test` starts one, and so does `scripts/brokers up redis`"
        );
        return ExitCode::FAILURE;
    };
    let url: Arc<str> = url.into();
    let broker = move |_: &str| {
        let connect = |url: String| async move {
            // A heartbeat that notices silence within a case.
            let url = format!("{url}?heartbeat=1&max_message={MAX_MESSAGE}");
            Ok(Arc::new(RedisTransport::connect(&url).await?) as Arc<dyn Transport>)
        };
        Proxied::new(url.clone(), move |url| Box::pin(connect(url))).with_max_message(MAX_MESSAGE)
    };
    Setup::new(broker)
        .with_lease(Duration::from_secs(2))
        .with_threads(6)
        .with_scorecard(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/scorecard-redis.md"
        ))
        .run()
}
