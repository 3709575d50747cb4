//! Publishing what handlers returned, before their deliveries are settled.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Handled, Pending, conclude::conclude};
use crate::{
    consumer::QueueRuntime, delivery::Settlement, error::Result, fate::Fate, outcome::Verdict,
    transport::Receipt, worker::Back,
};

/// Publishes what handlers returned, then concludes. A handler whose events were not published failed.
pub(super) async fn publish(
    queue: Arc<QueueRuntime>,
    workers: Vec<mpsc::UnboundedSender<Back>>,
    mut handled: Vec<Handled>,
) -> Vec<Pending> {
    let mut batch = Vec::new();
    let mut unencoded = Vec::new();
    // Where each message comes from: the delivery, and the handler by its place.
    let mut origins = Vec::new();
    for (at, handled) in handled.iter_mut().enumerate() {
        for (handler, (_, events)) in handled.events.iter_mut().enumerate() {
            for event in std::mem::take(events) {
                match event {
                    Ok(outgoing) => {
                        batch.push(outgoing);
                        origins.push((at, handler));
                    }
                    Err(error) => unencoded.push((at, handler, error)),
                }
            }
        }
    }
    let tags: Vec<_> = handled
        .iter()
        .map(|handled| handled.ended.delivery.tag())
        .collect();
    let bus = &queue.bus;
    let results: Vec<Result<Receipt>> = tokio::select! {
        biased;
        results = async { bus.publish_all(batch).await } => results,
        () = queue.stop_now.cancelled() => {
            return tags.into_iter().map(|tag| Pending::new(Settlement::Release(tag), Fate::Released)).collect();
        }
    };
    let refused = origins
        .into_iter()
        .zip(results)
        .filter_map(|((at, handler), result)| Some((at, handler, result.err()?)));
    for (at, handler, error) in unencoded.into_iter().chain(refused) {
        let Handled { ended, events, .. } = &mut handled[at];
        let name = &events[handler].0;
        if !ended.failures.iter().any(|(failed, _)| failed == name) {
            ended.failures.push((
                name.clone(),
                Verdict::Failed {
                    after: None,
                    error: Some(error.into()),
                },
            ));
        }
    }
    handled
        .into_iter()
        .filter_map(|handled| conclude(&queue, &workers, handled))
        .collect()
}
