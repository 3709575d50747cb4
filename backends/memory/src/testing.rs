//! What an application's own tests need: a broker that records, can be waited for, and fails on demand.

use std::{ops::Deref, time::Duration};

use event_core::{Bus, Delivery, DeliveryTag, Event, Message, Process, Result};

pub use crate::{Faults, MemoryBroker, QueueState};

/// A broker for one test. It records what is published, and has everything that [`MemoryBroker`] has:
/// waiting until a queue is idle, faults, outages.
///
/// ```
/// # use event_core::{Publish, Queue, RawEvent, Result, Service};
/// use event_memory::testing::TestBroker;
///
/// # async fn bill(_: RawEvent) {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let broker = TestBroker::new();
/// let bus = broker.bus();
/// let billing = Service::new("billing")
///     .queue(Queue::new("billing_order").bind("order", "order.*.submit").handle(bill));
/// let running = billing.start(&bus).await?;
///
/// bus.publish(&RawEvent::new("order", "order.v1.submit", "{}")?).mandatory().await?;
/// broker.wait_idle("billing_order").await;
///
/// assert_eq!(bus.counters().handled, 1);
/// running.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TestBroker(MemoryBroker);

impl TestBroker {
    /// An empty broker that records.
    pub fn new() -> Self {
        MemoryBroker::new().into()
    }

    /// A bus of its own. Two of them behave as two processes.
    pub fn bus(&self) -> Bus {
        Bus::new(self.connect()).with_process(Process::separate())
    }

    /// What was published so far that `E` takes, decoded, in order.
    ///
    /// # Errors
    /// A message that `E` takes does not decode.
    pub fn published_events<E: Event>(&self) -> Result<Vec<E>> {
        // Also through an older version, as a handler of `E` would.
        let taken = |message: &Message| {
            event_core::__private::takes::<E>(message.exchange(), message.key())
        };
        let tag = DeliveryTag {
            generation: 0,
            number: 0,
        };
        let messages = self.published().into_iter().filter(taken);
        messages
            .map(|message| E::decode(&Delivery::new(message, tag)))
            .collect()
    }
}

impl Default for TestBroker {
    fn default() -> Self {
        Self::new()
    }
}

/// For a broker with settings of its own, such as a limit on the size of messages.
impl From<MemoryBroker> for TestBroker {
    fn from(broker: MemoryBroker) -> Self {
        broker.record(true);
        Self(broker)
    }
}

impl Deref for TestBroker {
    type Target = MemoryBroker;

    fn deref(&self) -> &MemoryBroker {
        &self.0
    }
}

/// Moves a paused clock on: retries fall due, leases end.
///
/// Pause it with `#[tokio::test(start_paused = true)]`. A paused clock also moves on by itself when all
/// tasks wait for it, so this is needed only to see what has not happened yet.
///
/// # Panics
/// When the clock is not paused.
pub async fn advance(time: Duration) {
    tokio::time::advance(time).await;
}
