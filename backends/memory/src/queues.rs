//! The queues of a broker, by name and by index.

use std::collections::HashMap;

use event_core::QueueName;

use crate::{exchange::QueueIndex, queue::Queue};

/// The queues, at the indices that exchanges know.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    slots: Vec<Option<Box<Queue>>>,
    free: Vec<QueueIndex>,
    /// Ephemeral queues are not here: nobody asks for them by name.
    names: HashMap<QueueName, QueueIndex>,
}

/// A queue, and not a later one that came to the same index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueRef {
    pub(crate) index: QueueIndex,
    serial: u64,
}

impl Queues {
    pub(crate) fn insert(&mut self, queue: Queue) -> QueueRef {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if !queue.ephemeral {
            self.names.insert(queue.name.clone(), index);
        }
        let serial = queue.serial;
        self.slots[index] = Some(Box::new(queue));
        QueueRef { index, serial }
    }

    pub(crate) fn remove(&mut self, index: QueueIndex) -> Option<Box<Queue>> {
        let queue = self.slots.get_mut(index)?.take()?;
        if !queue.ephemeral {
            self.names.remove(&queue.name);
        }
        self.free.push(index);
        Some(queue)
    }

    pub(crate) fn find(&self, name: &str) -> Option<QueueIndex> {
        self.names.get(name).copied()
    }

    pub(crate) fn named(&mut self, name: &str) -> Option<&mut Queue> {
        self.at(self.find(name)?)
    }

    pub(crate) fn at(&mut self, index: QueueIndex) -> Option<&mut Queue> {
        self.slots.get_mut(index)?.as_deref_mut()
    }

    pub(crate) fn get(&mut self, queue: QueueRef) -> Option<&mut Queue> {
        self.at(queue.index)
            .filter(|found| found.serial == queue.serial)
    }

    pub(crate) fn reference(&mut self, name: &str) -> Option<QueueRef> {
        let index = self.find(name)?;
        Some(QueueRef {
            index,
            serial: self.at(index)?.serial,
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (QueueIndex, &mut Queue)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(index, queue)| Some((index, queue.as_deref_mut()?)))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &QueueName> {
        self.names.keys()
    }
}
