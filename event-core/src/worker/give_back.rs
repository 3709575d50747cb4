//! Giving deliveries back without an attempt: at shutdown, and when a generation is taken away.

use super::Worker;
use crate::{
    delivery::{Delivery, DeliveryTag},
    settler::{Finished, ToSettler},
};

impl Worker {
    /// Gives back what has not been started and is wanted back.
    pub(super) fn release_waiting(&mut self, wanted: impl Fn(DeliveryTag) -> bool) {
        for delivery in self.take_waiting(wanted) {
            self.finished.push(Finished::Release(delivery.tag()));
        }
    }

    /// Drops what has not been started of a generation that is gone: the broker has it.
    pub(super) fn forget_waiting(&mut self, generation: u64) {
        let gone = self.take_waiting(|tag| tag.generation == generation);
        self.finished
            .extend(gone.iter().map(|_| Finished::Forgotten));
    }

    /// Gives back a delivery whose key is held for it.
    pub(super) fn release_held(&mut self, delivery: Delivery) {
        self.finished.push(Finished::Release(delivery.tag()));
        if let Some(key) = self.key_of(&delivery) {
            self.free_key(key);
            if self.stopping {
                self.release_waiting(|_| true);
            }
        }
    }

    fn take_waiting(&mut self, wanted: impl Fn(DeliveryTag) -> bool) -> Vec<Delivery> {
        let mut taken = Vec::new();
        // Suspects and failed deliveries hold their keys; without them those keys are free.
        let mut holders = Vec::new();
        take(&mut self.suspects, &wanted, &mut holders);
        take(&mut self.due, &wanted, &mut holders);
        let parked: Vec<_> = self
            .parked
            .keys()
            .copied()
            .filter(|&tag| wanted(tag))
            .collect();
        holders.extend(parked.iter().filter_map(|tag| self.parked.remove(tag)));
        for delivery in &holders {
            if let Some(key) = self.key_of(delivery) {
                self.free_key(key);
            }
        }
        taken.append(&mut holders);
        take(&mut self.line, &wanted, &mut taken);
        for waiting in self.keys.values_mut() {
            take(waiting, &wanted, &mut taken);
        }
        // Brokers that put a delivery back where it was want them in their old order.
        taken.sort_unstable_by_key(Delivery::tag);
        taken
    }

    /// Answers for generations of which nothing runs here any more, once everything was settled.
    pub(super) fn answer_revoking(&mut self) {
        if self.revoking.is_empty() {
            return;
        }
        self.flush();
        let slots = &self.slots;
        let runs = |generation| {
            slots
                .iter()
                .flatten()
                .any(|flying| flying.delivery.tag().generation == generation)
        };
        for (_, done) in self
            .revoking
            .extract_if(.., |(generation, _)| !runs(*generation))
        {
            let _ = self.channels.settler.send(ToSettler::Flush(done));
        }
    }

    /// The service stops at once: futures in flight are dropped, and what they worked on goes back.
    pub(super) fn give_up(&mut self) {
        // A destructor of a handler's, or of a layer's, may panic.
        for lane in std::mem::take(&mut self.lanes) {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lane)));
        }
        let slots = std::mem::take(&mut self.slots);
        self.finished.extend(
            slots
                .iter()
                .flatten()
                .map(|flying| Finished::Release(flying.delivery.tag())),
        );
        self.release_waiting(|_| true);
        // The reader and the settler may have sent more, which nobody takes now.
        self.channels.back.close();
        while let Ok(back) = self.channels.back.try_recv() {
            if let super::Back::Again { delivery, .. } = back {
                self.finished.push(Finished::Release(delivery.tag()));
            }
        }
        self.channels.commands.close();
        while let Ok(command) = self.channels.commands.try_recv() {
            if let super::Command::Run(batch) = command {
                self.finished.extend(
                    batch
                        .iter()
                        .map(|delivery| Finished::Release(delivery.tag())),
                );
            }
        }
        self.flush();
    }
}

fn take(
    from: &mut std::collections::VecDeque<Delivery>,
    wanted: impl Fn(DeliveryTag) -> bool,
    into: &mut Vec<Delivery>,
) {
    if from.iter().any(|delivery| wanted(delivery.tag())) {
        let (taken, kept) = std::mem::take(from)
            .into_iter()
            .partition::<Vec<_>, _>(|delivery| wanted(delivery.tag()));
        into.extend(taken);
        *from = kept.into();
    }
}
