//! Topic matching as RabbitMQ does it: which patterns match which routing keys.
//!
//! Keys and patterns are words joined by dots. In a pattern, the word `*` stands for exactly one
//! word and the word `#` for zero or more; inside a longer word (`a*`, `##`) both are ordinary
//! characters. Words may be empty (`a..b` has three), comparison is by bytes, and neither a key
//! nor a pattern has more than 255 bytes. The empty key has no words, so `#` and the empty pattern
//! match it and `*` does not.
//!
//! No function here takes more steps than the product of the words on both sides, so a pattern
//! like `#.#.#.a` from the network is no way to occupy a process.

mod map;
mod node;
mod overlap;
mod pattern;
mod tails;
mod word_map;
mod words;

pub use map::TopicMap;
pub use pattern::{Pattern, PatternError, key_matches};

/// AMQP carries keys and patterns as short strings, whose length is one byte.
const MAX_BYTES: usize = 255;
