//! The faults that the backend survives, on a real RabbitMQ: each under its number and its idea.
//!
//! Every message whose publish was answered with `Ok` is handled at least once, and what is handled twice is
//! bounded by what was in flight. The tests use the broker at `RABBITMQ_URL`, and without one start their own. Those
//! that kill it, or change its settings, always have their own.
//!
//! A process that is killed is one whose line is cut and that is then dropped. The numbers that are missing: 12 to 19,
//! 32, 33 and 35 concern other brokers, or are cases of the conformance suite.
//!
//! `scripts/soak` runs them longer.

mod clocks;
mod connection;
mod consumers;
mod copies;
mod crashes;
mod publishing;
mod stage;
mod tls;
mod topology;
mod versions;
