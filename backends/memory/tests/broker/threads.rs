//! Publishers and consumers on threads of their own, in real time: nobody sleeps through a message.

use std::{thread, time::Duration};

use event_core::{Arrival, QueueSpec, Settlement, Transport};
use event_memory::MemoryBroker;

use crate::support::*;

const ORDERS: usize = 20_000;

fn on_this_thread<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

/// Handles orders until the stop; releases every tenth the first time it sees it.
async fn consume(
    broker: MemoryBroker,
    spec: QueueSpec,
    stop: tokio_util::sync::CancellationToken,
) -> Vec<usize> {
    let transport = broker.connect();
    let mut subscription = transport.consume(&spec).await.unwrap();
    let mut handled = Vec::new();
    let mut turn = 0_usize;
    loop {
        let batch = tokio::select! {
            arrival = subscription.deliveries.next(16) => match arrival.unwrap() {
                Arrival::Batch(batch) => batch,
                other => panic!("no deliveries but {other:?}"),
            },
            () = stop.cancelled() => return handled,
        };
        let settlements = batch.iter().map(|delivery| {
            turn += 1;
            if turn.is_multiple_of(10) {
                return Settlement::Release(delivery.tag());
            }
            handled.push(number(delivery.message()));
            Settlement::Ack(delivery.tag())
        });
        let settlements = settlements.collect();
        for result in subscription.settle.settle(settlements).await {
            result.unwrap();
        }
    }
}

#[test]
fn publishers_and_consumers_on_many_threads_lose_nothing() {
    let broker = MemoryBroker::new();
    let mut spec = spec();
    spec.prefetch = 8;
    on_this_thread(declare(&broker.connect(), &spec)).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let consumers: Vec<_> = (0..3)
        .map(|_| {
            let (broker, spec, stop) = (broker.clone(), spec.clone(), stop.clone());
            thread::spawn(move || on_this_thread(consume(broker, spec, stop)))
        })
        .collect();
    let publishers: Vec<_> = (0..2)
        .map(|publisher| {
            let transport = broker.connect();
            thread::spawn(move || {
                on_this_thread(async {
                    for n in (publisher..ORDERS).step_by(2) {
                        publish_orders(&transport, n..n + 1).await;
                    }
                });
            })
        })
        .collect();
    publishers
        .into_iter()
        .for_each(|publisher| publisher.join().unwrap());
    on_this_thread(async {
        tokio::time::timeout(Duration::from_secs(60), broker.wait_idle(QUEUE)).await
    })
    .unwrap();
    stop.cancel();
    let mut handled: Vec<usize> = consumers
        .into_iter()
        .flat_map(|consumer| consumer.join().unwrap())
        .collect();
    handled.sort_unstable();
    assert!(handled.into_iter().eq(0..ORDERS));
}
