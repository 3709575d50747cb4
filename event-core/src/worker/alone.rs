//! Running a delivery that may have killed a process: with nothing else of this process in flight.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use super::Worker;
use crate::{conclude::Ended, context, delivery::Delivery, isolation::Alone};

/// Whether the broker recorded that a suspect runs alone.
enum Recorded {
    /// It did, and this often before.
    Alone(Alone, u32),
    /// Not yet, or it was taken away: see what is to be done, then ask again.
    NotNow,
    /// It goes back.
    Never,
}

impl Worker {
    /// Runs the first suspect. Nothing of this worker is in flight.
    pub(super) async fn run_alone(&mut self) {
        let recorded = self.record_alone().await;
        if matches!(recorded, Recorded::NotNow) {
            return;
        }
        let Some(mut delivery) = self.suspects.pop_front() else {
            return;
        };
        let Recorded::Alone(alone, crashes) = recorded else {
            let generation = delivery.tag().generation;
            self.release_held(delivery);
            if self.queue.ordered {
                // Or those of its key would overtake it, also such as stand in the channel.
                while let Ok(command) = self.channels.commands.try_recv() {
                    self.obey(Some(command));
                }
                self.release_waiting(|tag| tag.generation == generation);
            }
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

    /// Waits until nothing else is in flight, and has the broker record that the first suspect runs alone. It
    /// stays in its line meanwhile, so that stopping and revoking find it there.
    async fn record_alone(&mut self) -> Recorded {
        let Some(suspect) = self.suspects.front() else {
            return Recorded::NotNow;
        };
        let (tag, id) = (suspect.tag(), suspect.message().id().clone());
        let (queue, process) = (self.queue.clone(), self.queue.bus.process().clone());
        let mut gate = pin!(process.isolate());
        let alone = loop {
            tokio::select! {
                biased;
                () = queue.stop.cancelled() => return Recorded::NotNow,
                command = self.channels.commands.recv(), if !self.closed => {
                    self.obey(command);
                    self.answer_revoking();
                    self.flush();
                    if self.suspects.front().map(Delivery::tag) != Some(tag) {
                        return Recorded::NotNow;
                    }
                }
                alone = &mut gate => break alone,
            }
        };
        let error = tokio::select! {
            biased;
            () = queue.stop.cancelled() => return Recorded::NotNow,
            counted = queue.settle.isolate(tag) => match counted {
                Ok(crashes) => return Recorded::Alone(alone, crashes),
                Err(error) => error,
            },
        };
        drop(alone);
        tracing::warn!(
            target: "switchboard",
            queue = queue.name(), %id, %error,
            "a delivery that may have ended a process waits: the broker did not record that it runs alone"
        );
        if !error.is_retryable() {
            return Recorded::Never;
        }
        // A broker in trouble should not be asked in a circle, nor get it back only to return it.
        tokio::select! {
            biased;
            () = queue.stop.cancelled() => return Recorded::NotNow,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        // In an ordered queue those of its key would overtake it.
        if queue.ordered {
            Recorded::NotNow
        } else {
            Recorded::Never
        }
    }
}
