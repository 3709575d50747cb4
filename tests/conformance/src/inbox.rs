//! Where handlers put what they were given, for a case to take out.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::failure::{CaseResult, Failure};

/// Where handlers put what they were given, in order, for a case to take out: the state of a service whose
/// handlers are functions. Clones are one inbox.
pub struct Inbox<T>(Arc<Inner<T>>);

struct Inner<T> {
    put: mpsc::UnboundedSender<T>,
    // Only the case takes, so that nobody waits for the lock.
    taken: Mutex<mpsc::UnboundedReceiver<T>>,
    patience: Duration,
}

impl<T> Inbox<T> {
    pub(crate) fn new(patience: Duration) -> Self {
        let (put, taken) = mpsc::unbounded_channel();
        let taken = Mutex::new(taken);
        Self(Arc::new(Inner {
            put,
            taken,
            patience,
        }))
    }

    /// Puts something in.
    pub fn put(&self, value: T) {
        // The receiver lives as long as this inbox.
        let _ = self.0.put.send(value);
    }

    /// Takes out what was put in first.
    ///
    /// # Errors
    /// Nothing was within the patience of the set-up.
    pub async fn next(&self) -> CaseResult<T> {
        let mut taken = self.0.taken.lock().await;
        match timeout(self.0.patience, taken.recv()).await {
            Ok(Some(value)) => Ok(value),
            _ => Err(Failure::new("waited in vain for a handler")),
        }
    }
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}
