//! A ledger: what was published and confirmed, what was handled, and what that comes to.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_core::{Bus, IntoOutgoing, MessageId, Receipt, Result};
use tokio::time::Instant;

use crate::{
    desk::Seen,
    failure::{CaseResult, Failure},
};

/// Keeps book of messages. Clones are one ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// By the order in which they were entered.
    confirmed: Vec<(MessageId, Option<String>)>,
    refused: usize,
    /// When each was handled, and when it may be handled next.
    handled: HashMap<MessageId, Vec<Instant>>,
    not_before: HashMap<MessageId, Instant>,
    early: usize,
    order: Vec<MessageId>,
}

/// What a ledger comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// Messages whose publish was confirmed.
    pub confirmed: usize,
    /// Messages whose publish failed. They may have been handled all the same.
    pub refused: usize,
    /// Confirmed messages that were never handled.
    pub lost: usize,
    /// How often messages were handled again.
    pub duplicated: usize,
    /// Messages that were first handled after a later one of their partition key.
    pub reordered: usize,
    /// Messages that were handled before they were due.
    pub early: usize,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes an event and enters whether it was confirmed.
    ///
    /// # Errors
    /// Those of the publish.
    pub async fn publish(&self, bus: &Bus, event: impl IntoOutgoing) -> Result<Receipt> {
        self.publish_all(bus, [event])
            .await
            .pop()
            .unwrap_or_else(|| unreachable!("one event has one result"))
    }

    /// Publishes a batch and enters what was confirmed, in the order of the batch.
    pub async fn publish_all<E: IntoOutgoing>(
        &self,
        bus: &Bus,
        events: impl IntoIterator<Item = E>,
    ) -> Vec<Result<Receipt>> {
        let outgoing: Vec<_> = events
            .into_iter()
            .map(IntoOutgoing::into_outgoing)
            .collect();
        let keys: Vec<_> = outgoing
            .iter()
            .map(|outgoing| {
                let key = outgoing.as_ref().ok()?.message().partition_key()?;
                Some(key.to_owned())
            })
            .collect();
        let results = bus.publish_all(outgoing).await;
        let mut book = self.book();
        for (result, key) in results.iter().zip(keys) {
            match result {
                Ok(receipt) => book.confirmed.push((receipt.id.clone(), key)),
                Err(_) => book.refused += 1,
            }
        }
        results
    }

    /// Enters that a message was handled now.
    pub fn handled(&self, seen: &Seen) {
        let mut book = self.book();
        let id = seen.meta.id.clone();
        if book.not_before.get(&id).is_some_and(|due| seen.at < *due) {
            book.early += 1;
        }
        book.handled.entry(id.clone()).or_default().push(seen.at);
        book.order.push(id);
    }

    /// Enters that a message may not be handled again before this time.
    pub fn not_before(&self, id: &MessageId, due: Instant) {
        self.book().not_before.insert(id.clone(), due);
    }

    /// How many messages were confirmed so far.
    pub fn confirmed(&self) -> usize {
        self.book().confirmed.len()
    }

    /// What was entered so far comes to this.
    pub fn balance(&self) -> Balance {
        let book = self.book();
        let mut first = HashMap::new();
        for (at, id) in book.order.iter().enumerate() {
            first.entry(id).or_insert(at);
        }
        let mut balance = Balance {
            confirmed: book.confirmed.len(),
            refused: book.refused,
            early: book.early,
            duplicated: book.handled.values().map(|times| times.len() - 1).sum(),
            ..Balance::default()
        };
        // The latest place that a message of this key was handled at, among those published before.
        let mut latest: HashMap<&str, usize> = HashMap::new();
        for (id, key) in &book.confirmed {
            let Some(&at) = first.get(id) else {
                balance.lost += 1;
                continue;
            };
            if let Some(key) = key {
                let latest = latest.entry(key).or_insert(at);
                if at < *latest {
                    balance.reordered += 1;
                }
                *latest = at.max(*latest);
            }
        }
        balance
    }

    /// Whether everything that was confirmed was handled.
    pub fn is_complete(&self) -> bool {
        self.balance().lost == 0
    }

    /// Makes sure that nothing was lost.
    ///
    /// # Errors
    /// The balance.
    #[track_caller]
    pub fn expect_no_loss(&self) -> CaseResult {
        let balance = self.balance();
        if balance.lost == 0 {
            Ok(())
        } else {
            Err(Failure::new(balance.to_string()))
        }
    }

    /// Makes sure that everything was handled once, in order, and never early.
    ///
    /// # Errors
    /// The balance.
    #[track_caller]
    pub fn expect_balanced(&self) -> CaseResult {
        let balance = self.balance();
        let Balance {
            lost,
            duplicated,
            reordered,
            early,
            ..
        } = balance;
        if lost + duplicated + reordered + early == 0 {
            Ok(())
        } else {
            Err(Failure::new(balance.to_string()))
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            confirmed,
            refused,
            lost,
            duplicated,
            reordered,
            early,
        } = self;
        write!(
            f,
            "of {confirmed} confirmed ({refused} refused): {lost} lost, {duplicated} duplicated, \
             {reordered} reordered, {early} early"
        )
    }
}
