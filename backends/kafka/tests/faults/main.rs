//! The faults that the backend survives, on a real Kafka: each under its number and its idea.
//!
//! Every message whose publish was answered with `Ok` is handled at least once, and what is handled twice is
//! bounded by what was delivered above the committed offset. The tests use the broker at `KAFKA_URL`, and without one
//! start their own. Those that kill it, or delete what others use, always have their own.
//!
//! A process that is killed is one of its own where that makes a difference, and otherwise one whose line is cut and
//! that is then dropped. The numbers that are missing concern other brokers or are cases of the conformance suite.
//!
//! `scripts/soak` runs them longer.

mod clocks;
mod cluster;
mod connection;
mod consumers;
mod copies;
mod crashes;
mod members;
mod ordering;
mod others;
mod process;
mod progress;
mod publishing;
mod said;
#[cfg(feature = "tls")]
mod security;
mod stage;
mod topics;
mod versions;
