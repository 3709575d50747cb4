//! What the memory broker promises, one fact each, on a clock that stands still unless somebody waits.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it should be"
)]

mod closing;
mod dead_letters;
mod faults;
mod leases;
mod model;
mod ordered;
mod publishing;
mod queues;
mod revoking;
mod support;
mod threads;
mod waiting;
