//! The suite against the memory broker, the reference.

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use event_conformance::{Fixture, Impossible, Setup};
use event_core::{Result, Transport};
use event_memory::MemoryBroker;

struct Memory(MemoryBroker);

#[async_trait]
impl Fixture for Memory {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        Ok(Arc::new(self.0.connect()))
    }

    async fn disconnect(&self) -> Result<(), Impossible> {
        self.0.disconnect_all();
        Ok(())
    }

    async fn outage(&self, on: bool) -> Result<(), Impossible> {
        self.0.outage(on);
        Ok(())
    }
}

fn main() -> ExitCode {
    Setup::new(|_| Memory(MemoryBroker::new()))
        .with_paused_clock()
        .with_scorecard("../../docs/scorecard-memory.md")
        .run()
}
