//! The suite against a real RabbitMQ: the one that `RABBITMQ_URL` names, as `scripts/test` starts it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use event_amqp::AmqpTransport;
use event_conformance::{Proxied, Setup};
use event_core::Transport;

/// What `scripts/brokers` sets.
const MAX_MESSAGE: usize = 4 << 20;

fn main() -> ExitCode {
    let Ok(url) = std::env::var("RABBITMQ_URL") else {
        eprintln!(
            "RABBITMQ_URL names no RabbitMQ; `scripts/test` starts one, and so does `scripts/brokers up rabbitmq`"
        );
        return ExitCode::FAILURE;
    };
    let url: Arc<str> = url.into();
    let broker = move |_: &str| {
        let connect = |url: String| async move {
            // A heartbeat that notices silence within a case.
            let url = format!("{url}?heartbeat=2");
            Ok(Arc::new(AmqpTransport::connect(&url).await?) as Arc<dyn Transport>)
        };
        Proxied::new(url.clone(), move |url| Box::pin(connect(url))).with_max_message(MAX_MESSAGE)
    };
    Setup::new(broker)
        .with_lease(Duration::from_secs(1))
        .with_threads(4)
        .with_scorecard(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/scorecard-amqp.md"
        ))
        .run()
}
