//! Apache Kafka as a backend of Switchboard.
//!
//! An exchange is a topic, a queue is a consumer group. Which queues there are, and what they are bound to, stands in
//! a compacted topic of its own, the topology topic, which every connection reads: publishers know from it who takes
//! a message, consumers which records are theirs. What a queue has finished out of order stands in the metadata of
//! its commits, so a rebalance repeats nothing and a crash little.
//!
//! How it is all laid out, with what rights, settings and limits, is told in `docs/kafka.md`.

mod admin;
mod capabilities;
mod client;
mod clock;
mod consumer;
mod dead_letters;
mod error;
mod filter;
#[cfg(test)]
mod mock;
mod names;
mod partition;
mod producer;
mod progress;
mod registry;
mod shared;
mod signal;
mod subscription;
mod table;
mod threads;
mod topology;
mod transport;
mod url;
mod wire;

pub use capabilities::CAPABILITIES;
pub use transport::KafkaTransport;
