//! Whether two patterns have a key in common.

use super::{MAX_BYTES, pattern::key_matches, words::Words};

/// More than any key costs.
const NEVER: usize = usize::MAX;

/// Whether some key matches both patterns.
///
/// Finds the shortest common word list by dynamic programming, since a list that does not fit into
/// a key does not count. A word costs its bytes and one for a dot, so a list costs one byte more
/// than the key it spells. Allocates two rows: this runs at start-up, not per message.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let left: Vec<&str> = Words::of(a).collect();
    let right: Vec<&str> = Words::of(b).collect();
    // `row[j]` is the cost of what matches both `left[i..]` and `right[j..]`, `below[j]` that of
    // `left[i + 1..]` and `right[j..]`.
    let mut below = vec![NEVER; right.len() + 1];
    for i in (0..=left.len()).rev() {
        let mut row = vec![NEVER; right.len() + 1];
        for j in (0..=right.len()).rev() {
            row[j] = match (left.get(i), right.get(j)) {
                (None, None) => 0,
                // Words that both `#` take can be left out, so one of the two takes none.
                (Some(&"#"), Some(&"#")) => below[j].min(row[j + 1]),
                (Some(&"#"), None) => below[j],
                (None, Some(&"#")) => row[j + 1],
                (Some(&"#"), Some(word)) => below[j].min(row[j + 1].saturating_add(cost(word))),
                (Some(word), Some(&"#")) => row[j + 1].min(below[j].saturating_add(cost(word))),
                (Some(&x), Some(&y)) if x == y || x == "*" || y == "*" => {
                    below[j + 1].saturating_add(cost(x).max(cost(y)))
                }
                _ => NEVER,
            };
        }
        below = row;
    }
    match below[0] {
        // The list of one empty word. No key spells it: the empty key has no words. Patterns that
        // match it consist of `#` and at most one other word, `*` or the empty one. Two of them
        // without an empty word share the key `a`, two that can match a second word share `.`, and
        // what remains is `*` beside one like `#.`, which share nothing.
        1 => ["a", "."]
            .iter()
            .any(|key| key_matches(a, key) && key_matches(b, key)),
        cost => cost <= MAX_BYTES + 1,
    }
}

/// The least that a word of a pattern adds to the cost of a list.
fn cost(word: &str) -> usize {
    match word {
        "*" => 1,
        literal => literal.len() + 1,
    }
}
