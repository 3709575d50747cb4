//! Redis as a backend of Switchboard. Applications use the facade `switchboard` with the feature `redis`, and name
//! no broker; this crate is what stands behind a URL that begins with `redis://`.
//!
//! Events are routed when they are published, into one stream for each queue: a publisher has the binding table of
//! its exchange, and the script that stores a batch compares its version, so that no message misses a binding.
//! Consumers hold entries by leases, which they renew as long as they live. `docs/redis.md` has the keys, the
//! rights that a user needs, and what to expect of replicas, Sentinel and Cluster.

mod capabilities;
mod channels;
mod dead_letters;
mod durability;
mod ephemeral;
mod error;
mod held;
mod keys;
mod lane;
mod link;
mod listening;
mod publisher;
mod scripts;
mod server;
mod shared;
mod subscription;
mod table;
mod topology;
mod transport;
mod url;
mod wire;

pub use capabilities::CAPABILITIES;
pub use channels::{AtMostOnceChannels, AtMostOnceSubscription, Heard};
pub use transport::RedisTransport;
