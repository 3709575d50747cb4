//! What Redis can do.

use event_core::{Capabilities, Capability, Support};

/// What the backend can do, for tables: every transport says the same.
pub static CAPABILITIES: Capabilities = Capabilities::new("redis")
    .with(
        Capability::Mandatory,
        Support::Emulated("the script that stores a message says how many queues took it"),
    )
    .with(
        Capability::DelayedRetry,
        Support::Emulated(
            "a sorted set on the server's clock; any consumer of the queue moves what is due",
        ),
    )
    .with(
        Capability::DeadLetters,
        Support::Emulated("a stream of its own"),
    )
    .with(
        Capability::Ordered,
        Support::Emulated("one consumer process at a time holds the queue, with a lease"),
    )
    .with(
        Capability::Ephemeral,
        Support::Emulated("a channel of its own, bound as long as somebody listens"),
    )
    .with(
        Capability::MaxLength,
        Support::Emulated("the script looks before it stores; waiting retries do not count"),
    )
    .with(
        Capability::Isolation,
        Support::Emulated("counted beside the stream, for what came back after a lease"),
    );
