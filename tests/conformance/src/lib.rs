//! The contract of Switchboard as cases: run it against a backend.
//!
//! Every bullet of `docs/semantics.md` is a fact, and every fact is a [`Case`] of that name. A backend proves
//! that it keeps the contract by running all of them, and the result is its scorecard.
//!
//! # Running it against a backend
//! A test target with `harness = false`:
//!
//! ```ignore
//! struct Redis;
//!
//! #[async_trait::async_trait]
//! impl event_conformance::Fixture for Redis {
//!     async fn connect(&self) -> event_core::Result<Arc<dyn Transport>> {
//!         Ok(Arc::new(event_redis::connect("redis://localhost").await?))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     event_conformance::Setup::new(|_| Redis).with_scorecard("../../docs/scorecard-redis.md").run()
//! }
//! ```
//!
//! `cargo test --test conformance -- --list` names the cases, and any part of a name runs those that have it. A
//! broker that cannot be reached fails every case. A case whose [`needs`](Case::needs) the backend refuses tries
//! that the refusal is a clear error, and shows as `ignored` with the reason; so does one that needs a fault that
//! the [`Fixture`] cannot make. Nothing is skipped without a word.
//!
//! # Writing a case
//! A case is a function in the file of its point in `src/cases`, named as its fact:
//!
//! ```ignore
//! async fn redelivers_after_handler_error(cx: Context) -> CaseResult {
//!     let desk = cx.desk().failing(1);
//!     let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
//!     order(7).publish(cx.bus()).await?;
//!     let seen = desk.finishes(2).await?;
//!     ensure_eq!(seen[1].meta.attempt, 2, "attempt");
//!     desk.sees_no_more_than(2).await?;
//!     Ok(())
//! }
//! ```
//!
//! It is entered in the `cases!` list at the top of the file, with what the backend must be able to do in
//! brackets, and in `docs/semantics.md`; tests compare the three.
//!
//! - **Names.** Write `order` and `billing_order`: [`Context`] gives every case names of its own on the broker, and
//!   deletes its queues afterwards. This is done by a transport around the backend's, so it also holds for derived
//!   events.
//! - **Processes.** [`Context::bus`] is one process, [`Context::process`] makes another, with a connection of its
//!   own. Dropping a [`Running`](event_core::Running) service, or a [`Consumer`], is a crash.
//! - **Handlers.** A [`Desk`] is a handler with a script that writes down what it was given. For facts about the
//!   transport alone, a [`Consumer`] reads and settles without the framework. Handlers that are functions put
//!   what they were given into an [`Inbox`].
//! - **Waiting.** Never sleep. Wait for what must happen with [`Desk::sees`], [`Context::within`],
//!   [`Context::until`]; what must not happen is waited for with [`Desk::sees_no_more_than`] and
//!   [`Consumer::gets_nothing`], which last as long as the [`Setup`] says. With a paused clock both cost nothing.
//! - **Time.** Use [`Context::lease`] for leases, and waits of at most a second or two: real brokers take them for
//!   what they are. Measure with tokio's clock.
//! - **Numbers.** A [`Ledger`] counts what was lost, duplicated, reordered and early.
//! - **Text.** [`ensure!`] and [`ensure_eq!`] end a case with a sentence. `?` takes every error.
//! - **Broken backends.** A case must fail, and not hang or panic, when the fact does not hold. The suite is run
//!   against the transports in [`broken`], and `tests/broken.txt` says which cases fail on which of them.

mod advertised;
mod authority;
pub mod broken;
mod broker;
mod case;
mod cases;
mod clocks;
mod consumer;
mod context;
mod desk;
mod failure;
pub mod faults;
mod fixture;
mod inbox;
mod intercept;
mod ledger;
pub mod orders;
mod proxied;
mod proxy;
mod refusal;
mod run;
mod scope;
mod scorecard;
mod setup;
pub mod shop;
mod stage;

pub use authority::Authority;
pub use broker::Broker;
pub use case::{Case, Point};
pub use cases::all_cases;
pub use clocks::WrongClock;
pub use consumer::Consumer;
pub use context::{Context, topology};
pub use desk::{Act, Desk, Seen};
pub use failure::{CaseResult, Failure};
pub use fixture::{Fixture, Impossible};
pub use inbox::Inbox;
pub use intercept::{Intercept, Intercepted};
pub use ledger::{Balance, Ledger};
pub use proxied::Proxied;
pub use proxy::Proxy;
pub use run::Verdict;
pub use scorecard::{WRITE, capability_table, check, scorecard};
pub use setup::Setup;
pub use stage::{Stage, Stages, done, length, publish};
