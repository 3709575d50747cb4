//! Values under ascending numbers, most of which live shortly.

use std::collections::{BTreeMap, VecDeque};

/// Keeps the messages of a queue by place, and what a consumer holds by the number of its tag.
///
/// A value is written once, and found by index instead of a hash. One that stays long is set aside, so that
/// it does not keep the window growing.
#[derive(Debug)]
pub(crate) struct Window<T> {
    /// The number of the front.
    first: u64,
    kept: VecDeque<Option<T>>,
    stragglers: BTreeMap<u64, T>,
    count: usize,
}

/// How much longer than what is kept the window may be.
const SLACK: usize = 1_024;
/// An empty window gives its memory back when it has grown beyond this.
const SPARE: usize = 16_384;

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self {
            first: 0,
            kept: VecDeque::new(),
            stragglers: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<T> Window<T> {
    /// How many values it keeps.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of the next value.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Keeps a value and answers its number.
    pub(crate) fn push(&mut self, value: T) -> u64 {
        let number = self.end();
        self.kept.push_back(Some(value));
        self.count += 1;
        number
    }

    pub(crate) fn extend(&mut self, values: impl Iterator<Item = T>) {
        let before = self.kept.len();
        self.kept.extend(values.map(Some));
        self.count += self.kept.len() - before;
    }

    /// Gives a number to something that is not kept. Only of use while nothing is.
    pub(crate) fn skip(&mut self) -> u64 {
        self.first += 1;
        self.first - 1
    }

    /// Where in the window it is; nothing when it is older.
    fn index(&self, number: u64) -> Option<usize> {
        let index = number.checked_sub(self.first)?;
        // Too large for memory is too large for a window.
        Some(usize::try_from(index).unwrap_or(usize::MAX))
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        match self.index(number) {
            Some(at) => self.kept.get(at)?.as_ref(),
            None => self.stragglers.get(&number),
        }
    }

    /// The `count` values from this number on, of which none was taken yet.
    pub(crate) fn from(&self, number: u64, count: usize) -> impl ExactSizeIterator<Item = &T> {
        let at = self.index(number).unwrap_or(0);
        #[expect(clippy::expect_used, reason = "the caller says that none was taken")]
        self.kept
            .range(at..at + count)
            .map(|value| value.as_ref().expect("a value that was not taken"))
    }

    /// Puts a value back under the number that it was taken from.
    pub(crate) fn restore(&mut self, number: u64, value: T) {
        match self.index(number).and_then(|at| self.kept.get_mut(at)) {
            Some(kept) => *kept = Some(value),
            None => _ = self.stragglers.insert(number, value),
        }
        self.count += 1;
    }

    /// Takes a value out. After a batch of them, [`tidy`](Self::tidy).
    pub(crate) fn take(&mut self, number: u64) -> Option<T> {
        let value = match self.index(number) {
            Some(at) => self.kept.get_mut(at)?.take()?,
            None => self.stragglers.remove(&number)?,
        };
        self.count -= 1;
        Some(value)
    }

    /// The same without moving a large value out.
    pub(crate) fn discard(&mut self, number: u64) {
        let discarded = match self.index(number) {
            Some(at) => self
                .kept
                .get_mut(at)
                .filter(|kept| kept.is_some())
                .map(|kept| *kept = None),
            None => self.stragglers.remove(&number).map(drop),
        };
        self.count -= usize::from(discarded.is_some());
    }

    /// Gives up numbers whose values are gone.
    pub(crate) fn tidy(&mut self) {
        let gone = self.kept.iter().take_while(|value| value.is_none()).count();
        self.kept.drain(..gone);
        self.first += gone as u64;
        if self.count == 0 {
            // To its beginning again, where memory is warm.
            self.kept.clear();
            self.kept.shrink_to(SPARE);
        } else if self.kept.len() > 2 * self.count + SLACK {
            self.set_stragglers_aside();
        }
    }

    /// Each number is passed once, so that this costs nothing per value in the long run. Values from some
    /// number on of which none was taken stay in the window, since they alone are not more than `count`.
    fn set_stragglers_aside(&mut self) {
        while self.kept.len() > 2 * self.count
            && let Some(front) = self.kept.pop_front()
        {
            if let Some(value) = front {
                self.stragglers.insert(self.first, value);
            }
            self.first += 1;
        }
    }

    /// Everything kept, by number.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.stragglers
            .into_values()
            .chain(self.kept.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_stays_does_not_keep_the_window_growing() {
        let mut window = Window::default();
        let slow = window.push("slow");
        for _ in 0..100_000 {
            let quick = window.push("quick");
            assert_eq!(window.take(quick), Some("quick"));
            window.tidy();
        }
        assert!(window.kept.len() <= 2 * SLACK, "{}", window.kept.len());
        assert_eq!((window.get(slow), window.len()), (Some(&"slow"), 1));
        window.restore(5, "again");
        window.discard(slow);
        window.discard(slow);
        assert_eq!(
            (window.len(), window.take(5), window.len()),
            (1, Some("again"), 0)
        );
        window.tidy();
        assert_eq!(window.push("next"), 100_001);
    }

    #[test]
    fn values_come_out_by_number() {
        let mut window = Window::default();
        window.extend(0..4_000);
        for number in 1..3_990 {
            window.discard(number);
        }
        window.tidy();
        assert!(!window.stragglers.is_empty());
        assert_eq!(
            window.from(3_998, 2).copied().collect::<Vec<_>>(),
            [3_998, 3_999]
        );
        assert!(window.into_values().eq([0].into_iter().chain(3_990..4_000)));
    }
}
