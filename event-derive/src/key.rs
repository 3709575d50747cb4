//! The grammar of exchanges and routing keys, the templates in keys included.

use std::mem;

/// A routing key of an event, checked: words, some of which a field fills in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key(Vec<Word>);

/// A word of a key, or several words in a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The same in every message.
    Text(String),
    /// The value of the field of this name or index.
    Field(String),
}

/// The longest routing key that AMQP carries.
const MAX_BYTES: usize = 255;

impl Key {
    /// Takes a key apart, or says everything that is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<String>> {
        if text.is_empty() {
            return Err(vec![
                "key is empty; write at least one word: `order.v1.submit`".to_owned(),
            ]);
        }
        let (mut words, mut mistakes) = (Vec::new(), Vec::new());
        for word in split(text) {
            match Word::parse(word) {
                Ok(word) => words.push(word),
                Err(mistake) if mistakes.contains(&mistake) => {}
                Err(mistake) => mistakes.push(mistake),
            }
        }
        let key = Self(words);
        let bytes = key.least_bytes();
        if bytes > MAX_BYTES {
            mistakes.push(format!(
                "key has {bytes} bytes; at most {MAX_BYTES} are allowed"
            ));
        }
        if mistakes.is_empty() {
            Ok(key)
        } else {
            Err(mistakes)
        }
    }

    /// What it is put together from: fields, and the text between them with its dots.
    pub(crate) fn pieces(&self) -> Vec<Word> {
        let (mut pieces, mut text) = (Vec::new(), String::new());
        for (at, word) in self.0.iter().enumerate() {
            if at > 0 {
                text.push('.');
            }
            match word {
                Word::Text(word) => text.push_str(word),
                Word::Field(name) => {
                    if !text.is_empty() {
                        pieces.push(Word::Text(mem::take(&mut text)));
                    }
                    pieces.push(Word::Field(name.clone()));
                }
            }
        }
        if !text.is_empty() {
            pieces.push(Word::Text(text));
        }
        pieces
    }

    /// Whether it is the same in every message.
    pub(crate) fn is_constant(&self) -> bool {
        self.0.iter().all(|word| matches!(word, Word::Text(_)))
    }

    /// What matches every key that it can become.
    pub(crate) fn pattern(&self) -> String {
        let words: Vec<&str> = self
            .0
            .iter()
            .map(|word| match word {
                Word::Text(text) => text,
                Word::Field(_) => "*",
            })
            .collect();
        words.join(".")
    }

    /// The first word that is `v` and digits.
    pub(crate) fn version(&self) -> Option<&str> {
        self.0.iter().find_map(|word| match word {
            Word::Text(text) => {
                let digits = text.strip_prefix('v')?;
                (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .then_some(&**text)
            }
            Word::Field(_) => None,
        })
    }

    /// How long it is when every field has one byte.
    fn least_bytes(&self) -> usize {
        let words = self.0.iter().map(|word| match word {
            Word::Text(text) => text.len(),
            Word::Field(_) => 1,
        });
        words.sum::<usize>() + self.0.len().saturating_sub(1)
    }
}

/// The words of a key. A dot between braces separates none, so that `{address.city}` is named as a whole.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut in_braces = false;
    text.split(move |c| {
        in_braces = c == '{' || (in_braces && c != '}');
        c == '.' && !in_braces
    })
}

impl Word {
    fn parse(word: &str) -> Result<Self, String> {
        if word.is_empty() {
            return Err(
                "key has an empty word; separate words by single dots: `order.v1.submit`"
                    .to_owned(),
            );
        }
        if word == "{}" {
            return Err("`{}` names no field; write `{region}` for the field `region`".to_owned());
        }
        if let Some(name) = word
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            return if is_field_name(name) {
                Ok(Self::Field(name.to_owned()))
            } else {
                Err(format!(
                    "`{word}` does not name a field; write its name or, for a tuple, its index: `{{region}}`, `{{0}}`"
                ))
            };
        }
        if word.contains(['{', '}']) {
            return Err(format!(
                "`{word}` is not a word; a field fills a whole one: `order.{{region}}.submit`"
            ));
        }
        if let Some(wildcard) = word.chars().find(|c| matches!(c, '*' | '#')) {
            return Err(format!(
                "key contains the wildcard `{wildcard}`; an event has exact words, patterns are for bindings"
            ));
        }
        Ok(Self::Text(word.to_owned()))
    }
}

/// Whether a field can have this name: an identifier, or an index of a tuple.
pub(crate) fn is_field_name(name: &str) -> bool {
    let is_index = name.bytes().all(|byte| byte.is_ascii_digit());
    if is_index {
        // Not `{01}`, which is no index in Rust either.
        return name
            .parse::<u32>()
            .is_ok_and(|index| index.to_string() == name);
    }
    // Not asked of the lexer, which reports by itself what it cannot read.
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first == '_' || unicode_ident::is_xid_start(first))
        && letters.all(unicode_ident::is_xid_continue)
        && !matches!(name, "_" | "self" | "Self" | "super" | "crate")
}

/// What is wrong with the name of an exchange.
pub(crate) fn exchange_mistake(name: &str) -> Option<String> {
    const ALLOWED: &str = "use 1 to 200 of `A-Z a-z 0-9 . _ -`";
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !legal(*c)) {
        Some(wrong) => Some(format!(
            "exchange contains `{}`; {ALLOWED}",
            wrong.escape_debug()
        )),
        None if name.is_empty() => Some(format!("exchange is empty; {ALLOWED}")),
        None if name.len() > 200 => Some(format!("exchange has {} bytes; {ALLOWED}", name.len())),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        Key::parse(text).unwrap_err()
    }

    #[test]
    fn a_constant_key_is_its_own_pattern() {
        let key = Key::parse("order.v1.submit").unwrap();
        assert!(key.is_constant());
        assert_eq!(key.pattern(), "order.v1.submit");
    }

    #[test]
    fn a_field_is_a_star_in_the_pattern() {
        let key = Key::parse("{0}.order.{region}.submit").unwrap();
        assert_eq!(key.pattern(), "*.order.*.submit");
        let (text, field) = (
            |t: &str| Word::Text(t.to_owned()),
            |f: &str| Word::Field(f.to_owned()),
        );
        assert_eq!(
            key.pieces(),
            [
                field("0"),
                text(".order."),
                field("region"),
                text(".submit")
            ]
        );
    }

    #[test]
    fn the_version_is_the_first_word_of_v_and_digits() {
        let version = |text: &str| Key::parse(text).unwrap().version().map(str::to_owned);
        assert_eq!(version("order.v12.submit.v3").as_deref(), Some("v12"));
        assert_eq!(version("order.v.value.1.submit"), None);
        assert_eq!(version("{v1}.submit"), None);
    }

    #[test]
    fn every_wrong_word_is_named_once() {
        let found = mistakes("order..*.a{b}c..{}");
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(mistakes("order.{address.city}").len(), 1);
        for (mistake, says) in found
            .iter()
            .zip(["empty word", "wildcard `*`", "`a{b}c`", "`{}`"])
        {
            assert!(mistake.contains(says), "{mistake}");
        }
    }

    #[test]
    fn wildcards_are_refused_inside_words_too() {
        for key in ["#", "order.#", "order.v*.submit", "order.no#1"] {
            assert!(mistakes(key)[0].contains("wildcard"), "{key}");
        }
    }

    #[test]
    fn braces_enclose_the_name_of_a_field_and_fill_a_word() {
        for key in [
            "{",
            "}",
            "{region",
            "region}",
            "{{region}}",
            "{address.city}",
            "{a b}",
            "{id:02}",
            "{-1}",
            "{01}",
            "{self}",
        ] {
            assert!(Key::parse(key).is_err(), "{key}");
        }
        assert!(Key::parse("{type}.{größe}.{_id}.{10}").is_ok());
    }

    #[test]
    fn a_key_has_at_most_255_bytes() {
        assert!(Key::parse(&"x".repeat(255)).is_ok());
        assert!(mistakes(&"ü".repeat(128))[0].contains("256 bytes"));
        assert!(Key::parse(&format!("{}.{{a_long_name_of_a_field}}", "x".repeat(253))).is_ok());
        assert!(Key::parse(&format!("{}.{{region}}", "x".repeat(254))).is_err());
    }

    #[test]
    fn exchanges_follow_the_grammar() {
        assert_eq!(exchange_mistake("order-2.eu_west"), None);
        for wrong in ["", "order events", "größe", "a/b", &"x".repeat(201)] {
            assert!(exchange_mistake(wrong).is_some(), "{wrong}");
        }
    }
}
