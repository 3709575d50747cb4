//! The memory broker as a fixture.

use std::sync::Arc;

use async_trait::async_trait;
use event_conformance::{Fixture, Impossible, Setup};
use event_core::{Result, Transport};
use event_memory::MemoryBroker;

const MAX_MESSAGE: usize = 1 << 20;

struct Memory(MemoryBroker);

#[async_trait]
impl Fixture for Memory {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        Ok(Arc::new(self.0.connect()))
    }

    fn max_message(&self) -> Option<usize> {
        Some(MAX_MESSAGE)
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

/// A broker of its own for each case, and time that passes by itself.
pub(crate) fn setup() -> Setup {
    Setup::new(|_| Memory(MemoryBroker::new().with_max_message(MAX_MESSAGE))).with_paused_clock()
}
