//! Values by word: the literal children of a node in the trie.

use std::{collections::HashMap, mem};

use smol_str::SmolStr;

/// Up to this many words, comparing with each is faster than hashing.
const FEW: usize = 8;

/// A list that becomes a hash map when it grows, and stays one.
///
/// The map keeps the standard hasher, with its random seed: whoever chooses the words of keys or
/// bindings cannot make them collide. The values are boxed because most of what a lookup costs in a
/// large map is memory that the cache does not hold.
#[derive(Clone)]
pub(super) enum WordMap<V> {
    Few(Vec<(SmolStr, Box<V>)>),
    Many(HashMap<SmolStr, Box<V>>),
}

impl<V> WordMap<V> {
    pub(super) const fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub(super) fn get(&self, word: &str) -> Option<&V> {
        let value = match self {
            Self::Few(list) => list.iter().find(|(known, _)| known == word).map(|(_, v)| v),
            Self::Many(map) => map.get(word),
        };
        value.map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, word: &str) -> Option<&mut V> {
        let value = match self {
            Self::Few(list) => (list.iter_mut())
                .find(|(known, _)| known == word)
                .map(|(_, v)| v),
            Self::Many(map) => map.get_mut(word),
        };
        value.map(Box::as_mut)
    }

    pub(super) fn get_or_insert_with(
        &mut self,
        word: &str,
        new: impl FnOnce() -> Box<V>,
    ) -> &mut V {
        if let Self::Few(list) = self
            && list.len() == FEW
        {
            *self = Self::Many(mem::take(list).into_iter().collect());
        }
        match self {
            Self::Few(list) => {
                let at = list
                    .iter()
                    .position(|(known, _)| known == word)
                    .unwrap_or_else(|| {
                        // Not room for four, as `push` would make: most lists stay at one.
                        list.reserve_exact(1);
                        list.push((word.into(), new()));
                        list.len() - 1
                    });
                &mut list[at].1
            }
            Self::Many(map) => map.entry(word.into()).or_insert_with(new),
        }
    }

    pub(super) fn remove(&mut self, word: &str) {
        match self {
            Self::Few(list) => list.retain(|(known, _)| known != word),
            Self::Many(map) => _ = map.remove(word),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        let (list, map) = match self {
            Self::Few(list) => (Some(list), None),
            Self::Many(map) => (None, Some(map)),
        };
        let list = list.into_iter().flatten().map(|(_, value)| value);
        let map = map.into_iter().flat_map(HashMap::values);
        list.chain(map).map(Box::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_words_when_it_grows() {
        let mut map = WordMap::new();
        let words: Vec<String> = (0..3 * FEW).map(|queue| format!("queue-{queue}")).collect();
        for (number, word) in words.iter().enumerate() {
            assert_eq!(map.get(word), None);
            assert_eq!(map.get_or_insert_with(word, || Box::new(number)), &number);
            assert_eq!(map.get_or_insert_with(word, || panic!()), &number);
            assert_eq!(map.values().count(), number + 1);
        }
        for (number, word) in words.iter().enumerate() {
            assert_eq!(map.get(word), Some(&number));
            map.remove(word);
            assert_eq!(map.get_mut(word), None);
        }
        assert!(map.is_empty());
    }
}
