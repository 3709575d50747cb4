//! Names of exchanges and queues, and routing keys: checked once, cheap to clone.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use smol_str::SmolStr;

use crate::error::{Error, ErrorKind, Result};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SmolStr);

        impl $name {
            /// Checks the text and keeps it.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidName`] when the text breaks the grammar above.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(SmolStr::new(text)))
            }

            /// A text that was checked while compiling, by the derive.
            #[doc(hidden)]
            pub const fn checked(text: &'static str) -> Self {
                Self(SmolStr::new_static(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    };
}

name! {
    /// The name of an exchange: 1 to 200 of `A-Z a-z 0-9 . _ -`, which every broker accepts.
    ExchangeName, check_exchange
}

name! {
    /// The name of a queue: 1 to 200 of `A-Z a-z 0-9 . _ -`, which every broker accepts.
    QueueName, check_queue
}

name! {
    /// A routing key: words separated by dots, at most 255 bytes (AMQP's limit for a short string).
    ///
    /// An empty key is legal in a message that arrives, and is refused when publishing.
    RoutingKey, check_key
}

fn check_exchange(text: &str) -> Result<()> {
    check_name("exchange", text)
}

fn check_queue(text: &str) -> Result<()> {
    check_name("queue", text)
}

fn check_name(what: &str, text: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=200).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(());
    }
    // A name that is too long is not repeated in full: it may be a payload that went astray.
    let shown: String = text.chars().take(40).collect();
    Err(Error::new(
        ErrorKind::InvalidName,
        format!("{what} name `{shown}` is not legal; use 1 to 200 of `A-Z a-z 0-9 . _ -`"),
    ))
}

fn check_key(text: &str) -> Result<()> {
    if text.len() <= 255 {
        return Ok(());
    }
    let shown: String = text.chars().take(40).collect();
    Err(Error::new(
        ErrorKind::InvalidName,
        format!(
            "routing key `{shown}…` has {} bytes; at most 255 are allowed",
            text.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        assert_eq!(
            ExchangeName::new("order-2.eu_west").unwrap(),
            "order-2.eu_west"
        );
        for wrong in ["", "order events", "größe", &"x".repeat(201), "a/b"] {
            assert_eq!(
                QueueName::new(wrong).unwrap_err().kind(),
                ErrorKind::InvalidName,
                "{wrong}"
            );
        }
    }

    #[test]
    fn keys_are_limited_in_bytes() {
        assert!(RoutingKey::new("x".repeat(255)).is_ok());
        assert!(RoutingKey::new("").is_ok());
        assert!(RoutingKey::new("ü".repeat(128)).is_err());
    }
}
