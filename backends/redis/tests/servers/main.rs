//! Servers of other kinds than one on a port of this machine, and what people meet first when something is wrong.

// Part of tests, but clippy sees that only of functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod channels;
mod errors;
mod kinds;
mod moves;
mod server;
