//! The memory broker of Switchboard: the reference that says what the contract means, and a broker for tests.
//!
//! A [`MemoryBroker`] lives in the process; each [`MemoryTransport`] is one connection to it, so two
//! transports of one broker behave as two processes. It keeps queues, leases, delays and dead letters as
//! every other backend does, on tokio's clock, which tests can pause. No task of its own runs: what falls
//! due is found by whoever looks next.
//!
//! Tests look inside with [`MemoryBroker::queue_state`] and [`MemoryBroker::wait_until`], and make it
//! misbehave with [`Faults`], [`MemoryBroker::disconnect_all`], [`MemoryBroker::revoke`] and
//! [`MemoryBroker::outage`].
//!
//! # What differs from a broker elsewhere
//! - Nothing survives the process. A broker is gone when its last handle, connection and subscription is.
//! - What a dropped subscription held comes back when its `lease` has passed since the drop, as suspects:
//!   the broker cannot know which of them ended the process. That also goes for a subscription that was
//!   stopped and then dropped with something unsettled. A lost connection makes no suspects.
//! - A queue with `ordered` gives deliveries to one consumer at a time, the oldest; the next takes over
//!   when that one has ended and holds nothing more.
//! - `max_length` counts everything that is not settled, delayed retries included and dead letters not. A
//!   full queue refuses with `Overloaded`; the other queues of the fan-out have the message. An ephemeral
//!   subscription that is full forgets its oldest message instead.
//! - An ephemeral subscription counts in `Receipt::queues`, and so for `mandatory`.

mod broker;
mod connection;
mod consumers;
mod dead_letters;
mod delayed;
mod error;
mod exchange;
mod faults;
mod inspect;
mod messages;
mod publishing;
mod queue;
mod queues;
mod state;
mod subscription;
mod topology;
mod transport;
mod url;
mod window;

#[cfg(feature = "testing")]
pub mod testing;

pub use broker::MemoryBroker;
pub use faults::Faults;
pub use inspect::QueueState;
pub use transport::MemoryTransport;
