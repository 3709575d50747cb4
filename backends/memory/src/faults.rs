//! Faults on demand, the same ones in the same order for the same seed.

use fastrand::Rng;

/// What goes wrong, and how often: for [`MemoryBroker::set_faults`](crate::MemoryBroker::set_faults).
///
/// Probabilities are between 0 and 1. The same seed and the same sequence of calls give the same faults. None
/// of them loses a message of a durable queue: at least once holds under all.
///
/// ```
/// use event_memory::{Faults, MemoryBroker};
///
/// let broker = MemoryBroker::new();
/// broker.set_faults(Faults::seeded(7).drop_acks(0.1).deliver_twice(0.05));
/// ```
#[derive(Clone, Debug)]
pub struct Faults {
    random: Rng,
    drop_acks: f64,
    deliver_twice: f64,
    reorder: f64,
    refuse_publish: f64,
    lose_confirm: f64,
    disconnect: f64,
}

/// How far ahead a message may overtake.
const REORDER_SPAN: usize = 8;

impl Faults {
    /// No faults yet, with the seed that decides when they strike.
    pub fn seeded(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            drop_acks: 0.0,
            deliver_twice: 0.0,
            reorder: 0.0,
            refuse_publish: 0.0,
            lose_confirm: 0.0,
            disconnect: 0.0,
        }
    }

    /// A settlement is lost on its way: it fails with a retryable error, nothing is done, and the delivery
    /// stays held.
    pub fn drop_acks(mut self, probability: f64) -> Self {
        self.drop_acks = probability;
        self
    }

    /// A delivery comes a second time later, as a redelivery.
    pub fn deliver_twice(mut self, probability: f64) -> Self {
        self.deliver_twice = probability;
        self
    }

    /// A message overtakes some that were ready before it, but none with its own partition key.
    pub fn reorder(mut self, probability: f64) -> Self {
        self.reorder = probability;
        self
    }

    /// A message is not stored, and its publish fails with a retryable error.
    pub fn refuse_publish(mut self, probability: f64) -> Self {
        self.refuse_publish = probability;
        self
    }

    /// A message is stored, and its publish fails with a retryable error all the same.
    pub fn lose_confirm(mut self, probability: f64) -> Self {
        self.lose_confirm = probability;
        self
    }

    /// The connection is lost in the middle of a batch that is published, delivered or settled. Of one that
    /// is published or settled, a part was done and none is answered; what is held comes back at once.
    pub fn disconnect(mut self, probability: f64) -> Self {
        self.disconnect = probability;
        self
    }

    pub(crate) fn drops_ack(&mut self) -> bool {
        self.strikes(self.drop_acks)
    }

    pub(crate) fn delivers_twice(&mut self) -> bool {
        self.strikes(self.deliver_twice)
    }

    /// Which of `ready` messages comes first, if not the first.
    pub(crate) fn reorders(&mut self, ready: usize) -> Option<usize> {
        (ready > 1 && self.strikes(self.reorder))
            .then(|| self.random.usize(1..ready.min(REORDER_SPAN)))
    }

    pub(crate) fn refuses_publish(&mut self) -> bool {
        self.strikes(self.refuse_publish)
    }

    pub(crate) fn loses_confirm(&mut self) -> bool {
        self.strikes(self.lose_confirm)
    }

    pub(crate) fn disconnects(&mut self) -> bool {
        self.strikes(self.disconnect)
    }

    /// Whether the connection is lost in a batch of this many, and after how many.
    pub(crate) fn disconnects_within(&mut self, batch: usize) -> Option<usize> {
        self.disconnects().then(|| self.random.usize(0..=batch))
    }

    fn strikes(&mut self, probability: f64) -> bool {
        // A fault that is off takes no number, so that it does not move the others.
        probability > 0.0 && self.random.f64() < probability
    }
}
