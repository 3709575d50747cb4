//! What a backend refuses has to be refused clearly: an error of kind `Unsupported` that names the option, the
//! queue and the backend.

use std::time::Duration;

use event_core::{Bus, Capability, Error, ErrorKind, Queue, RetryPolicy, Service};

use crate::{
    context::Context,
    ensure,
    failure::{CaseResult, Failure},
    orders::{OrderSubmitted, order},
};

/// The name of every queue that is asked to do what cannot be done.
const QUEUE: &str = "billing_order";

/// Tries that a refused capability is refused clearly.
pub(crate) async fn check(cx: &Context, capability: Capability) -> CaseResult {
    check_on(cx, cx.bus(), capability).await
}

/// The same on a bus of the case's.
pub(crate) async fn check_on(cx: &Context, bus: &Bus, capability: Capability) -> CaseResult {
    let desk = cx.desk();
    let queue = || cx.queue(QUEUE, &desk);
    match capability {
        Capability::DelayedRetry => {
            let fixed = RetryPolicy::fixed(Duration::from_secs(1)).unknown(Duration::ZERO);
            refused_start(bus, queue().retry(fixed), "retry").await?;
            // Nothing fails, but a message may wait for a handler.
            let unknown = RetryPolicy::never().unknown(Duration::from_secs(1));
            refused_start(bus, queue().retry(unknown), "RetryPolicy::unknown").await?;
            let nothing = RetryPolicy::never().unknown(Duration::ZERO);
            let _running = cx.start(bus, queue().retry(nothing)).await?;
            Ok(())
        }
        Capability::Ordered => refused_start(bus, queue().ordered(), "ordered").await,
        Capability::MaxLength => refused_start(bus, queue().max_length(5), "max_length").await,
        Capability::Unbind => {
            refused_start(bus, queue().unbind("order", "order.*.refuse"), "unbind").await
        }
        Capability::Ephemeral => {
            let queue = Queue::ephemeral(QUEUE).bind("order", "order.*.submit");
            let queue = queue.handle(desk.takes::<OrderSubmitted>()).named("bill");
            refused_start(bus, queue, "ephemeral").await
        }
        Capability::Existing => {
            let queue = Queue::existing(QUEUE).handle(desk.takes::<OrderSubmitted>());
            refused_start(bus, queue.named("bill"), "existing").await
        }
        Capability::Mandatory => {
            let result = bus.publish(order(1)).mandatory().await;
            refused(bus, result, &["mandatory"])
        }
        Capability::DeadLetters => {
            let spec = cx.spec(QUEUE, &["order.*.submit"])?;
            cx.declare(&[&spec]).await?;
            refused(bus, bus.dead_letters(QUEUE).await, &[QUEUE])
        }
        Capability::Prune => {
            let spec = cx.spec(QUEUE, &["order.*.submit"])?;
            cx.declare(&[&spec]).await?;
            let topology = crate::context::topology(&[&spec]);
            let result = bus.topology().prune(&topology).await;
            refused(bus, result, &["prune", QUEUE])
        }
        Capability::DeleteQueue => {
            let result = bus.topology().delete_queue(QUEUE).await;
            refused(bus, result, &["delete_queue", QUEUE])
        }
        // Nothing asks for these by name: a backend without them does less, and the capability table says so.
        _ => Ok(()),
    }
}

async fn refused_start(bus: &Bus, queue: Queue, option: &str) -> CaseResult {
    let result = Service::new("billing").queue(queue).start(bus).await;
    refused(bus, result, &[option, QUEUE])
}

fn refused<T>(bus: &Bus, result: Result<T, Error>, names: &[&str]) -> CaseResult {
    let Err(error) = result else {
        return Err(Failure::new(format!(
            "what the backend cannot do was not refused ({})",
            names.join(", ")
        )));
    };
    ensure!(
        error.kind() == ErrorKind::Unsupported,
        "refused with the kind {:?} instead of Unsupported: {error}",
        error.kind()
    );
    let text = error.to_string();
    for name in names.iter().chain([&bus.capabilities().backend()]) {
        ensure!(
            text.contains(name),
            "the refusal does not name `{name}`: {text}"
        );
    }
    Ok(())
}
