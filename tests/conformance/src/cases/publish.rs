//! 2. Publish.

use std::{collections::BTreeSet, time::Duration};

use event_core::{Error, ErrorKind, Event, Outgoing, Publish, RouteInfo};
use event_derive::Event as DeriveEvent;
use futures_util::{future::join_all, poll};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    CaseResult, Context, Failure, Ledger,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, order, order_of, raw},
};

cases!(Publish:
    ok_means_stored,
    a_publish_declares_its_exchange,
    a_receipt_names_its_message,
    ids_are_made_by_the_bus,
    an_id_of_the_callers_is_kept,
    a_receipt_counts_the_queues [QueueCount],
    mandatory_without_a_queue_is_unroutable [Mandatory],
    mandatory_with_a_queue_is_stored [Mandatory],
    mandatory_concerns_its_own_message_only [Mandatory],
    an_event_without_a_queue_is_counted [Mandatory],
    each_message_of_a_batch_has_its_own_result,
    a_batch_keeps_the_order_of_each_partition_key,
    publishing_ends_by_its_deadline,
    a_deadline_in_the_past_is_a_timeout,
    a_message_that_is_too_large_is_refused,
    nothing_is_sent_before_the_first_poll,
    dropping_a_publish_gives_up_the_answer_only,
    publishes_at_the_same_time_all_arrive,
    an_event_that_breaks_its_rules_is_not_published,
    an_empty_key_is_not_published,
    reserved_headers_are_not_published,
    a_closed_bus_refuses_to_publish,
    nothing_confirmed_is_lost_with_a_connection,
);

/// Makes sure that a publish failed with this kind.
#[track_caller]
fn failed<T>(result: Result<T, Error>, kind: ErrorKind) -> CaseResult {
    match result {
        Ok(_) => Err(Failure::new(format!("published, expected {kind:?}"))),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "{:?} instead of {kind:?}: {error}",
            error.kind()
        ))),
    }
}

async fn ok_means_stored(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let publisher = cx.process().await?;
    for id in 1..=20 {
        order(id).publish(&publisher).await?;
    }
    drop(publisher);
    let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
    consumer.take(20).await?;
    Ok(())
}

async fn a_publish_declares_its_exchange(cx: Context) -> CaseResult {
    let new = raw("fresh", "order.v1.submit", "{}")?;
    cx.bus().publish(&new).await?;
    cx.bus().publish(&new).await?;
    Ok(())
}

/// A17 of the shop.
async fn a_receipt_names_its_message(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let receipt = order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.id, receipt.id, "id that the handler saw");
    Ok(())
}

async fn ids_are_made_by_the_bus(cx: Context) -> CaseResult {
    let orders: Vec<_> = (1..=100).map(order).collect();
    let mut ids = BTreeSet::new();
    for result in cx.bus().publish_all(&orders).await {
        let id = result?.id;
        let version = id.as_uuid().map(|uuid| uuid.get_version_num());
        ensure_eq!(version, Some(7), "version of the id `{id}`");
        ids.insert(id.to_string());
    }
    ensure_eq!(ids.len(), 100, "different ids");
    Ok(())
}

async fn an_id_of_the_callers_is_kept(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let ids = ["A-17", "018c1e5a-0000-7000-8000-000000000000", "grün/7 ?"];
    for id in ids {
        let receipt = order(7).publish(cx.bus()).id(id).await?;
        ensure_eq!(receipt.id.to_string(), id, "id of the receipt");
        let delivery = consumer.next().await?;
        ensure_eq!(delivery.message().id(), &receipt.id, "id of the delivery");
    }
    Ok(())
}

async fn a_receipt_counts_the_queues(cx: Context) -> CaseResult {
    let (billing, logistic) = (
        cx.spec("billing_order", &["order.*.submit"])?,
        cx.spec("logistic_order", &["order.#"])?,
    );
    cx.declare(&[&billing, &logistic]).await?;
    let receipt = order(7).publish(cx.bus()).await?;
    ensure_eq!(receipt.queues, Some(2), "queues that took an order");
    let receipt = OrderNoted { id: 7 }.publish(cx.bus()).await?;
    ensure_eq!(receipt.queues, Some(1), "queues that took a note");
    Ok(())
}

/// S2 of the shop.
async fn mandatory_without_a_queue_is_unroutable(cx: Context) -> CaseResult {
    let publish = order(7).publish(cx.bus()).mandatory().await;
    failed(publish, ErrorKind::Unroutable)?;
    let spec = cx.spec("billing_order", &["order.*.refuse"])?;
    cx.declare(&[&spec]).await?;
    let publish = order(7).publish(cx.bus()).mandatory().await;
    failed(publish, ErrorKind::Unroutable)?;
    ensure_eq!(cx.bus().counters().unroutable, 2, "counted as unroutable");
    cx.consume(cx.bus(), &spec).await?.gets_nothing().await
}

async fn mandatory_with_a_queue_is_stored(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    order(7).publish(cx.bus()).mandatory().await?;
    ensure_eq!(consumer.rest().await?.len(), 1, "deliveries");
    Ok(())
}

async fn mandatory_concerns_its_own_message_only(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let batch = [
        order(1).outgoing()?.mandatory(),
        OrderNoted { id: 2 }.outgoing()?.mandatory(),
        order(3).outgoing()?.mandatory(),
        OrderNoted { id: 4 }.outgoing()?,
        order(5).outgoing()?,
    ];
    let results = cx.bus().publish_all(batch).await;
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(Error::kind))
        .collect();
    let unroutable = Some(ErrorKind::Unroutable);
    ensure_eq!(kinds, [None, unroutable, None, None, None], "errors");
    ensure_eq!(consumer.rest().await?.len(), 3, "deliveries");
    Ok(())
}

async fn an_event_without_a_queue_is_counted(cx: Context) -> CaseResult {
    let receipt = order(7).publish(cx.bus()).await?;
    ensure_eq!(receipt.queues, Some(0), "queues");
    let counters = cx.bus().counters();
    ensure_eq!(
        (counters.published, counters.unroutable),
        (1, 1),
        "published and unroutable"
    );
    Ok(())
}

async fn each_message_of_a_batch_has_its_own_result(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let broken = Err(Error::new(ErrorKind::Encode, "has no form"));
    let batch = [
        order(1).outgoing().map(|order| order.id("one")),
        broken,
        order(3).outgoing().map(|order| order.id("three")),
    ];
    let results = cx.bus().publish_all(batch).await;
    ensure_eq!(results.len(), 3, "results");
    let ids: Vec<_> = results
        .iter()
        .map(|result| {
            result
                .as_ref()
                .map_or("none".to_owned(), |r| r.id.to_string())
        })
        .collect();
    ensure_eq!(ids, ["one", "none", "three"], "ids of the receipts");
    failed(results[1].clone(), ErrorKind::Encode)?;
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries");
    Ok(())
}

async fn a_batch_keeps_the_order_of_each_partition_key(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let orders: Vec<_> = (0..60)
        .map(|id| order_of(["anna", "ben", "carl"][id as usize % 3], id))
        .collect();
    for result in cx.bus().publish_all(&orders).await {
        result?;
    }
    for id in 60..90 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    let deliveries = consumer.take(90).await?;
    for customer in ["anna", "ben", "carl"] {
        let numbers: Vec<_> = deliveries
            .iter()
            .filter(|delivery| delivery.message().partition_key() == Some(customer))
            .map(|delivery| crate::desk::number(delivery.message().payload()))
            .collect();
        ensure!(
            numbers.is_sorted() && numbers.len() >= 20,
            "the orders of {customer} came as {numbers:?}"
        );
    }
    Ok(())
}

async fn publishing_ends_by_its_deadline(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let deadline = Duration::from_secs(2);
    let bus = cx.process().await?.with_publish_deadline(deadline);
    order(1).publish(&bus).await?;
    cx.outage(true).await?;
    let begun = Instant::now();
    let orders = [order(2), order(3)];
    let results = cx
        .within("a publish to end", bus.publish_all(&orders).into_future())
        .await?;
    let took = begun.elapsed();
    cx.outage(false).await?;
    // Some time for a busy machine, and much less than any other deadline there is.
    ensure!(took < deadline + Duration::from_secs(1), "it took {took:?}");
    for result in results {
        let kind = result.err().map(|error| error.kind());
        ensure!(
            matches!(kind, Some(ErrorKind::Timeout | ErrorKind::Connection)),
            "ended with {kind:?}"
        );
    }
    Ok(())
}

async fn a_deadline_in_the_past_is_a_timeout(cx: Context) -> CaseResult {
    let batch = vec![
        cx.message("order.v1.submit", "{}")?,
        cx.message("order.v1.submit", "{}")?,
    ];
    let publish = cx.bus().transport().publish(batch, Instant::now());
    let results = cx.within("a publish to end", publish).await?;
    ensure_eq!(results.len(), 2, "results");
    for result in results {
        failed(result, ErrorKind::Timeout)?;
    }
    Ok(())
}

async fn a_message_that_is_too_large_is_refused(cx: Context) -> CaseResult {
    let limit = cx.max_message()?;
    let mut consumer = cx.consumer("billing_order").await?;
    let event = |size| raw("order", "order.v1.submit", vec![b'7'; size]);
    let batch = [event(7)?, event(limit + 1)?, event(7)?];
    let results = cx.bus().publish_all(&batch).await;
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(Error::kind))
        .collect();
    ensure_eq!(kinds, [None, Some(ErrorKind::TooLarge), None], "errors");
    order(7).publish(cx.bus()).await?;
    // A broker that ends the connection over it may get the others again, with their ids.
    let deliveries = consumer.rest().await?;
    let ids: BTreeSet<_> = deliveries
        .iter()
        .map(|delivery| delivery.message().id().to_string())
        .collect();
    ensure_eq!(ids.len(), 3, "messages");
    Ok(())
}

async fn nothing_is_sent_before_the_first_poll(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    #[expect(unused_must_use, reason = "it is what the case is about")]
    {
        order(1).publish(cx.bus());
        order(2).publish(cx.bus()).into_future();
        cx.bus().publish_all(&[order(3)]).into_future();
    }
    consumer.gets_nothing().await?;
    ensure_eq!(cx.bus().counters().published, 0, "published");
    Ok(())
}

async fn dropping_a_publish_gives_up_the_answer_only(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    for id in 1..=10 {
        let mut publish = Box::pin(order(id).publish(cx.bus()).into_future());
        // Done or not, it was given to the backend.
        let _ = poll!(&mut publish);
        drop(publish);
    }
    consumer.take(10).await?;
    Ok(())
}

async fn publishes_at_the_same_time_all_arrive(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let ledger = Ledger::new();
    let publishers = (0..50).map(|publisher| {
        let (bus, ledger) = (cx.bus().clone(), ledger.clone());
        tokio::spawn(async move {
            for id in 0..4 {
                ledger.publish(&bus, &order(publisher * 4 + id)).await?;
            }
            CaseResult::Ok(())
        })
    });
    for publisher in join_all(publishers.collect::<Vec<_>>()).await {
        publisher??;
    }
    desk.finishes(200).await?;
    let seen = desk.sees_no_more_than(200).await?;
    let balance = ledger.balance(&seen);
    ensure_eq!(balance.confirmed, 200, "confirmed");
    balance.expect_balanced()
}

/// An event that is never valid.
struct Worthless;

impl Event for Worthless {
    const ROUTES: &'static [RouteInfo] = &[];

    fn decode(_: &event_core::Delivery) -> event_core::Result<Self> {
        Ok(Self)
    }
}

impl Publish for Worthless {
    fn outgoing(&self) -> event_core::Result<Outgoing> {
        Err(Error::new(ErrorKind::Invalid, "an order of nothing"))
    }
}

/// An event whose region stands in its key.
#[derive(Serialize, Deserialize, DeriveEvent)]
#[event(
    crate = "event_core",
    exchange = "order",
    key = "order.{region}.submit"
)]
struct Regional {
    region: String,
}

/// S12 of the shop, on the side of the sender.
async fn an_event_that_breaks_its_rules_is_not_published(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    failed(cx.bus().publish(&Worthless).await, ErrorKind::Invalid)?;
    for region in ["", "eu.west", "*", "#"] {
        let region = region.to_owned();
        let publish = cx.bus().publish(&Regional { region }).await;
        failed(publish, ErrorKind::Encode)?;
    }
    consumer.gets_nothing().await?;
    ensure_eq!(cx.bus().counters().published, 0, "published");
    Ok(())
}

async fn an_empty_key_is_not_published(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["#"])?;
    cx.declare(&[&spec]).await?;
    let publish = cx.bus().publish(&raw("order", "", "{}")?).await;
    failed(publish, ErrorKind::InvalidName)?;
    cx.consume(cx.bus(), &spec).await?.gets_nothing().await
}

async fn reserved_headers_are_not_published(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    for name in [
        "switchboard-attempt",
        "ce_id",
        "cloudEvents_id",
        "content-type",
        "",
        "a\nb",
    ] {
        let publish = order(7).publish(cx.bus()).header(name, "7").await;
        failed(publish, ErrorKind::InvalidName)?;
        for result in cx.bus().publish_all(&[order(7)]).header(name, "7").await {
            failed(result, ErrorKind::InvalidName)?;
        }
    }
    consumer.gets_nothing().await
}

async fn a_closed_bus_refuses_to_publish(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let bus = cx.process().await?;
    order(1).publish(&bus).await?;
    bus.close().await?;
    failed(order(2).publish(&bus).await, ErrorKind::Closed)?;
    ensure_eq!(consumer.rest().await?.len(), 1, "deliveries");
    Ok(())
}

async fn nothing_confirmed_is_lost_with_a_connection(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    let ledger = Ledger::new();
    for round in 0..10 {
        let orders: Vec<_> = (0..10).map(|id| order(round * 10 + id)).collect();
        let (results, cut) = tokio::join!(ledger.publish_all(cx.bus(), &orders), cx.disconnect());
        cut?;
        ensure_eq!(results.len(), 10, "results");
    }
    desk.until("all that was confirmed to be handled", |seen| {
        ledger.balance(seen).lost == 0
    })
    .await?;
    Ok(())
}
