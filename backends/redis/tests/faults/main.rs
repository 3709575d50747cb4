//! The faults that the backend survives, on a real Redis: each under its number and its idea.
//!
//! Every message whose publish was answered with `Ok` is handled at least once, and what is handled twice is
//! bounded by what was in flight. The tests use the server at `REDIS_URL`, and without one start their own. Those
//! that kill it, wipe it or change its settings always have their own.
//!
//! A process that is killed is one whose line is cut and that is then dropped. The numbers that are missing concern
//! other brokers or are cases of the conformance suite.
//!
//! `scripts/soak` runs them longer.

mod clocks;
mod connection;
mod consumers;
mod copies;
mod crashes;
mod delays;
mod memory;
mod publishing;
mod server;
mod stage;
mod versions;
