//! A ledger: what was published and confirmed, what was handled, and what that comes to.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use event_core::{Bus, IntoOutgoing, MessageId, Receipt, Result};

use crate::{
    desk::Seen,
    failure::{CaseResult, Failure},
};

/// Keeps book of what was published, and strikes a balance with what was handled. Clones are one ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// What was confirmed, with its partition key, in the order in which it was entered.
    confirmed: Vec<(MessageId, Option<String>)>,
    refused: usize,
}

/// What a ledger comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// Messages whose publish was confirmed.
    pub confirmed: usize,
    /// Messages whose publish failed. They may have been handled all the same.
    pub refused: usize,
    /// Confirmed messages that no handler ended well or badly for.
    pub lost: usize,
    /// Handlers that began for a message whose attempt had begun before.
    pub duplicated: usize,
    /// Messages that were first handled after a later one of their partition key.
    pub reordered: usize,
    /// Attempts that began before they were due.
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
        let outgoing = event.into_outgoing()?;
        let key = outgoing.message().partition_key().map(str::to_owned);
        let result = bus.publish(outgoing).await;
        self.enter(&result, key);
        result
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
        for (result, key) in results.iter().zip(keys) {
            self.enter(result, key);
        }
        results
    }

    fn enter(&self, result: &Result<Receipt>, key: Option<String>) {
        let mut book = self.book();
        match result {
            Ok(receipt) => book.confirmed.push((receipt.id.clone(), key)),
            Err(_) => book.refused += 1,
        }
    }

    /// The balance with what was seen, in the order in which handlers began.
    pub fn balance(&self, seen: &[Seen]) -> Balance {
        self.balance_with(seen, |_| Duration::ZERO)
    }

    /// The same when attempts have to wait: the wait after each attempt, by its number.
    pub fn balance_with(&self, seen: &[Seen], wait: impl Fn(u32) -> Duration) -> Balance {
        let book = self.book();
        let mut balance = Balance {
            confirmed: book.confirmed.len(),
            refused: book.refused,
            ..Balance::default()
        };
        let mut first: HashMap<&MessageId, usize> = HashMap::new();
        let mut last: HashMap<&MessageId, &Seen> = HashMap::new();
        let mut ended: HashMap<&MessageId, bool> = HashMap::new();
        for (at, seen) in seen.iter().enumerate() {
            let id = &seen.meta.id;
            first.entry(id).or_insert(at);
            *ended.entry(id).or_default() |= seen.ended.is_some();
            if let Some(before) = last.insert(id, seen) {
                let attempt = before.meta.attempt;
                if seen.meta.attempt <= attempt {
                    balance.duplicated += 1;
                } else if before
                    .ended
                    .is_some_and(|ended| seen.at < ended + wait(attempt))
                {
                    balance.early += 1;
                }
            }
        }
        // The latest place that a message of this key was handled at, among those published before.
        let mut latest: HashMap<&str, usize> = HashMap::new();
        for (id, key) in &book.confirmed {
            if ended.get(id) != Some(&true) {
                balance.lost += 1;
            }
            let (Some(&at), Some(key)) = (first.get(id), key) else {
                continue;
            };
            let latest = latest.entry(key).or_insert(at);
            if at < *latest {
                balance.reordered += 1;
            }
            *latest = at.max(*latest);
        }
        balance
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balance {
    /// Makes sure that nothing was lost.
    ///
    /// # Errors
    /// Something was.
    #[track_caller]
    pub fn expect_no_loss(self) -> CaseResult {
        if self.lost == 0 {
            Ok(())
        } else {
            Err(Failure::new(self.to_string()))
        }
    }

    /// Makes sure that everything was handled once, in order, and never early.
    ///
    /// # Errors
    /// Something was not.
    #[track_caller]
    pub fn expect_balanced(self) -> CaseResult {
        if self.lost + self.duplicated + self.reordered + self.early == 0 {
            Ok(())
        } else {
            Err(Failure::new(self.to_string()))
        }
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
