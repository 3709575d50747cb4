//! The suite against a real Kafka: the one that `KAFKA_URL` names, as `scripts/test` starts it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use event_conformance::{Proxied, Setup};
use event_core::Transport;
use event_kafka::KafkaTransport;

/// What the URL sets.
const MAX_MESSAGE: usize = 500_000;

fn main() -> ExitCode {
    let Ok(url) = std::env::var("KAFKA_URL") else {
        eprintln!(
            "KAFKA_URL names no Kafka; `scripts/test` starts one, and so does `scripts/brokers up kafka`"
        );
        return ExitCode::FAILURE;
    };
    let url: Arc<str> = url.into();
    let broker = move |_: &str| {
        let connect = |url: String| async move {
            // Longer than handlers take that are not to be interrupted.
            let url = format!("{url}?partitions=3&max_message={MAX_MESSAGE}&drain=15000");
            Ok(Arc::new(KafkaTransport::connect(&url).await?) as Arc<dyn Transport>)
        };
        Proxied::new(url.clone(), move |url| Box::pin(connect(url))).with_max_message(MAX_MESSAGE)
    };
    Setup::new(broker)
        .with_lease(Duration::from_secs(3))
        // A group takes its time to agree on who reads what.
        .with_patience(Duration::from_secs(60))
        .with_quiet(Duration::from_millis(1_200))
        .with_threads(6)
        .with_scorecard(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/scorecard-kafka.md"
        ))
        .run()
}
