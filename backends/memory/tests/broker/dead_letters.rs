//! Dead letters: list, replay, purge.

use event_core::{DeadLetterId, ErrorKind, Selection, Settlement, Transport};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_in_pages_replayed_and_purged() {
    let (broker, transport, mut subscription) = consumed(&spec()).await;
    let mut other = named("shipping_order");
    other.bindings.clear();
    declare(&transport, &other).await.unwrap();
    publish_orders(&transport, 0..5).await;
    for delivery in batch(&mut subscription, 9).await {
        let message = delivery
            .message()
            .clone()
            .with_header("switchboard-reason", "exhausted");
        let letter = Settlement::DeadLetter {
            tag: delivery.tag(),
            message: Box::new(message),
        };
        settle(&subscription, letter).await.unwrap();
    }
    let letters = transport.dead_letters(QUEUE).await.unwrap();
    let first = letters.list(None, 2).await.unwrap();
    let rest = letters.list(Some(first[1].id()), 9).await.unwrap();
    let listed: Vec<usize> = first
        .iter()
        .chain(&rest)
        .map(|letter| number(letter.message()))
        .collect();
    assert_eq!(listed, [0, 1, 2, 3, 4]);
    assert!(
        first
            .iter()
            .chain(&rest)
            .map(|letter| letter.id())
            .is_sorted()
    );

    let some: Selection = [
        rest[0].id().clone(),
        first[0].id().clone(),
        first[0].id().clone(),
    ]
    .into_iter()
    .collect();
    assert_eq!(letters.replay(&some).await.unwrap(), 2);
    assert_eq!(letters.replay(&some).await.unwrap(), 0);
    let replayed = batch(&mut subscription, 9).await;
    assert_eq!(numbers(&replayed), [0, 2]);
    assert!(replayed[0].message().headers().is_empty());
    assert_eq!(letters.purge(&Selection::from(&rest[2])).await.unwrap(), 1);
    assert_eq!(letters.replay(&Selection::All).await.unwrap(), 2);
    assert_eq!(numbers(&batch(&mut subscription, 9).await), [1, 3]);
    assert!(letters.list(None, 9).await.unwrap().is_empty());
    assert_eq!(letters.purge(&Selection::All).await.unwrap(), 0);
    assert_eq!(broker.queue_state(QUEUE).unwrap().held, 4);
}

#[tokio::test(start_paused = true)]
async fn a_replay_wakes_a_reader_that_waits() {
    let (_, transport, mut subscription) = consumed(&spec()).await;
    publish_orders(&transport, 0..1).await;
    let held = batch(&mut subscription, 9).await;
    bury(&subscription, &held[0]).await;
    let letters = transport.dead_letters(QUEUE).await.unwrap();
    let (got, replayed) =
        tokio::join!(batch(&mut subscription, 9), letters.replay(&Selection::All));
    assert_eq!((numbers(&got), replayed.unwrap()), (vec![0], 1));
}

#[tokio::test(start_paused = true)]
async fn unknown_queues_and_foreign_ids_are_errors() {
    let (_, transport, _subscription) = consumed(&spec()).await;
    let error = transport.dead_letters("shipping_order").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let letters = transport.dead_letters(QUEUE).await.unwrap();
    let foreign = DeadLetterId::new("1526919030474-0");
    assert_eq!(
        letters.list(Some(&foreign), 9).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        letters.purge(&Selection::Ids(vec![foreign])).await.unwrap(),
        0
    );
}
