//! The dead letters of one queue.

use std::{ops::Bound, sync::Arc};

use async_trait::async_trait;
use event_core::{DeadLetter, DeadLetterId, DeadLetters, Message, QueueName, Result, Selection};

use crate::{connection::Connection, error, queue::Queue, queues::QueueRef};

#[derive(Debug)]
pub(crate) struct Letters {
    connection: Arc<Connection>,
    queue: QueueRef,
    name: QueueName,
}

impl Letters {
    pub(crate) fn open(connection: &Arc<Connection>, queue: &str) -> Result<Self> {
        let (queue, name) = connection.ask(|state| {
            let reference = state
                .queues
                .reference(queue)
                .ok_or_else(|| error::no_queue(queue))?;
            let name = state.queues.get(reference).map(|queue| queue.name.clone());
            Ok((reference, name.ok_or_else(|| error::no_queue(queue))?))
        })?;
        Ok(Self {
            connection: connection.clone(),
            queue,
            name,
        })
    }

    fn ask<R>(&self, question: impl FnOnce(&mut Queue) -> R) -> Result<R> {
        self.connection.ask(|state| {
            let queue = state
                .queues
                .get(self.queue)
                .ok_or_else(|| error::deleted(&self.name))?;
            Ok(question(queue))
        })
    }
}

#[async_trait]
impl DeadLetters for Letters {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let after = after
            .map(|id| number(id).ok_or_else(|| error::no_dead_letter(id.as_str())))
            .transpose()?;
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.ask(|queue| {
            let page = queue
                .messages
                .dead()
                .range((after, Bound::Unbounded))
                .take(limit);
            page.map(|(number, message)| letter(*number, message.clone()))
                .collect()
        })
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        self.ask(|queue| {
            let taken = take(queue, selection);
            let count = taken.len() as u64;
            for (number, message) in taken {
                // Also into a full queue: it is not published, and may not be lost.
                queue.messages.push(letter(number, message).into_replay());
            }
            queue.wake();
            count
        })
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        self.ask(|queue| take(queue, selection).len() as u64)
    }
}

/// Takes the selected ones out, oldest first.
fn take(queue: &mut Queue, selection: &Selection) -> Vec<(u64, Message)> {
    let dead = queue.messages.dead_mut();
    match selection {
        Selection::All => std::mem::take(dead).into_iter().collect(),
        Selection::Ids(ids) => {
            let mut numbers: Vec<u64> = ids.iter().filter_map(number).collect();
            numbers.sort_unstable();
            numbers
                .into_iter()
                .filter_map(|number| dead.remove_entry(&number))
                .collect()
        }
    }
}

fn letter(number: u64, message: Message) -> DeadLetter {
    // With all digits, so that ids sort as their numbers do.
    DeadLetter::new(DeadLetterId::new(format!("{number:020}")), message)
}

fn number(id: &DeadLetterId) -> Option<u64> {
    id.as_str().parse().ok()
}
