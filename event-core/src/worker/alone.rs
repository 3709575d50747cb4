//! Running a delivery that may have killed a process: with nothing else of this process in flight.

use std::{future::poll_fn, task::Poll, time::Duration};

use super::Worker;
use crate::{conclude::Ended, context, isolation::Alone};

impl Worker {
    /// Runs the first suspect. Nothing of this worker is in flight.
    pub(super) async fn run_alone(&mut self) {
        // It stays in its line until it is clear what becomes of it, so that stopping finds it there.
        let recorded = self.record_alone().await;
        let Some(mut delivery) = self.suspects.pop_front() else {
            return;
        };
        let Some((alone, crashes)) = recorded else {
            self.release_held(delivery);
            return;
        };
        self.alone = Some(Box::new(alone));
        let key = self.key_of(&delivery);
        let attempt = delivery.attempt().saturating_add(crashes);
        if attempt > self.queue.policy.allowed() {
            let ended = Ended {
                delivery,
                attempt: attempt - 1,
                failures: Vec::new(),
                missing: None,
                crashed: true,
            };
            self.hand_over(
                ended,
                Vec::new(),
                None,
                self.queue.ordered.then_some(key).flatten(),
            );
        } else {
            if crashes > 0 {
                context::set(delivery.message_mut(), context::ATTEMPT, attempt);
            }
            let mut waiting = Some(delivery);
            poll_fn(|cx| {
                if let Some(delivery) = waiting.take() {
                    self.begin(delivery, key, attempt, cx);
                }
                self.poll_lanes(cx);
                if self.running == 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        if let (Some(key), false) = (key, self.queue.ordered) {
            self.free_key(key);
        }
        self.flush();
    }

    /// Waits until nothing else is in flight, and has the broker record it. Nothing when the service stops
    /// or the broker did not record it.
    async fn record_alone(&mut self) -> Option<(Alone, u32)> {
        let suspect = self.suspects.front()?;
        let (tag, id) = (suspect.tag(), suspect.message().id().clone());
        let stop = self.queue.stop.clone();
        let work = async {
            let alone = self.queue.bus.process().isolate().await;
            match self.queue.settle.isolate(tag).await {
                Ok(crashes) => Some((alone, crashes)),
                Err(error) => {
                    drop(alone);
                    tracing::warn!(
                        target: "switchboard",
                        queue = self.queue.name(), %id, %error,
                        "a delivery that may have ended a process goes back: the broker did not record that it runs alone"
                    );
                    // It comes back at once, and a broker in trouble should not be asked in a circle.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    None
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            recorded = work => recorded,
        }
    }
}
