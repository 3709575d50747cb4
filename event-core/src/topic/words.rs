//! The words of a key or a pattern, front to back.

/// Cuts a key or a pattern at its dots.
///
/// `Copy`, so that a matcher can go back to where it was. `None` is the end: the empty key has no
/// words, while `a.` ends with an empty one.
#[derive(Clone, Copy)]
pub(super) struct Words<'a>(Option<&'a str>);

impl<'a> Words<'a> {
    pub(super) const fn of(text: &'a str) -> Self {
        if text.is_empty() {
            Self(None)
        } else {
            Self(Some(text))
        }
    }

    /// [`Iterator::next`], callable in a `const fn`.
    pub(super) const fn take_word(&mut self) -> Option<&'a str> {
        let Some(text) = self.0 else { return None };
        let bytes = text.as_bytes();
        let mut dot = 0;
        while dot < bytes.len() && bytes[dot] != b'.' {
            dot += 1;
        }
        if dot == bytes.len() {
            self.0 = None;
            return Some(text);
        }
        let (word, rest) = text.split_at(dot);
        self.0 = Some(rest.split_at(1).1);
        Some(word)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.take_word()
    }
}
