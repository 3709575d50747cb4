//! The part of the suite that routes and settles against a real Redis Cluster: three masters that this starts.

#[path = "../servers/server.rs"]
#[allow(dead_code)]
mod server;

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use event_conformance::{Fixture, Point, Setup};
use event_core::{Result, Transport};
use event_redis::RedisTransport;
use server::Cluster;

struct OnCluster(Arc<str>);

#[async_trait]
impl Fixture for OnCluster {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        Ok(Arc::new(RedisTransport::connect(&self.0).await?))
    }
}

fn main() -> ExitCode {
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("there is no cluster: {error}");
            return ExitCode::FAILURE;
        }
    };
    let url: Arc<str> = cluster.url().into();
    let code = Setup::new(move |_| OnCluster(url.clone()))
        .with_lease(Duration::from_secs(2))
        .with_threads(6)
        .with_points([
            Point::Routing,
            Point::Publish,
            Point::Queues,
            Point::AtLeastOnce,
            Point::DeadLetters,
            Point::Ephemeral,
        ])
        .run();
    drop(cluster);
    code
}
