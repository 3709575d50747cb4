//! The deliveries that one consumer holds, by the numbers of their tags.

use std::collections::{BTreeMap, VecDeque};

use crate::stored::Slot;

/// What a consumer holds. Settling costs an index, not a hash.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The number of the window's first place.
    first: u64,
    window: VecDeque<Option<Slot>>,
    /// Old deliveries, taken out of the window so that one slow handler does not keep it growing.
    stragglers: BTreeMap<u64, Slot>,
    count: usize,
}

/// How much longer than what is held the window may be.
const SLACK: usize = 1_024;

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Holds one more and answers its number.
    pub(crate) fn push(&mut self, slot: Slot) -> u64 {
        let number = self.first + self.window.len() as u64;
        self.window.push_back(Some(slot));
        self.count += 1;
        number
    }

    /// A number for something that is not held.
    pub(crate) fn skip(&mut self) -> u64 {
        self.first += 1;
        self.first - 1
    }

    pub(crate) fn get(&self, number: u64) -> Option<Slot> {
        match number.checked_sub(self.first) {
            Some(at) => *self.window.get(usize::try_from(at).ok()?)?,
            None => self.stragglers.get(&number).copied(),
        }
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<Slot> {
        let slot = match number.checked_sub(self.first) {
            Some(at) => self.window.get_mut(usize::try_from(at).ok()?)?.take()?,
            None => self.stragglers.remove(&number)?,
        };
        self.count -= 1;
        while let Some(None) = self.window.front() {
            self.window.pop_front();
            self.first += 1;
        }
        if self.window.len() > 2 * self.count + SLACK {
            self.set_stragglers_aside();
        }
        Some(slot)
    }

    /// Each number is moved at most once, so that this costs nothing per delivery in the long run.
    fn set_stragglers_aside(&mut self) {
        while self.window.len() > 2 * self.count
            && let Some(front) = self.window.pop_front()
        {
            if let Some(slot) = front {
                self.stragglers.insert(self.first, slot);
            }
            self.first += 1;
        }
    }

    /// Everything held, in the order of delivery.
    pub(crate) fn into_slots(self) -> Vec<Slot> {
        self.stragglers
            .into_values()
            .chain(self.window.into_iter().flatten())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_delivery_does_not_keep_the_window_growing() {
        let mut held = Held::default();
        let slow = held.push(7);
        for order in 0..100_000 {
            let number = held.push(order);
            assert_eq!(held.take(number), Some(order));
        }
        assert!(held.window.len() <= 2 * SLACK, "{}", held.window.len());
        assert_eq!((held.get(slow), held.len()), (Some(7), 1));
        assert_eq!(
            (held.take(slow), held.take(slow), held.len()),
            (Some(7), None, 0)
        );
    }

    #[test]
    fn everything_held_comes_in_the_order_of_delivery() {
        let mut held = Held::default();
        let numbers: Vec<u64> = (0..4_000).map(|slot| held.push(slot)).collect();
        for number in &numbers[1..3_990] {
            held.take(*number);
        }
        assert!(!held.stragglers.is_empty());
        let expected: Vec<Slot> = [0].into_iter().chain(3_990..4_000).collect();
        assert_eq!(held.into_slots(), expected);
    }
}
