//! One connection: what a transport and its subscriptions share.

use std::{fmt, sync::Arc};

use event_core::{ConnectionState, Result};
use tokio::sync::watch;

use crate::{
    error,
    state::{Shared, State},
};

/// A connection to a broker. The broker forgets it with the last transport or subscription that uses it.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) shared: Arc<Shared>,
    state: watch::Sender<ConnectionState>,
}

impl Connection {
    pub(crate) fn open(shared: Arc<Shared>) -> Arc<Self> {
        let (id, state) = shared.update(|broker| {
            let state = match broker.outage {
                None => ConnectionState::Connected,
                Some(_) => ConnectionState::Reconnecting,
            };
            let (id, state) = (broker.ids.next(), watch::Sender::new(state));
            broker.connections.insert(id, state.clone());
            (id, state)
        });
        Arc::new(Self { id, shared, state })
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.state.borrow() == ConnectionState::Closed {
            Err(error::closed())
        } else {
            Ok(())
        }
    }

    /// Asks the broker something that it cannot answer in an outage.
    pub(crate) fn ask<R>(&self, question: impl FnOnce(&mut State) -> Result<R>) -> Result<R> {
        self.check_open()?;
        self.shared.update(|state| {
            state.reach()?;
            question(state)
        })
    }

    pub(crate) fn close(&self) {
        self.shared.update(|state| state.close(self.id));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared
            .update(|state| state.connections.remove(&self.id));
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("state", &*self.state.borrow())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use event_core::{QueueKind, QueueName, QueueSpec};

    use super::*;
    use crate::subscription;

    #[test]
    fn what_is_dropped_leaves_nothing_behind() {
        let shared = Arc::<Shared>::default();
        for _ in 0..20 {
            let connection = Connection::open(shared.clone());
            let mut spec = QueueSpec::new(QueueName::checked("prices"));
            spec.kind = QueueKind::Ephemeral;
            let prices = subscription::open(&connection, &spec).unwrap();
            drop(connection);
            assert_eq!(shared.update(|state| state.connections.len()), 1);
            drop(prices);
        }
        let left =
            shared.update(|state| (state.connections.len(), state.queues.iter_mut().count()));
        assert_eq!(left, (0, 0));
    }
}
