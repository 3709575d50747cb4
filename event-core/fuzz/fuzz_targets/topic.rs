//! Compares [`TopicMap`] and [`Pattern`] with the definition of topic matching.
//!
//! The first line of the input is a routing key. Each other line inserts a pattern, or removes
//! one when it begins with `-`.

#![no_main]

use event_core::{Pattern, TopicMap, key_matches};
use libfuzzer_sys::fuzz_target;

/// The definition, word by word. Takes exponential time.
fn defined(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, _) => key.is_empty(),
        (Some((&"#", rest)), _) => (0..=key.len()).any(|taken| defined(rest, &key[taken..])),
        (Some((&word, rest)), Some((&head, tail))) => {
            (word == "*" || word == head) && defined(rest, tail)
        }
        (Some(_), None) => false,
    }
}

fn words(text: &str) -> Vec<&str> {
    match text {
        "" => Vec::new(),
        _ => text.split('.').collect(),
    }
}

fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let key = lines.next().unwrap_or_default();
    let mut map = TopicMap::new();
    let mut entries: Vec<(Pattern, usize)> = Vec::new();
    for (number, line) in lines.enumerate() {
        let text = line.strip_prefix('-').unwrap_or(line);
        let Ok(pattern) = Pattern::new(text) else {
            assert!(text.len() > 255 && !key_matches(text, key));
            continue;
        };
        if text.len() < line.len() {
            let before = entries.len();
            entries.retain(|(other, _)| *other != pattern);
            assert_eq!(map.remove(&pattern, |_| true), before - entries.len());
        } else {
            map.insert(&pattern, number);
            entries.push((pattern, number));
        }
    }

    let mut matching = Vec::new();
    for (pattern, number) in &entries {
        let is_match = pattern.matches(key);
        assert_eq!(is_match, key_matches(pattern.as_str(), key));
        let hashes = pattern.as_str().matches('#').count();
        if key.len() <= 255 && (hashes <= 2 || key.len() <= 32 && hashes <= 5) {
            assert_eq!(is_match, defined(&words(pattern.as_str()), &words(key)));
        }
        if is_match {
            matching.push((pattern, *number));
        }
    }

    let mut reported = Vec::new();
    map.for_each_match(key, |number| reported.push(*number));
    reported.sort();
    assert!(
        reported
            .iter()
            .eq(matching.iter().map(|(_, number)| number))
    );
    assert_eq!(map.len(), entries.len());

    for pair in matching.windows(2) {
        assert!(pair[0].0.overlaps(pair[1].0));
    }
});
