//! What Kafka can do.

use event_core::{Capabilities, Capability, Support};

/// What the backend can do, for tables: every transport says the same.
pub static CAPABILITIES: Capabilities = Capabilities::new("kafka")
    .with(
        Capability::Mandatory,
        Support::Emulated("answered from the queues and bindings in the topology topic"),
    )
    .with(
        Capability::QueueCount,
        Support::Emulated("counted from the queues and bindings in the topology topic, without ephemeral subscriptions"),
    )
    .with(
        Capability::DelayedRetry,
        Support::Emulated("a topic for each queue and step of the delay, read when its records are due"),
    )
    .with(
        Capability::ExactDelay,
        Support::Refused("waits are rounded up to steps, each of which has a topic"),
    )
    .with(
        Capability::DeadLetters,
        Support::Emulated("a compacted topic for each queue"),
    )
    .with(
        Capability::Ordered,
        Support::Emulated(
            "a partition belongs to one consumer, which holds a key back while its retry waits",
        ),
    )
    .with(
        Capability::MaxLength,
        Support::Refused("a log keeps records by time and size, whoever has read them"),
    )
    .with(
        Capability::Unbind,
        Support::Emulated("the binding ends at the offsets that its topic had then"),
    )
    .with(
        Capability::Prune,
        Support::Emulated("the bindings end at the offsets that their topics had then"),
    )
    .with(
        Capability::DeleteQueue,
        Support::Emulated("it is taken out of the topology topic, its retries and dead letters are deleted"),
    )
    .with(
        Capability::Isolation,
        Support::Emulated("noted in the metadata of the committed offset"),
    )
    .with(
        Capability::HandOver,
        Support::Refused("a partition goes elsewhere as a whole, when what has begun of it is done"),
    );
