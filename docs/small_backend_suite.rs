//! The conformance suite against the backend that `writing-a-backend.md` builds.

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use event_conformance::{Fixture, Setup};
use event_core::Transport;

#[allow(unreachable_pub)]
#[path = "small_backend.rs"]
mod small;

use small::{Server, Small};

/// What a case is tried on: here a server of its own.
struct Broker(Arc<Server>);

#[async_trait]
impl Fixture for Broker {
    async fn connect(&self) -> event_core::Result<Arc<dyn Transport>> {
        Ok(Arc::new(Small::connect(&self.0)))
    }
}

fn main() -> ExitCode {
    Setup::new(|_| Broker(Arc::default()))
        .with_paused_clock()
        .run()
}
