//! The shop: customers' orders, and the three services that carry them.
//!
//! `order` publishes orders. `billing` and `logistic` each have a queue of their own, bound to
//! `order.*.submit`, so both get every order. None of them knows which broker is between them: a URL says
//! that when they start.
//!
//! Everything is in this library, so that each binary in `src/bin` is only its command line.

pub mod billing;
pub mod command;
pub mod logistic;
mod order;
mod orders;
mod outstanding;
mod rows;
mod submission;
mod summary;
mod terminal;

pub use order::{Order, OrderLine};
pub use orders::{Batch, Line, Orders};
pub use outstanding::{Handled, Outstanding};
pub use rows::{Format, Rows};
pub use submission::{Submission, Submitted};
pub use summary::Summary;
pub use terminal::Terminal;
