//! Saying something once for each of many names.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// Names that something was said about. Bounded, because keys may hold fields of events: what comes after
/// the first thousand goes unsaid.
#[derive(Debug, Default)]
pub(crate) struct Once(Mutex<HashSet<String>>);

impl Once {
    /// Whether it is the first time for this name.
    pub(crate) fn first(&self, name: &str) -> bool {
        const REMEMBERED: usize = 1_000;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < REMEMBERED && !known.contains(name) && known.insert(name.to_owned())
    }
}
