// A page says where its links lead in the repository; the first definition of a link counts.
#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../README.md")]

// The derive names the facade by its crate name, also in the facade's own tests and examples.
extern crate self as switchboard;

mod connect;

pub use connect::{URL_VARIABLE, connect, connect_from_env};
/// What handlers return: `Result`, or `Result<events to publish next>`.
#[doc(inline)]
pub use event_core::HandlerResult as Result;
#[doc(inline)]
pub use event_core::*;
/// The derive for events; the guide's page on events has everything that it understands.
pub use event_derive::Event;

#[doc(hidden)]
pub use event_core::__private;
#[cfg(feature = "testing")]
pub use event_memory::testing;

#[cfg(feature = "redis")]
pub mod redis;

pub mod guide;
