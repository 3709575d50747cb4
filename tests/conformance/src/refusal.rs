//! What a backend refuses has to be refused clearly: an error of kind `Unsupported` that names the option, the
//! queue and the backend.

use event_core::{Capability, Error, ErrorKind, Queue, Service};

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
    let desk = cx.desk();
    let queue = || cx.queue(QUEUE, &desk);
    match capability {
        Capability::Ordered => refused_start(cx, queue().ordered(), "ordered").await,
        Capability::MaxLength => refused_start(cx, queue().max_length(5), "max_length").await,
        Capability::Unbind => {
            refused_start(cx, queue().unbind("order", "order.*.refuse"), "unbind").await
        }
        Capability::Ephemeral => {
            let queue = Queue::ephemeral(QUEUE).bind("order", "order.*.submit");
            let queue = queue.handle(desk.takes::<OrderSubmitted>()).named("bill");
            refused_start(cx, queue, "ephemeral").await
        }
        Capability::Existing => {
            let queue = Queue::existing(QUEUE).handle(desk.takes::<OrderSubmitted>());
            refused_start(cx, queue.named("bill"), "existing").await
        }
        Capability::Mandatory => {
            let result = cx.bus().publish(&order(1)).mandatory().await;
            refused(cx, result, &["mandatory"])
        }
        Capability::DeadLetters => {
            let spec = cx.spec(QUEUE, &["order.*.submit"])?;
            cx.declare(&[&spec]).await?;
            refused(cx, cx.bus().dead_letters(QUEUE).await, &[QUEUE])
        }
        Capability::Prune => {
            let spec = cx.spec(QUEUE, &["order.*.submit"])?;
            cx.declare(&[&spec]).await?;
            let topology = crate::context::topology(&[&spec]);
            let result = cx.bus().topology().prune(&topology).await;
            refused(cx, result, &["prune", QUEUE])
        }
        Capability::DeleteQueue => {
            let result = cx.bus().topology().delete_queue(QUEUE).await;
            refused(cx, result, &["delete_queue", QUEUE])
        }
        // Nothing asks for these by name: a backend without them does less, and the capability table says so.
        _ => Ok(()),
    }
}

async fn refused_start(cx: &Context, queue: Queue, option: &str) -> CaseResult {
    let result = Service::new("billing").queue(queue).start(cx.bus()).await;
    refused(cx, result, &[option, QUEUE])
}

pub(crate) fn refused<T>(
    cx: &Context,
    result: Result<T, Error>,
    names: &[&str],
) -> CaseResult {
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
    for name in names.iter().chain([&cx.bus().capabilities().backend()]) {
        ensure!(text.contains(name), "the refusal does not name `{name}`: {text}");
    }
    Ok(())
}
