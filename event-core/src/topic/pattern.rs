//! One pattern against one key.

use std::fmt;

use smol_str::SmolStr;

use super::{MAX_BYTES, overlap::overlap, words::Words};

/// The pattern of a binding or a handler, such as `order.*.submit` or `billing.#`.
///
/// Every text of at most 255 bytes is a pattern. Cloning is cheap: up to 23 bytes are stored in
/// place, longer texts are shared.
///
/// ```
/// use event_core::Pattern;
///
/// let submitted = Pattern::new("order.*.submit")?;
/// assert!(submitted.matches("order.v1.submit"));
/// assert!(!submitted.matches("order.v1.beta.submit"));
/// # Ok::<(), event_core::PatternError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: SmolStr,
    literal: bool,
}

impl Pattern {
    /// Takes a text as a pattern.
    ///
    /// # Errors
    /// When the text has more than 255 bytes.
    pub fn new(text: impl Into<SmolStr>) -> Result<Self, PatternError> {
        let text = text.into();
        if text.len() > MAX_BYTES {
            return Err(PatternError { text });
        }
        let literal = Words::of(&text).all(|word| !matches!(word, "*" | "#"));
        Ok(Self { text, literal })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern has no wildcard, so that the only key it matches is its own text.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// Whether the pattern matches a routing key. Does not allocate.
    ///
    /// A text of more than 255 bytes is no routing key, and no pattern matches it.
    pub fn matches(&self, key: &str) -> bool {
        if self.literal {
            self.text == key
        } else {
            key_matches(&self.text, key)
        }
    }

    /// Whether there is a key that both patterns match.
    ///
    /// The answer is exact, and every routing key counts: the empty key (`#` overlaps the empty
    /// pattern), keys with empty words (`*.b` overlaps `.b`), but none of more than 255 bytes, so
    /// two patterns whose literal words do not fit into one key do not overlap.
    ///
    /// ```
    /// use event_core::Pattern;
    ///
    /// let binding = Pattern::new("order.#")?;
    /// assert!(binding.overlaps(&Pattern::new("*.*.submit")?));
    /// assert!(!binding.overlaps(&Pattern::new("billing.*")?));
    /// # Ok::<(), event_core::PatternError>(())
    /// ```
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.literal {
            other.matches(&self.text)
        } else if other.literal {
            self.matches(&other.text)
        } else {
            overlap(&self.text, &other.text)
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

/// The error of [`Pattern::new`]: the text is too long to be a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatternError {
    text: SmolStr,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough of the text to find it in the source; all of it would bury the sentence.
        write!(
            f,
            "pattern `{:.40}…` has {} bytes; shorten it to at most {MAX_BYTES}",
            self.text,
            self.text.len()
        )
    }
}

impl std::error::Error for PatternError {}

/// Whether a pattern matches a routing key, as [`Pattern::matches`] but without making a
/// [`Pattern`]. Works at compile time too.
///
/// A text of more than 255 bytes is neither a pattern nor a key, and matches nothing.
///
/// ```
/// use event_core::key_matches;
///
/// const _: () = assert!(key_matches("order.#", "order.v1.submit"));
/// ```
pub const fn key_matches(pattern: &str, key: &str) -> bool {
    if pattern.len() > MAX_BYTES || key.len() > MAX_BYTES {
        return false;
    }
    let mut pattern = Words::of(pattern);
    let mut key = Words::of(key);
    // What follows the last `#`, and the key behind the words which that `#` took so far. Where the
    // match fails, it takes one more. An earlier `#` never has to: the last one can take what that
    // would have taken. So there is one place to go back to, and no more than words times words
    // steps.
    let mut retry: Option<(Words<'_>, Words<'_>)> = None;
    loop {
        let mut rest = key;
        match (pattern.take_word(), rest.take_word()) {
            (Some(word), _) if same(word, "#") => {
                retry = Some((pattern, key));
                continue;
            }
            (Some(word), Some(head)) if same(word, "*") || same(word, head) => {
                key = rest;
                continue;
            }
            (None, None) => return true,
            // Were a `#` to take more, even less of the key would be left.
            (Some(_), None) => return false,
            (_, Some(_)) => {}
        }
        let Some((behind, rest)) = &mut retry else {
            return false;
        };
        rest.take_word();
        (pattern, key) = (*behind, *rest);
    }
}

/// `==`, which a `const fn` cannot call.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
