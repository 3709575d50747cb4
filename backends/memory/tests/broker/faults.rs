//! Faults on demand: nothing is lost, and the same seed does the same.

use std::collections::BTreeSet;

use event_core::{ErrorKind, Settlement, Transport};
use event_memory::Faults;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_lost_settlement_does_nothing_and_may_be_repeated() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    broker.set_faults(Faults::seeded(1).drop_acks(1.0));
    let error = ack(&subscription, &held[0]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Connection && error.is_retryable());
    assert_eq!(broker.queue_state(QUEUE).unwrap().held, 1);
    broker.clear_faults();
    ack(&subscription, &held[0]).await.unwrap();
    assert!(broker.queue_state(QUEUE).unwrap().is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_delivery_comes_twice_and_not_three_times() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    broker.set_faults(Faults::seeded(1).deliver_twice(1.0));
    publish_orders(&transport, 0..2).await;
    let first = batch(&mut subscription, 9).await;
    let second = batch(&mut subscription, 9).await;
    assert_eq!(
        (numbers(&first), numbers(&second)),
        (vec![0, 1], vec![0, 1])
    );
    assert_eq!((first[0].redeliveries(), second[0].redeliveries()), (0, 1));
    assert!(!second[0].is_suspect() && second[0].tag() != first[0].tag());
    for delivery in first.iter().chain(&second) {
        ack(&subscription, delivery).await.unwrap();
    }
    assert!(broker.queue_state(QUEUE).unwrap().is_idle());
}

#[tokio::test(start_paused = true)]
async fn reordering_keeps_the_order_of_each_key() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    broker.set_faults(Faults::seeded(7).reorder(0.5));
    let keyed = |n: usize| match n % 3 {
        0 => order(n),
        rest => order(n).with_partition_key(format!("customer-{rest}")),
    };
    publish_all(&transport, (0..200).map(keyed)).await;
    let mut got = Vec::new();
    while got.len() < 200 {
        let batch = batch(&mut subscription, 7).await;
        got.extend(numbers(&batch));
        let acks = batch
            .iter()
            .map(|delivery| Settlement::Ack(delivery.tag()))
            .collect();
        subscription.settle.settle(acks).await;
    }
    assert!(!got.is_sorted());
    for key in 1..3 {
        assert!(got.iter().filter(|n| **n % 3 == key).is_sorted());
    }
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_refused_publish_stored_nothing_and_a_lost_confirmation_everything() {
    let (broker, transport, _subscription) = consumed(&spec()).await;
    broker.set_faults(Faults::seeded(1).refuse_publish(1.0));
    let refused = publish(&transport, order(1)).await.unwrap_err();
    assert_eq!(broker.queue_state(QUEUE).unwrap().ready, 0);
    broker.set_faults(Some(Faults::seeded(1).lose_confirm(1.0)));
    let lost = publish(&transport, order(2)).await.unwrap_err();
    assert_eq!(broker.queue_state(QUEUE).unwrap().ready, 1);
    for error in [refused, lost] {
        assert!(error.kind() == ErrorKind::Connection && error.is_retryable());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_in_a_batch_answers_none_and_concerns_its_connection_only() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let other = broker.connect();
    let mut others = other.consume(&spec()).await.unwrap();
    publish_orders(&transport, 0..20).await;
    let held = batch(&mut subscription, 10).await;
    let theirs = batch(&mut others, 1).await;
    broker.set_faults(Faults::seeded(3).disconnect(1.0));
    let acks = held
        .iter()
        .map(|delivery| Settlement::Ack(delivery.tag()))
        .collect();
    let results = subscription.settle.settle(acks).await;
    assert_eq!(results.len(), 10);
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::Connection)
    );
    let results = publish_all(&transport, (20..30).map(order)).await;
    assert!(results.iter().all(Result::is_err));
    broker.clear_faults();

    assert!(lost(ack(&subscription, &held[9]).await));
    ack(&others, &theirs[0]).await.unwrap();
    let rest = numbers(&batch(&mut others, 99).await);
    let (before, after): (Vec<usize>, Vec<usize>) = rest.iter().partition(|n| **n < 20);
    assert!(
        before.len() < 20 && before.ends_with(&(11..20).collect::<Vec<_>>()),
        "{before:?}"
    );
    assert!(after.iter().copied().eq(20..20 + after.len()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cut_may_come_anywhere_in_a_batch() {
    let mut came_back = BTreeSet::new();
    for seed in 0..30 {
        let (broker, transport, mut subscription) = consumed(&spec()).await;
        publish_orders(&transport, 0..4).await;
        let held = batch(&mut subscription, 9).await;
        broker.set_faults(Faults::seeded(seed).disconnect(1.0));
        let acks = held.iter().map(|delivery| Settlement::Ack(delivery.tag()));
        subscription.settle.settle(acks.collect()).await;
        came_back.insert(broker.queue_state(QUEUE).unwrap().ready);
    }
    assert_eq!(came_back, (0..=4).collect());
}

/// Publishes and handles 300 orders while everything goes wrong; answers what came, in order.
async fn chaos(seed: u64) -> Vec<usize> {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let faults = Faults::seeded(seed)
        .drop_acks(0.2)
        .deliver_twice(0.2)
        .reorder(0.2);
    broker.set_faults(faults.refuse_publish(0.2).lose_confirm(0.2).disconnect(0.1));
    for n in 0..300 {
        while publish(&transport, order(n)).await.is_err() {}
    }
    let mut got = Vec::new();
    while !broker.queue_state(QUEUE).unwrap().is_idle() {
        let mut batch = batch(&mut subscription, 16).await;
        got.extend(numbers(&batch));
        while !batch.is_empty() {
            let acks = batch
                .iter()
                .map(|delivery| Settlement::Ack(delivery.tag()))
                .collect();
            let mut results = subscription.settle.settle(acks).await.into_iter();
            batch.retain(|_| results.next().unwrap().is_err());
        }
    }
    got
}

#[tokio::test(start_paused = true)]
async fn under_all_faults_nothing_is_lost_and_a_seed_repeats_itself() {
    let got = chaos(42).await;
    assert_eq!(
        got.iter().copied().collect::<BTreeSet<_>>(),
        (0..300).collect()
    );
    assert!(got.len() > 300);
    assert_eq!(got, chaos(42).await);
    assert_ne!(got, chaos(43).await);
}
