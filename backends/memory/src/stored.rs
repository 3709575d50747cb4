//! A message as a queue keeps it, and the slots that hold all of them.

use event_core::Message;

/// A message that is not settled: ready, held or waiting.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) message: Message,
    /// Its place in the order of the queue; a message that is given back stands there again.
    pub(crate) place: u64,
    pub(crate) redeliveries: u32,
    /// How often it began to run alone without being settled afterwards.
    pub(crate) alone: u32,
    pub(crate) suspect: bool,
    /// Whether it runs alone in the hands of its present holder.
    pub(crate) isolated: bool,
    /// Whether a fault made it, so that it is not doubled again.
    pub(crate) double: bool,
}

impl Stored {
    pub(crate) fn new(message: Message, place: u64) -> Self {
        Self {
            message,
            place,
            redeliveries: 0,
            alone: 0,
            suspect: false,
            isolated: false,
            double: false,
        }
    }
}

/// The name of a slot. It stays while its message moves from ready to held and back.
pub(crate) type Slot = usize;

/// Keeps messages in slots that are used again, so that a message is written once and moved never.
#[derive(Debug, Default)]
pub(crate) struct Store {
    slots: Vec<Option<Stored>>,
    free: Vec<Slot>,
}

/// An empty store gives its memory back when it had grown beyond this.
const KEPT_SLOTS: usize = 65_536;

impl Store {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, stored: Stored) -> Slot {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(stored);
                slot
            }
            None => {
                self.slots.push(Some(stored));
                self.slots.len() - 1
            }
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> &Stored {
        #[expect(
            clippy::expect_used,
            reason = "a slot is named by exactly one of ready, held and delayed"
        )]
        self.slots[slot].as_ref().expect("a slot that is in use")
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Stored {
        #[expect(
            clippy::expect_used,
            reason = "a slot is named by exactly one of ready, held and delayed"
        )]
        self.slots[slot].as_mut().expect("a slot that is in use")
    }

    /// Drops the message where it is.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.slots[slot] = None;
        self.vacate(slot);
    }

    pub(crate) fn take(&mut self, slot: Slot) -> Option<Stored> {
        let stored = self.slots[slot].take();
        self.vacate(slot);
        stored
    }

    fn vacate(&mut self, slot: Slot) {
        self.free.push(slot);
        if self.free.len() == self.slots.len() {
            // Starting anew also keeps neighbours in the queue neighbours in memory.
            self.free.clear();
            self.slots.clear();
            self.slots.shrink_to(KEPT_SLOTS);
        }
    }
}
