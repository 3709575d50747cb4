//! Topic matching: what RabbitMQ answered, and properties against the definition.

// Clippy exempts the functions marked `#[test]`, but not what they call.
#![allow(clippy::unwrap_used)]

use std::str::from_utf8;

use event_core::{Pattern, TopicMap, key_matches};
use proptest::{collection::vec, prelude::*, sample::select};

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

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

/// The values in a map whose patterns match, sorted.
fn matches<T: Copy + Ord>(map: &TopicMap<T>, key: &str) -> Vec<T> {
    let mut values = Vec::new();
    map.for_each_match(key, |value| values.push(*value));
    values.sort();
    values
}

/// Pattern, key, whether RabbitMQ routes the key to the binding.
fn vectors() -> Vec<(Pattern, String, bool)> {
    include_str!("data/topic.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let text = |column: usize| serde_json::from_str::<String>(columns[column]).unwrap();
            let is_match = match columns[2] {
                "1" => true,
                "0" => false,
                other => panic!("`{other}` in the third column of `{line}`"),
            };
            (pattern(&text(0)), text(1), is_match)
        })
        .collect()
}

#[test]
fn there_are_409_vectors() {
    assert_eq!(vectors().len(), 409);
}

#[test]
fn one_pattern_answers_as_rabbitmq_does() {
    for (pattern, key, is_match) in vectors() {
        assert_eq!(pattern.matches(&key), is_match, "{pattern:?} {key:?}");
        let answer = key_matches(pattern.as_str(), &key);
        assert_eq!(answer, is_match, "{pattern:?} {key:?}");
        let answer = defined(&words(pattern.as_str()), &words(&key));
        assert_eq!(answer, is_match, "{pattern:?} {key:?}");
    }
}

#[test]
fn a_map_of_all_patterns_answers_as_rabbitmq_does() {
    let vectors = vectors();
    let mut map = TopicMap::new();
    for (row, (pattern, ..)) in vectors.iter().enumerate() {
        map.insert(pattern, row);
    }
    for (row, (pattern, key, is_match)) in vectors.iter().enumerate() {
        let rows = matches(&map, key);
        assert_eq!(rows.contains(&row), *is_match, "{pattern:?} {key:?}");
        let expected: Vec<usize> = (0..vectors.len())
            .filter(|&row| vectors[row].0.matches(key))
            .collect();
        assert_eq!(rows, expected, "{key:?}");
    }
}

#[test]
fn patterns_and_keys_end_at_255_bytes() {
    let longest = "x".repeat(255);
    let literal = pattern(&longest);
    assert!(literal.is_literal() && literal.matches(&longest));
    assert!(pattern("*").matches(&longest));

    let error = Pattern::new(format!("{longest}x")).unwrap_err();
    let shown = &longest[..40];
    assert_eq!(
        error.to_string(),
        format!("pattern `{shown}…` has 256 bytes; shorten it to at most 255")
    );

    let too_long = "x".repeat(256);
    assert!(!pattern("*").matches(&too_long));
    assert!(!pattern("#").matches(&too_long));
    assert!(!key_matches("#", &too_long));
    assert!(!key_matches(&too_long, &too_long));
    assert!(!key_matches(&["#"; 129].join("."), &longest));
    let mut map = TopicMap::new();
    map.insert(&pattern("#"), ());
    assert_eq!(matches(&map, &longest), [()]);
    assert_eq!(matches(&map, &too_long), []);
}

#[test]
fn a_key_of_dots_has_256_words() {
    let dots = ".".repeat(255);
    let most_stars = format!("{}*", "*.".repeat(127));
    let stars_behind_hash = format!("#.{}", &most_stars[2..]);
    let matching = [&dots, "#", "#.*.#", &stars_behind_hash];
    let others = [&dots[1..], "*", &most_stars];
    let mut map = TopicMap::new();
    for text in matching.iter().chain(&others) {
        assert_eq!(
            pattern(text).matches(&dots),
            matching.contains(text),
            "{text}"
        );
        map.insert(&pattern(text), *text);
    }
    let mut expected = matching;
    expected.sort();
    assert_eq!(matches(&map, &dots), expected);
}

/// Every text of up to `most` of these words.
fn all_texts(most: usize, words: &[&str]) -> Vec<String> {
    let mut longest: Vec<Vec<&str>> = vec![Vec::new()];
    let mut lists = longest.clone();
    for _ in 0..most {
        let longer = |list: &Vec<_>| words.iter().map(|w| [list, &[*w][..]].concat()).collect();
        longest = longest.iter().flat_map::<Vec<_>, _>(longer).collect();
        lists.extend_from_slice(&longest);
    }
    lists.iter().map(|list| list.join(".")).collect()
}

/// Two patterns of three words that have a key in common have one of at most four words.
#[test]
fn patterns_overlap_when_a_key_matches_both() {
    let keys = all_texts(4, &["", "a", "b", "a*"]);
    let patterns: Vec<(Pattern, Vec<bool>)> = all_texts(3, &["", "a", "b", "a*", "*", "#"])
        .iter()
        .map(|text| {
            let pattern = pattern(text);
            let matched = keys.iter().map(|key| pattern.matches(key)).collect();
            (pattern, matched)
        })
        .collect();
    for (a, matched_by_a) in &patterns {
        for (b, matched_by_b) in &patterns {
            let common = (0..keys.len()).find(|&key| matched_by_a[key] && matched_by_b[key]);
            let common = common.map(|key| &keys[key]);
            assert_eq!(a.overlaps(b), common.is_some(), "{a:?} {b:?} {common:?}");
        }
    }
}

#[test]
fn patterns_overlap_only_where_a_key_has_room() {
    let begins = |bytes: usize| pattern(&format!("{}.#", "x".repeat(bytes)));
    let ends = |bytes: usize| pattern(&format!("#.{}", "y".repeat(bytes)));
    assert!(begins(127).overlaps(&ends(127)));
    assert!(!begins(127).overlaps(&ends(128)));
    assert!(!ends(128).overlaps(&begins(127)));
}

/// A word again and again, up to 255 bytes.
const fn repeated(word: u8) -> [u8; 255] {
    let mut text = [b'.'; 255];
    let mut at = 0;
    while at < text.len() {
        text[at] = word;
        at += 2;
    }
    text
}

/// The compiler refuses to evaluate what takes more than two million steps
/// (`long_running_const_eval`), so these lines bound the time of a match.
const _: () = {
    const fn matches(pattern: &[u8], key: &[u8]) -> bool {
        match (from_utf8(pattern), from_utf8(key)) {
            (Ok(pattern), Ok(key)) => key_matches(pattern, key),
            _ => panic!(),
        }
    }

    let key = repeated(b'a');
    let mut hashes = repeated(b'#');
    assert!(matches(&hashes, &key));
    *hashes.last_mut().unwrap() = b'b';
    assert!(!matches(&hashes, &key));

    // The last word differs at each of the 64 places where the rest fits.
    let mut half = repeated(b'a');
    half[0] = b'#';
    half[128] = b'b';
    assert!(!matches(half.split_at(129).0, &key));
};

#[test]
fn removes_entries_by_pattern_and_value() {
    let mut map = TopicMap::new();
    for queue in ["audit", "billing", "audit"] {
        map.insert(&pattern("order.#"), queue);
    }
    map.insert(&pattern("order.#.#"), "audit");
    assert_eq!(map.remove(&pattern("order"), |_| true), 0);
    assert_eq!(
        map.remove(&pattern("order.#"), |queue| *queue == "audit"),
        2
    );
    assert_eq!(matches(&map, "order.v1.submit"), ["audit", "billing"]);
    assert_eq!(map.len(), 2);
}

/// Keys of up to `most` words. `*`, `#` and `a*` are ordinary words in a key.
fn some_key(most: usize) -> impl Strategy<Value = String> {
    let word = select(&["", "a", "b", "a", "b", "a*", "*", "#"]);
    vec(word, 0..=most).prop_map(|words| words.join("."))
}

fn some_pattern(most: usize) -> impl Strategy<Value = Pattern> {
    let word = select(&["", "a", "b", "a*", "*", "*", "#", "#"]);
    vec(word, 0..=most).prop_map(|words| pattern(&words.join(".")))
}

/// A key of up to 128 words, and a pattern made of it by putting wildcards in the place of words.
/// From two words on, since the list of one empty word is spelled as the key without words.
fn long_pair() -> impl Strategy<Value = (String, Pattern)> {
    let word = select(&["", "a", "b"]);
    let substitute = select(&[None, None, None, None, Some("*"), Some("#")]);
    vec((word, substitute), 2..=128).prop_map(|words| {
        let key: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let text: Vec<&str> = words.iter().map(|(w, other)| other.unwrap_or(w)).collect();
        (key.join("."), pattern(&text.join(".")))
    })
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Pattern, u8),
    Remove(Pattern, u8),
}

fn some_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => (some_pattern(4), 0..4u8).prop_map(|(pattern, value)| Change::Insert(pattern, value)),
        1 => (some_pattern(2), 0..4u8).prop_map(|(pattern, value)| Change::Remove(pattern, value)),
    ]
}

proptest! {
    #[test]
    fn a_pattern_matches_as_defined(pattern in some_pattern(6), key in some_key(8)) {
        let expected = defined(&words(pattern.as_str()), &words(&key));
        prop_assert_eq!(pattern.matches(&key), expected);
        prop_assert_eq!(key_matches(pattern.as_str(), &key), expected);
    }

    #[test]
    fn a_map_matches_as_its_patterns_do(
        changes in vec(some_change(), 0..40),
        keys in vec(some_key(6), 1..20),
    ) {
        let mut map = TopicMap::new();
        let mut entries = Vec::new();
        for change in changes {
            match change {
                Change::Insert(pattern, value) => {
                    map.insert(&pattern, value);
                    entries.push((pattern, value));
                }
                Change::Remove(pattern, value) => {
                    let before = entries.len();
                    entries.retain(|entry| *entry != (pattern.clone(), value));
                    let removed = map.remove(&pattern, |other| *other == value);
                    prop_assert_eq!(removed, before - entries.len());
                }
            }
        }
        entries.sort();
        let mut listed: Vec<_> = map.iter().map(|(p, value)| (p.clone(), *value)).collect();
        listed.sort();
        prop_assert_eq!(&listed, &entries);
        prop_assert_eq!(map.len(), entries.len());
        for key in keys {
            let entries = entries.iter().filter(|(pattern, _)| pattern.matches(&key));
            let mut expected: Vec<u8> = entries.map(|(_, value)| *value).collect();
            expected.sort();
            prop_assert_eq!(matches(&map, &key), expected);
        }
    }

    #[test]
    fn a_map_matches_long_keys_as_its_patterns_do(pairs in vec(long_pair(), 1..10)) {
        let mut map = TopicMap::new();
        for (row, (pattern, key)) in pairs.iter().map(|(key, pattern)| (pattern, key)).enumerate() {
            prop_assert!(pattern.matches(key));
            map.insert(pattern, row);
        }
        for (key, _) in &pairs {
            let rows = 0..pairs.len();
            let expected: Vec<usize> = rows.filter(|&row| pairs[row].1.matches(key)).collect();
            prop_assert_eq!(matches(&map, key), expected);
        }
    }

    #[test]
    fn a_common_key_is_an_overlap(a in some_pattern(6), b in some_pattern(6), key in some_key(6)) {
        if a.matches(&key) && b.matches(&key) {
            prop_assert!(a.overlaps(&b));
        }
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
    }
}
