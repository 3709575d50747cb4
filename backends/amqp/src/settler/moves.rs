//! Moving deliveries: a copy is stored, then the original is acknowledged.

use std::{pin::pin, sync::Arc};

use event_core::{DeliveryTag, Error, ErrorKind, Result, Settled, Settlement};
use futures_util::FutureExt;
use tokio::sync::watch;

use super::Settler;
use crate::window::Session;

/// A delivery that is moved elsewhere: a copy of it is stored, then it is acknowledged.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) session: Arc<Session>,
    pub(super) settlement: Settlement,
}

impl Settler {
    /// Begins to move deliveries, on a task of its own: whoever asks for it may wait no longer, or be gone.
    pub(super) fn begin(&self, moves: Vec<Move>) {
        let Some(settler) = self.me.upgrade().filter(|_| !moves.is_empty()) else {
            return;
        };
        tokio::spawn(async move { settler.move_all(moves).await });
    }

    async fn move_all(&self, moves: Vec<Move>) {
        let (mut places, mut copies) = (Vec::new(), Vec::new());
        for Move {
            session,
            settlement,
        } in moves
        {
            let tag = settlement.tag();
            match self.copy(settlement).await {
                Ok(copy) => {
                    places.push((session, tag));
                    copies.push(copy);
                }
                Err(error) => self.not_moved(&session, tag, error),
            }
        }
        let mut moved = Vec::new();
        let stored = self.shared.store(copies).await;
        for ((session, tag), stored) in places.into_iter().zip(stored) {
            match stored {
                Err(error) => self.not_moved(&session, tag, error),
                Ok(_) => {
                    // When the channel was lost meanwhile, the original comes again beside its copy.
                    let done = session.is_open() && session.moved(tag.number);
                    let settled = if done { Settled::Done } else { Settled::Lost };
                    moved.push((tag, Ok(settled)));
                    self.flush(&session);
                }
            }
        }
        let (tags, mut results): (Vec<_>, Vec<_>) = moved.into_iter().unzip();
        self.close_emptied(&tags, &mut results).await;
        let held = self.lock();
        for (tag, result) in tags.iter().zip(results) {
            if let Some(waits) = held.moving.get(tag) {
                waits.send_replace(Some(result));
            }
        }
    }

    /// The copy of a delivery could not be stored. It is held again for whoever comes back for it; otherwise it is
    /// given back.
    fn not_moved(&self, session: &Session, tag: DeliveryTag, error: Error) {
        if error.kind() == ErrorKind::NotFound {
            // Somebody deleted a queue for retries: it is declared again the next time.
            self.shared.forget_retries(&self.spec.name);
        }
        let held = self.lock();
        if let Some(waits) = held.moving.get(&tag) {
            session.not_moved(tag.number);
            waits.send_replace(Some(Err(error)));
        } else {
            session.give_back(tag.number);
            drop(held);
            self.flush(session);
        }
    }

    /// Waits for what becomes of deliveries that are being moved, but not for long: the next acknowledgements wait
    /// behind this. What takes longer is asked for again.
    pub(super) async fn wait_for(
        &self,
        moving: Vec<(usize, DeliveryTag)>,
        results: &mut [Result<Settled>],
    ) {
        let mut patience = pin!(self.shared.patience());
        let mut is_over = false;
        for (at, tag) in moving {
            let outcome = self.lock().moving.get(&tag).map(watch::Sender::subscribe);
            // Its session is gone.
            let Some(mut outcome) = outcome else {
                continue;
            };
            let known = async {
                let known = outcome.wait_for(Option::is_some).await;
                known.ok().and_then(|known| known.clone())
            };
            let mut known = pin!(known);
            let known = if is_over {
                known.as_mut().now_or_never().flatten()
            } else {
                tokio::select! {
                    biased;
                    known = &mut known => known,
                    () = &mut patience => {
                        is_over = true;
                        None
                    }
                }
            };
            let mut held = self.lock();
            match known {
                Some(result) => {
                    held.moving.remove(&tag);
                    results[at] = result;
                }
                None if held.moving.contains_key(&tag) => {
                    results[at] = Err(self.shared.late());
                }
                // Its session is gone meanwhile.
                None => {}
            }
        }
    }
}
