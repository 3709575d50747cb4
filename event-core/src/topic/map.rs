//! Many patterns against one key.

use std::{fmt, iter};

use super::{
    node::Node,
    pattern::Pattern,
    tails::{AnyTails, Key, ShortTails},
    words::Words,
};

/// Values under patterns, found by routing key: a binding table.
///
/// A pattern may be inserted many times; each entry counts. A lookup follows the words of the key
/// through a trie, so it costs about as much with 10,000 patterns as with ten, and does not
/// allocate. At worst it takes the words of the key times the words of the patterns.
///
/// ```
/// use event_core::{Pattern, TopicMap};
///
/// let mut bindings = TopicMap::new();
/// bindings.insert(&Pattern::new("order.*.submit")?, "billing");
/// bindings.insert(&Pattern::new("order.#")?, "audit");
/// bindings.insert(&Pattern::new("batch.#")?, "reports");
///
/// let mut queues = Vec::new();
/// bindings.for_each_match("order.v1.submit", |queue| queues.push(*queue));
/// queues.sort();
/// assert_eq!(queues, ["audit", "billing"]);
/// # Ok::<(), event_core::PatternError>(())
/// ```
#[derive(Clone)]
pub struct TopicMap<T> {
    root: Node<(Pattern, T)>,
    len: usize,
}

impl<T> TopicMap<T> {
    /// A map without entries.
    pub const fn new() -> Self {
        Self {
            root: Node::new(),
            len: 0,
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry. Entries that are there already stay, also equal ones.
    pub fn insert(&mut self, pattern: &Pattern, value: T) {
        let words = Words::of(pattern.as_str());
        let end = words.fold(&mut self.root, Node::child);
        end.entries.push((pattern.clone(), value));
        self.len += 1;
    }

    /// Removes the entries of a pattern whose value is `unwanted`, and returns how many there were.
    ///
    /// Patterns are compared as they are written: `#.#` matches what `#` matches, but is another
    /// pattern.
    pub fn remove(&mut self, pattern: &Pattern, unwanted: impl Fn(&T) -> bool) -> usize {
        let words = Words::of(pattern.as_str());
        let removed = self.root.remove(words, &|(_, value)| unwanted(value));
        self.len -= removed;
        removed
    }

    /// Calls `f` with the value of every entry whose pattern matches a key, once for each entry.
    /// Entries of one pattern come in the order of insertion. The order of the patterns is the map's
    /// own, but the same in every run.
    ///
    /// A text of more than 255 bytes is no routing key, and no pattern matches it.
    pub fn for_each_match<'a>(&'a self, key: &str, mut f: impl FnMut(&'a T)) {
        let Some(key) = Key::new(key) else { return };
        let report = &mut |node: &'a Node<(Pattern, T)>, is_match| {
            if is_match {
                node.entries.iter().for_each(|(_, value)| f(value));
            }
        };
        if key.is_short() {
            self.root.visit(&key, ShortTails::whole(&key), report);
        } else {
            self.root.visit(&key, AnyTails::whole(&key), report);
        }
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, &T)> {
        let mut open = vec![&self.root];
        iter::from_fn(move || {
            let node = open.pop()?;
            open.extend(node.children());
            Some(&node.entries)
        })
        .flatten()
        .map(|(pattern, value)| (pattern, value))
    }
}

impl<T> Default for TopicMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for TopicMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
