//! What RabbitMQ can do.

use event_core::{Capabilities, Capability, Support};

/// What the backend can do, for tables: every transport says the same.
pub static CAPABILITIES: Capabilities = Capabilities::new("amqp")
    .with(
        Capability::QueueCount,
        Support::Refused("RabbitMQ says whether a message was routed, not to how many queues"),
    )
    .with(
        Capability::DelayedRetry,
        Support::Emulated("a queue with a time to live for each step"),
    )
    .with(
        Capability::ExactDelay,
        Support::Refused(
            "waits are rounded up to steps: 100 ms and its doubles up to 25.6 s, 1 min, 2, 5, 10, 20 and 40 min, \
             1 h and its doubles, 1 day and its doubles up to 48 days, which is the longest",
        ),
    )
    .with(
        Capability::DeadLetters,
        Support::Emulated("a queue of its own; listing takes them out and puts them back"),
    )
    .with(
        Capability::Ordered,
        Support::Refused("consumers of a quorum queue compete message by message, and retries wait elsewhere"),
    )
    .with(
        Capability::Prune,
        Support::Refused("AMQP cannot list bindings; name those to remove with `Queue::unbind`"),
    )
    .with(
        Capability::Isolation,
        Support::Emulated(
            "from the third time on that it came back, in a queue of its own; a handler may take as long as \
             the server's consumer timeout, 30 minutes by default",
        ),
    );
