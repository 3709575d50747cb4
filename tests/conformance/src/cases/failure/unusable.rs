//! What no handler can take becomes a dead letter at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use event_core::{Bytes, Delivery, Error, ErrorKind, Event, Header, Reason, Result, RouteInfo};

use super::bound;
use crate::{
    CaseResult, Context,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderSubmitted, Tenant, order, raw},
};

cases!(Failure:
    an_undecodable_payload_becomes_a_dead_letter_at_once [DeadLetters],
    an_invalid_event_becomes_a_dead_letter_at_once [DeadLetters],
    a_missing_header_becomes_a_dead_letter_at_once [DeadLetters],
);

async fn an_undecodable_payload_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    // Not JSON, not UTF-8, another type, and nothing at all.
    let payloads: [&'static [u8]; 4] = [b"{\"id\":", b"\xff\x00\xfe", b"{\"name\":\"anna\"}", b""];
    for payload in payloads {
        let event = raw("order", "order.v1.submit", payload)?;
        cx.bus().publish(&event).await?;
    }
    let letters = cx.dead_letters("billing_order", payloads.len()).await?;
    for payload in payloads {
        let letter = letters
            .iter()
            .find(|letter| letter.message().payload() == payload)
            .ok_or("a dead letter has other bytes")?;
        ensure_eq!(letter.reason(), Some(Reason::Undecodable), "reason");
        ensure_eq!(letter.attempts(), 1, "attempts");
        ensure_eq!(letter.handlers(), ["bill"], "handlers");
    }
    desk.sees_no_more_than(0).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// An order that follows a rule which no order keeps.
struct StrictOrder;

impl Event for StrictOrder {
    const ROUTES: &'static [RouteInfo] = OrderSubmitted::ROUTES;

    fn decode(delivery: &Delivery) -> Result<Self> {
        OrderSubmitted::decode(delivery)?;
        let text = "`lines` has 2 elements; at most 1 is allowed";
        Err(Error::new(ErrorKind::Invalid, text))
    }
}

async fn an_invalid_event_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let queue = bound("billing_order", &cx)
        .handle(desk.takes::<StrictOrder>())
        .named("bill");
    let running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].reason(), Some(Reason::Invalid), "reason");
    let error = letters[0].error().unwrap_or_default();
    ensure!(error.contains("`lines`"), "error: {error}");
    desk.sees_no_more_than(0).await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn a_missing_header_becomes_a_dead_letter_at_once(cx: Context) -> CaseResult {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let bill = move |_: OrderSubmitted, _: Header<Tenant>| {
        counted.fetch_add(1, SeqCst);
        async {}
    };
    let queue = bound("billing_order", &cx).handle(bill).named("bill");
    let running = cx.start(cx.bus(), queue).await?;
    order(1).publish(cx.bus()).await?;
    let unreadable = Bytes::from_static(b"\xff");
    order(2)
        .publish(cx.bus())
        .header("tenant", unreadable)
        .await?;
    order(3).publish(cx.bus()).header("tenant", "eu").await?;
    let letters = cx.dead_letters("billing_order", 2).await?;
    ensure_eq!(letters.len(), 2, "dead letters");
    for letter in &letters {
        ensure_eq!(letter.reason(), Some(Reason::Undecodable), "reason");
        let error = letter.error().unwrap_or_default();
        ensure!(error.contains("`tenant`"), "error: {error}");
    }
    cx.until("the one with the header to be handled", || async {
        Ok(runs.load(SeqCst) == 1)
    })
    .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}
