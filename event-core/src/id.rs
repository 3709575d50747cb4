//! Message ids: UUIDv7 for what is published here, any text for what others published.

use std::{cell::RefCell, fmt};

use smol_str::SmolStr;
use uuid::{Builder, Uuid, fmt::Hyphenated};

/// The id of a message, unique together with its source.
///
/// Ours are UUIDv7; CloudEvents allows any non-empty text, so what others sent is kept as it came.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Uuid(Uuid),
    Text(SmolStr),
}

impl MessageId {
    /// The id as a UUID, if it is one.
    pub fn as_uuid(&self) -> Option<Uuid> {
        match &self.0 {
            Repr::Uuid(uuid) => Some(*uuid),
            Repr::Text(_) => None,
        }
    }

    /// Its text, without an allocation.
    pub(crate) fn with_text<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        match &self.0 {
            Repr::Uuid(uuid) => read(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Repr::Text(text) => read(text),
        }
    }

    pub(crate) const UNSET: Self = Self(Repr::Uuid(Uuid::nil()));
}

impl From<Uuid> for MessageId {
    fn from(uuid: Uuid) -> Self {
        Self(Repr::Uuid(uuid))
    }
}

/// Reads any text; a UUID in its usual form becomes one, so that the two forms are equal.
impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        match Uuid::try_parse(text) {
            // Only the form that `Display` prints back: the text of an id is not ours to change. Of the forms that are
            // read it alone has this length.
            Ok(uuid)
                if text.len() == Hyphenated::LENGTH
                    && !text.bytes().any(|byte| byte.is_ascii_uppercase()) =>
            {
                uuid.into()
            }
            _ => Self(Repr::Text(text.into())),
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Uuid(uuid) => uuid.fmt(f),
            Repr::Text(text) => text.fmt(f),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the ids of one batch, which share one reading of the clock.
pub(crate) struct IdMaker {
    millis: u64,
}

impl IdMaker {
    pub(crate) fn at(unix_micros: u64) -> Self {
        Self {
            millis: unix_micros / 1_000,
        }
    }

    /// A UUIDv7. `Uuid::now_v7` reads the clock and takes a lock for each id; here both are the batch's.
    pub(crate) fn next(&self) -> MessageId {
        // Not secret, only unique: 74 random bits for each millisecond, seeded by the system for each thread.
        thread_local!(static RANDOM: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::new()));
        let (low, high) = RANDOM.with_borrow_mut(|random| (random.u64(..), random.u16(..)));
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&low.to_ne_bytes());
        bytes[8..].copy_from_slice(&high.to_ne_bytes());
        Builder::from_unix_timestamp_millis(self.millis, &bytes)
            .into_uuid()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_seven() {
        let maker = IdMaker::at(1_700_000_000_000_000);
        let (one, two) = (
            maker.next().as_uuid().unwrap(),
            maker.next().as_uuid().unwrap(),
        );
        assert_eq!(one.get_version_num(), 7);
        assert_ne!(one, two);
        assert_eq!(one.get_timestamp().unwrap().to_unix(), (1_700_000_000, 0));
    }

    #[test]
    fn foreign_ids_keep_their_text() {
        let upper = "018C1E5A-0000-7000-8000-000000000000";
        assert_eq!(MessageId::from(upper).to_string(), upper);
        assert_eq!(
            MessageId::from(upper.to_lowercase().as_str())
                .as_uuid()
                .unwrap()
                .get_version_num(),
            7
        );
        assert_eq!(MessageId::from("A-17").to_string(), "A-17");
    }
}
