//! The trie under a [`TopicMap`](super::TopicMap).

use super::{
    tails::{Key, Tails},
    word_map::WordMap,
    words::Words,
};

/// What follows after some words of a pattern. A pattern has at most 256 words, so recursion stays
/// within any stack.
#[derive(Clone)]
pub(super) struct Node<E> {
    /// The entries whose pattern ends here.
    pub(super) entries: Vec<E>,
    words: WordMap<Node<E>>,
    star: Option<Box<Node<E>>>,
    hash: Option<Box<Node<E>>>,
}

impl<E> Node<E> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            words: WordMap::new(),
            star: None,
            hash: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.words.is_empty()
            && self.star.is_none()
            && self.hash.is_none()
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Self> {
        let wildcards = self.star.iter().chain(&self.hash).map(Box::as_ref);
        wildcards.chain(self.words.values())
    }

    /// The node after one word more, made where there is none.
    pub(super) fn child(&mut self, word: &str) -> &mut Self {
        let new = || Box::new(Self::new());
        match word {
            "*" => self.star.get_or_insert_with(new),
            "#" => self.hash.get_or_insert_with(new),
            _ => self.words.get_or_insert_with(word, new),
        }
    }

    /// Removes entries at the end of `words`, then every node on the way that led only there.
    pub(super) fn remove(&mut self, mut words: Words<'_>, unwanted: &impl Fn(&E) -> bool) -> usize {
        let Some(word) = words.next() else {
            let before = self.entries.len();
            self.entries.retain(|entry| !unwanted(entry));
            return before - self.entries.len();
        };
        let child = match word {
            "*" => self.star.as_deref_mut(),
            "#" => self.hash.as_deref_mut(),
            _ => self.words.get_mut(word),
        };
        let Some(child) = child else { return 0 };
        let removed = child.remove(words, unwanted);
        if child.is_empty() {
            match word {
                "*" => self.star = None,
                "#" => self.hash = None,
                _ => self.words.remove(word),
            }
        }
        removed
    }

    /// Calls `f` once with every node that the words of the key lead to, and whether they can end
    /// there. `tails` is what can be left of the key at this node.
    pub(super) fn visit<'a, const INTEGERS: usize>(
        &'a self,
        key: &Key<'_>,
        mut tails: Tails<INTEGERS>,
        f: &mut impl FnMut(&'a Self, bool),
    ) {
        f(self, tails.has_end());
        if let Some(hash) = &self.hash {
            hash.visit(key, tails.after_any(), f);
        }
        if let Some(star) = &self.star {
            let tails = tails.after_one();
            if !tails.is_empty() {
                star.visit(key, tails, f);
            }
        }
        if self.words.is_empty() {
            return;
        }
        while let Some(tail) = tails.pop() {
            let word = key.head(tail);
            if let Some(child) = self.words.get(word) {
                // The other tails that go the same way go along: each child is visited once.
                let mut taken = tails.extract(|other| key.head(other) == word);
                taken.insert(tail);
                child.visit(key, taken.after_one(), f);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tails::AnyTails, *};

    impl<E> Node<E> {
        fn size(&self) -> usize {
            1 + self.children().map(Self::size).sum::<usize>()
        }
    }

    fn insert(root: &mut Node<()>, pattern: &str) {
        Words::of(pattern).fold(root, Node::child).entries.push(());
    }

    /// Every pattern of up to six words over `#`, `*` and `a`.
    fn dense() -> (Node<()>, Vec<String>) {
        let mut patterns = vec![String::new()];
        let mut last = 0..1;
        for _ in 0..6 {
            let longer = |text: &String| ["#", "*", "a"].map(|word| format!("{text}.{word}"));
            let added: Vec<String> = patterns[last].iter().flat_map(longer).collect();
            last = patterns.len()..patterns.len() + added.len();
            patterns.extend(added);
        }
        let mut root = Node::new();
        for pattern in &mut patterns {
            *pattern = pattern.trim_start_matches('.').to_owned();
            insert(&mut root, pattern);
        }
        (root, patterns)
    }

    #[test]
    fn visits_each_node_once() {
        let (root, patterns) = dense();
        assert_eq!(root.size(), patterns.len());
        // 128 words and up to six `#`: to try every way would take billions of visits.
        let key = ["a"; 128].join(".");
        let key = Key::new(&key).unwrap();
        let mut visited = Vec::new();
        root.visit(&key, AnyTails::whole(&key), &mut |node, _| {
            visited.push(std::ptr::from_ref(node));
        });
        let visits = visited.len();
        visited.sort();
        visited.dedup();
        assert_eq!((visits, visited.len()), (root.size(), root.size()));
    }

    #[test]
    fn removes_nodes_that_lead_nowhere() {
        let (mut root, patterns) = dense();
        insert(&mut root, "order.*.#.submit");
        assert_eq!(root.size(), patterns.len() + 4);
        assert_eq!(root.remove(Words::of("order.*.#.submit"), &|_| true), 1);
        assert_eq!(root.size(), patterns.len());
        for pattern in &patterns {
            assert_eq!(root.remove(Words::of(pattern), &|_| true), 1);
        }
        assert_eq!(root.size(), 1);
    }
}
