//! Headers: names and values that travel with a message.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use bytes::Bytes;
use smol_str::SmolStr;

use crate::error::{Error, ErrorKind, Result};

/// The prefix of the headers that the framework keeps for itself.
pub(crate) const RESERVED_PREFIX: &str = "switchboard-";

/// So many names are compared with each other without an index.
const FEW: usize = 32;

/// The headers of a message, in the order they were set. A name occurs once.
///
/// Names are case-sensitive, as they are on AMQP and Kafka; write them in lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(SmolStr, HeaderValue)>);

/// The value of a header: bytes, usually text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderValue(Bytes);

impl Headers {
    /// No headers. Does not allocate.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// The value of this name as text; nothing when it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// Sets a value and takes the place of an older one.
    pub fn set(&mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds a value without a look at those that are there: names are [`unified`](Self::unify) afterwards.
    pub(crate) fn push(&mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) {
        self.0.push((name.into(), value.into()));
    }

    /// Has each name occur once: where it was first, with the last of its values.
    pub(crate) fn unify(&mut self) {
        if self.0.len() <= FEW {
            let mut at = 1;
            while at < self.0.len() {
                let name = &self.0[at].0;
                match self.0[..at].iter().position(|(known, _)| known == name) {
                    Some(first) => self.0[first].1 = self.0.remove(at).1,
                    None => at += 1,
                }
            }
            return;
        }
        // A message of another program may have as many as fit into it: comparing each with each would take minutes.
        let mut places: HashMap<SmolStr, usize> = HashMap::new();
        let mut kept: Vec<(SmolStr, HeaderValue)> = Vec::new();
        for (name, value) in self.0.drain(..) {
            match places.entry(name.clone()) {
                Entry::Occupied(place) => kept[*place.get()].1 = value,
                Entry::Vacant(place) => {
                    place.insert(kept.len());
                    kept.push((name, value));
                }
            }
        }
        self.0 = kept;
    }

    /// Takes a value out.
    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Keeps the headers whose name is wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| wanted(name));
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a caller may set: not our own names, nor the names that carry CloudEvents attributes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let wrong = |why: &str| {
        let shown: String = name.chars().take(40).collect();
        Err(Error::new(
            ErrorKind::InvalidName,
            format!("header name `{}` {why}", shown.escape_debug()),
        ))
    };
    if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        return wrong("is not legal; use 1 to 128 bytes without control characters");
    }
    if name.starts_with(RESERVED_PREFIX) {
        return wrong("is reserved for the framework; use another prefix");
    }
    if name.starts_with("ce_") || name.starts_with("cloudEvents") || name == "content-type" {
        return wrong("would be read as a CloudEvents attribute; use another name");
    }
    Ok(())
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl HeaderValue {
    /// The value as text; nothing when it is not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The value as it travels.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The value as text for people; what is not UTF-8 is replaced.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string_lossy())
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&[u8]> for HeaderValue {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Bytes> for HeaderValue {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl PartialEq<str> for HeaderValue {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_occurs_once() {
        let mut headers = Headers::new();
        headers.set("tenant", "eu");
        headers.set("tenant", "us");
        assert_eq!((headers.len(), headers.text("tenant")), (1, Some("us")));
    }

    #[test]
    fn names_that_were_pushed_occur_once() {
        for others in [2_usize, 100_000] {
            let mut headers = Headers::new();
            headers.push("tenant", "eu");
            for number in 0..others {
                headers.push(number.to_string(), "");
            }
            headers.push("tenant", "us");
            headers.push("last", "");
            headers.unify();
            let names: Vec<_> = headers.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), others + 2);
            assert_eq!(
                (names[0], names[1], names[others + 1]),
                ("tenant", "0", "last")
            );
            assert_eq!(headers.text("tenant"), Some("us"));
        }
    }

    #[test]
    fn reserved_names_are_refused() {
        for wrong in [
            "",
            "switchboard-attempt",
            "ce_id",
            "cloudEvents:id",
            "content-type",
            "a\nb",
        ] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        assert!(check_name("traceparent").is_ok());
    }
}
