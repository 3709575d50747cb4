//! Wakes a thread that waits.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Wakes a thread that waits for something to do; raised before it waits, it does not wait at all.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn raise(&self) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if !*raised {
            *raised = true;
            self.changed.notify_one();
        }
    }

    /// Waits until it is raised, at most for so long, and lowers it.
    pub(crate) fn wait(&self, most: Duration) {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(raised, most, |raised| !*raised);
        let (mut raised, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *raised = false;
    }
}
