//! From how the handlers ended to a settlement, with what is said about it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::SystemTime,
};

use tokio::sync::mpsc;

use super::{Handled, Pending};
use crate::{
    conclude::{Concluding, Conclusion},
    consumer::QueueRuntime,
    counters::add,
    delivery::{Delivery, Settlement},
    fate::Fate,
    message::Message,
    observe::Observed,
    topology::QueueKind,
    worker::Back,
};

/// What becomes of a delivery. Nothing to settle when it stays with its worker, to be run again there.
pub(super) fn conclude(
    queue: &QueueRuntime,
    workers: &[mpsc::UnboundedSender<Back>],
    handled: Handled,
) -> Option<Pending> {
    let Handled {
        ended,
        elapsed,
        back,
        alone,
        ..
    } = handled;
    let (tag, attempt) = (ended.delivery.tag(), ended.attempt);
    let observed = queue.observer.is_some().then(|| ended.delivery.clone());
    let concluding = Concluding {
        policy: &queue.policy,
        consumer: &queue.service,
        now: SystemTime::now(),
    };
    let Conclusion {
        mut fate,
        error,
        mut settlement,
    } = concluding.conclude(ended);
    let keeps = queue.kind != QueueKind::Ephemeral || fate == Fate::Handled;
    if !keeps {
        fate = Fate::Gone;
    }
    if let Settlement::Retry { message, .. } | Settlement::DeadLetter { message, .. } = &settlement
    {
        log(queue, fate, message, attempt, error.as_deref());
    }
    if !keeps {
        settlement = Settlement::Ack(tag);
    }
    if let (Some(observer), Some(delivery)) = (&queue.observer, &observed) {
        let observed = Observed {
            service: &queue.service,
            queue: queue.name(),
            delivery,
            end: fate.end(),
            attempt,
            error: error.as_deref(),
            elapsed,
        };
        // It runs in the settler, which must go on.
        if catch_unwind(AssertUnwindSafe(|| observer(&observed))).is_err() {
            tracing::error!(target: "switchboard", queue = queue.name(), "the observer of the service panicked");
        }
    }
    if let (Some((worker, _)), Settlement::Retry { message, delay, .. }) = (back, &settlement) {
        let (delivery, delay) = (Box::new(Delivery::new((**message).clone(), tag)), *delay);
        if workers[worker]
            .send(Back::Again { delivery, delay })
            .is_ok()
        {
            add(fate.counter(queue.bus.tally()), 1);
            return None;
        }
        // The worker has stopped at once, and cannot give it back any more.
        return Some(Pending::new(Settlement::Release(tag), Fate::Released));
    }
    Some(Pending {
        back,
        alone,
        ..Pending::new(settlement, fate)
    })
}

fn log(queue: &QueueRuntime, fate: Fate, message: &Message, attempt: u32, error: Option<&str>) {
    let (name, key, id) = (queue.name(), message.key(), message.id());
    match fate {
        Fate::Retried => {
            tracing::warn!(target: "switchboard", queue = name, %key, %id, attempt, error, "a delivery failed and is tried again");
        }
        Fate::DeadLettered => {
            tracing::error!(target: "switchboard", queue = name, %key, %id, attempt, error, "a delivery becomes a dead letter");
        }
        Fate::Gone => {
            tracing::error!(target: "switchboard", queue = name, %key, %id, error, "a delivery was not handled and is gone: the subscription is ephemeral");
        }
        Fate::Skipped if queue.unknown.first(key) => {
            tracing::warn!(target: "switchboard", queue = name, %key, %id, "a delivery waits: no handler here knows it, and a newer version of the service may");
        }
        Fate::Skipped | Fate::Handled | Fate::Released => {}
    }
}
