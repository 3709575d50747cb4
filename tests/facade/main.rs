//! Tests of the facade, as its users meet it: with all features, and those of the derive also without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests say so by failing"
)]

#[cfg(feature = "testing")]
mod connect;
mod events;
#[cfg(feature = "testing")]
mod middleware;
#[cfg(feature = "testing")]
mod process;
mod ui;
#[cfg(feature = "testing")]
mod visible;
