//! 12. Envelope.

use std::time::{Duration, SystemTime};

use event_core::{
    Bytes, Event, ExchangeName, HandlerResult, Header, HeaderValue, Headers, Message, Metadata,
    Publish, RawEvent, Reason, RoutingKey, Service, State,
};
use event_derive::Event as DeriveEvent;
use serde::{Deserialize, Serialize};

use crate::{
    CaseResult, Context, Failure,
    case::cases,
    ensure, ensure_eq,
    inbox::Inbox,
    orders::{OrderBilled, OrderLine, OrderSubmitted, Tenant, order, raw},
};

cases!(Envelope:
    headers_reach_the_handler [DelayedRetry],
    headers_may_be_any_bytes,
    the_envelope_reaches_the_handler,
    the_source_is_the_publisher,
    events_of_a_handler_name_their_service,
    the_content_type_is_the_events,
    payloads_are_not_changed,
    values_round_trip,
    an_unknown_field_is_ignored,
    another_format_is_not_decoded [DeadLetters],
    a_payload_without_an_envelope_is_handled,
    a_structured_document_is_opened,
    a_broken_document_becomes_a_dead_letter [DeadLetters],
    one_type_has_several_events,
    an_enum_reads_what_its_variants_know,
    a_newer_type_reads_an_older_event,
    a_field_fills_the_key,
    a_raw_event_is_whatever_came,
);

/// A11 of the shop.
async fn headers_reach_the_handler(cx: Context) -> CaseResult {
    type Came = (u32, String, Headers);
    async fn bill(
        _: OrderSubmitted,
        State(inbox): State<Inbox<Came>>,
        Header(Tenant(tenant)): Header<Tenant>,
        headers: Headers,
        meta: Metadata,
    ) -> HandlerResult {
        inbox.put((meta.attempt, tenant, headers));
        // Once more, when the framework has headers of its own on it.
        if meta.attempt == 1 {
            return Err("the bank is closed".into());
        }
        Ok(())
    }
    let inbox = cx.inbox();
    let _running = Service::new("billing")
        .with_state(inbox.clone())
        .queue(
            cx.new_queue("billing_order")
                .bind("order", "order.*.submit")
                .handle(bill),
        )
        .start(cx.bus())
        .await?;
    order(7)
        .publish(cx.bus())
        .header("tenant", "eu")
        .header("campaign", "größer ✓")
        .header("empty", "")
        .await?;
    for attempt in [1, 2] {
        let (was, tenant, headers) = inbox.next().await?;
        ensure_eq!((was, &*tenant), (attempt, "eu"), "attempt and tenant");
        let campaign = headers.text("campaign");
        ensure_eq!(campaign, Some("größer ✓"), "campaign");
        ensure_eq!(headers.text("empty"), Some(""), "an empty header");
        ensure_eq!(headers.len(), 3, "headers: {headers:?}");
    }
    let batch = cx.bus().publish_all([order(8), order(9)]);
    for result in batch.header("tenant", "us").await {
        result?;
    }
    for _ in 0..4 {
        let (_, tenant, _) = inbox.next().await?;
        ensure_eq!(tenant, "us", "tenant of a batch");
    }
    Ok(())
}

async fn headers_may_be_any_bytes(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let every: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    order(7)
        .publish(cx.bus())
        .header("signature", HeaderValue::from(every.clone()))
        .await?;
    let delivery = consumer.next().await?;
    let value = delivery.message().headers().get("signature");
    ensure_eq!(value.map(HeaderValue::as_bytes), Some(&every), "value");
    Ok(())
}

async fn the_envelope_reaches_the_handler(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    // 2023, and one microsecond.
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
    let sent = cx
        .message("order.v1.submit", serde_json::to_vec(&order(7))?)?
        .with_id("A-17")
        .with_time(time)
        .with_source("shop/checkout")
        .with_content_type("application/json")
        .with_partition_key("anna");
    cx.send(vec![sent]).await?;
    let seen = desk.finishes(1).await?;
    let Metadata {
        id,
        exchange,
        key,
        time: when,
        source,
        ..
    } = &seen[0].meta;
    ensure_eq!(id.to_string(), "A-17", "id");
    ensure_eq!(
        (exchange.as_str(), key.as_str()),
        ("order", "order.v1.submit"),
        "address"
    );
    ensure_eq!(*when, Some(time), "time");
    ensure_eq!(source, "shop/checkout", "source");
    let message = seen[0].delivery.message();
    ensure_eq!(message.content_type(), "application/json", "content type");
    ensure_eq!(message.partition_key(), Some("anna"), "partition key");
    Ok(())
}

async fn the_source_is_the_publisher(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let shop = cx.process().await?.with_source("shop");
    let before = SystemTime::now() - Duration::from_secs(1);
    order(7).publish(&shop).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.source, "shop", "source");
    let time = seen[0].meta.time;
    ensure!(
        time.is_some_and(|time| before < time && time < SystemTime::now()),
        "the time of the event is {time:?}"
    );
    Ok(())
}

async fn events_of_a_handler_name_their_service(cx: Context) -> CaseResult {
    async fn bill(order: OrderSubmitted) -> OrderBilled {
        OrderBilled { id: order.id }
    }
    let mut spec = cx.spec("archive", &[])?;
    spec.bindings
        .push(event_core::Binding::new("billing", "billing.#")?);
    cx.declare(&[&spec]).await?;
    let queue = cx
        .new_queue("billing_order")
        .bind("order", "order.*.submit")
        .handle(bill);
    let _running = cx.start(cx.bus(), queue).await?;
    order(7).publish(cx.bus()).await?;
    let mut archive = cx.consume(cx.bus(), &spec).await?;
    let billed = archive.next().await?;
    ensure_eq!(billed.message().source(), "billing", "source");
    Ok(())
}

/// Numbers in a format of another program's.
#[derive(Clone, Debug, PartialEq, DeriveEvent)]
#[event(
    crate = "event_core",
    exchange = "order",
    key = "order.v1.label",
    codec = Raw,
    content_type = "text/plain"
)]
struct Label(String);

async fn the_content_type_is_the_events(cx: Context) -> CaseResult {
    let spec = cx.spec("archive", &["order.#"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    Label("box 7".to_owned()).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let mut types: Vec<_> = consumer
        .take(2)
        .await?
        .iter()
        .map(|delivery| {
            let message = delivery.message();
            (message.key().to_string(), message.content_type().to_owned())
        })
        .collect();
    types.sort_unstable();
    let expected = [
        ("order.v1.label", "text/plain"),
        ("order.v1.submit", "application/json"),
    ]
    .map(|(key, kind)| (key.to_owned(), kind.to_owned()));
    ensure_eq!(types, expected, "content types");
    Ok(())
}

async fn payloads_are_not_changed(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let every: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    for payload in [Vec::new(), every, large] {
        let size = payload.len();
        let event = raw("order", "order.v1.submit", payload.clone())?;
        cx.bus().publish(&event).await?;
        let delivery = consumer.next().await?;
        ensure!(
            delivery.message().payload()[..] == payload[..],
            "a payload of {size} bytes was changed"
        );
    }
    Ok(())
}

/// A16 and A4 of the shop.
async fn values_round_trip(cx: Context) -> CaseResult {
    async fn bill(order: OrderSubmitted, State(inbox): State<Inbox<OrderSubmitted>>) {
        inbox.put(order);
    }
    let inbox = cx.inbox();
    let _running = Service::new("billing")
        .with_state(inbox.clone())
        .queue(
            cx.new_queue("billing_order")
                .bind("order", "order.*.submit")
                .handle(bill),
        )
        .start(cx.bus())
        .await?;
    let mut sent = order(u64::MAX);
    sent.lines = vec![
        OrderLine {
            id: 1 << 53 | 1,
            quantity: u32::MAX,
            price: 0.1 + 0.2,
        },
        OrderLine {
            id: 0,
            quantity: 0,
            price: f64::MIN_POSITIVE,
        },
    ];
    sent.publish(cx.bus()).await?;
    ensure_eq!(inbox.next().await?, sent, "order");
    Ok(())
}

/// S7 of the shop.
async fn an_unknown_field_is_ignored(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let mut value = serde_json::to_value(order(7))?;
    value["coupon"] = "SPRING".into();
    let newer = raw("order", "order.v1.submit", serde_json::to_vec(&value)?)?;
    cx.bus().publish(&newer).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].number(), 7, "order");
    Ok(())
}

async fn another_format_is_not_decoded(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let payload = serde_json::to_vec(&order(7))?;
    let sent = cx
        .message("order.v1.submit", payload.clone())?
        .with_content_type("application/cbor");
    cx.send(vec![sent]).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].reason(), Some(Reason::Undecodable), "reason");
    ensure_eq!(letters[0].message().payload()[..], payload[..], "payload");
    ensure_eq!(desk.seen().len(), 0, "handlers that ran");
    Ok(())
}

async fn a_payload_without_an_envelope_is_handled(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let (exchange, key) = (
        ExchangeName::new("order")?,
        RoutingKey::new("order.v1.submit")?,
    );
    let bare = Message::new(exchange, key, serde_json::to_vec(&order(7))?);
    cx.send(vec![bare]).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].number(), 7, "order");
    desk.sees_no_more_than(1).await?;
    Ok(())
}

/// An order as a CloudEvents document.
fn document(data: &OrderSubmitted) -> CaseResult<String> {
    let document = serde_json::json!({
        "specversion": "1.0",
        "id": "A-17",
        "source": "shop",
        "type": "order.v1.submit",
        "datacontenttype": "application/json",
        "data": data,
    });
    Ok(document.to_string())
}

async fn a_structured_document_is_opened(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let sent = cx
        .message("order.v1.submit", document(&order(7))?)?
        .with_content_type("application/cloudevents+json; charset=utf-8");
    cx.send(vec![sent]).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].number(), 7, "order");
    ensure_eq!(seen[0].meta.source, "shop", "source");
    ensure_eq!(seen[0].meta.id.to_string(), "A-17", "id");
    Ok(())
}

async fn a_broken_document_becomes_a_dead_letter(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let broken = document(&order(7))?.replace("specversion", "version");
    let sent = cx
        .message("order.v1.submit", broken.clone())?
        .with_content_type("application/cloudevents+json");
    cx.send(vec![sent]).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].reason(), Some(Reason::Undecodable), "reason");
    ensure_eq!(
        letters[0].message().payload()[..],
        *broken.as_bytes(),
        "payload"
    );
    ensure_eq!(desk.seen().len(), 0, "handlers that ran");
    Ok(())
}

/// The order of the shop, with its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DeriveEvent)]
#[event(crate = "event_core", exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
#[event(name = "chargeback", key = "order.v1.chargeback")]
struct Order {
    #[event(partition_key)]
    id: u64,
    lines: Vec<OrderLine>,
}

/// A1, A2, A3, A9 and A15 of the shop.
async fn one_type_has_several_events(cx: Context) -> CaseResult {
    let keys: Vec<_> = Order::ROUTES
        .iter()
        .map(|route| (route.exchange, route.key, route.version))
        .collect();
    let expected = [
        ("order", "order.v1.submit", Some("v1")),
        ("order", "order.v1.refuse", Some("v1")),
        ("order", "order.v1.chargeback", Some("v1")),
    ];
    ensure_eq!(keys, expected, "routes");
    let (submitted, ended) = (cx.desk(), cx.desk());
    let queue = cx
        .new_queue("billing_order")
        .bind("order", "order.v1.*")
        .on(Order::SUBMIT, submitted.takes::<Order>())
        .named("submit")
        .on(Order::REFUSE, ended.takes::<Order>())
        .named("refuse")
        .on(Order::CHARGEBACK, ended.takes::<Order>())
        .named("chargeback");
    let _running = cx.start(cx.bus(), queue).await?;
    let order = |id| Order {
        id,
        lines: Vec::new(),
    };
    order(1).submit(cx.bus()).await?;
    order(2).refuse(cx.bus()).await?;
    let both = [Order::CHARGEBACK.of(&order(3)), Order::SUBMIT.of(&order(4))];
    for result in cx.bus().publish_all(both).await {
        result?;
    }
    submitted.finishes(2).await?;
    ended.finishes(2).await?;
    let keys = |desk: &crate::Desk| {
        let mut keys: Vec<_> = desk
            .seen()
            .iter()
            .map(|seen| (seen.number(), seen.meta.key.to_string()))
            .collect();
        keys.sort_unstable();
        keys
    };
    let submit = |id| (id, "order.v1.submit".to_owned());
    ensure_eq!(keys(&submitted), [submit(1), submit(4)], "submitted");
    ensure_eq!(
        keys(&ended),
        [
            (2, "order.v1.refuse".to_owned()),
            (3, "order.v1.chargeback".to_owned())
        ],
        "refused and charged back"
    );
    Ok(())
}

/// What a display shows.
#[derive(Clone, Debug, PartialEq, DeriveEvent)]
#[event(crate = "event_core", exchange = "order")]
enum Shown {
    #[event(key = "order.v1.submit")]
    Submitted(OrderSubmitted),
    #[event(key = "order.v1.label", codec = Raw)]
    Labelled(String),
    #[event(other)]
    Other(RawEvent),
}

async fn an_enum_reads_what_its_variants_know(cx: Context) -> CaseResult {
    async fn show(event: Shown, State(inbox): State<Inbox<Shown>>) {
        inbox.put(event);
    }
    let inbox = cx.inbox();
    let _running = Service::new("display")
        .with_state(inbox.clone())
        .queue(
            cx.new_queue("display_order")
                .bind("order", "order.#")
                .concurrency(1)
                .handle(show),
        )
        .start(cx.bus())
        .await?;
    order(7).publish(cx.bus()).await?;
    ensure_eq!(inbox.next().await?, Shown::Submitted(order(7)), "an order");
    let label = Shown::Labelled("box 7".to_owned());
    label.publish(cx.bus()).await?;
    ensure_eq!(inbox.next().await?, label, "a label");
    let newer = raw("order", "order.v2.submit", r#"{"number":7}"#)?;
    cx.bus().publish(&newer).await?;
    match inbox.next().await? {
        Shown::Other(other) => {
            ensure_eq!(other.key.as_str(), "order.v2.submit", "key of the rest");
            ensure_eq!(
                other.payload[..],
                *br#"{"number":7}"#,
                "payload of the rest"
            );
        }
        other => return Err(Failure::new(format!("read as {other:?}"))),
    }
    Ok(())
}

/// The first form of an event.
#[derive(Serialize, Deserialize, DeriveEvent)]
#[event(crate = "event_core", exchange = "stock", key = "stock.v1.count")]
struct CountedV1 {
    id: u64,
}

#[derive(Serialize, Deserialize, DeriveEvent)]
#[event(
    crate = "event_core",
    exchange = "stock",
    key = "stock.v2.count",
    upcasts(CountedV1)
)]
struct CountedV2 {
    id: u64,
    quantity: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, DeriveEvent)]
#[event(
    crate = "event_core",
    exchange = "stock",
    key = "stock.v3.count",
    upcasts(CountedV2)
)]
struct Counted {
    id: u64,
    quantity: u32,
    place: String,
}

impl From<CountedV1> for CountedV2 {
    fn from(CountedV1 { id }: CountedV1) -> Self {
        Self { id, quantity: 1 }
    }
}

impl From<CountedV2> for Counted {
    fn from(CountedV2 { id, quantity }: CountedV2) -> Self {
        let place = "unknown".to_owned();
        Self {
            id,
            quantity,
            place,
        }
    }
}

async fn a_newer_type_reads_an_older_event(cx: Context) -> CaseResult {
    async fn count(counted: Counted, State(inbox): State<Inbox<Counted>>) {
        inbox.put(counted);
    }
    let inbox = cx.inbox();
    let _running = Service::new("stock")
        .with_state(inbox.clone())
        .queue(
            cx.new_queue("stock_count")
                .bind("stock", "stock.*.count")
                .concurrency(1)
                .handle(count),
        )
        .start(cx.bus())
        .await?;
    let counted = |quantity, place: &str| Counted {
        id: 7,
        quantity,
        place: place.to_owned(),
    };
    CountedV1 { id: 7 }.publish(cx.bus()).await?;
    ensure_eq!(inbox.next().await?, counted(1, "unknown"), "from the first");
    let second = CountedV2 { id: 7, quantity: 9 };
    second.publish(cx.bus()).await?;
    ensure_eq!(
        inbox.next().await?,
        counted(9, "unknown"),
        "from the second"
    );
    counted(3, "hall").publish(cx.bus()).await?;
    ensure_eq!(inbox.next().await?, counted(3, "hall"), "its own");
    Ok(())
}

/// An event whose region stands in its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DeriveEvent)]
#[event(crate = "event_core", exchange = "order", key = "order.{region}.ship")]
struct Shipped {
    id: u64,
    region: String,
}

async fn a_field_fills_the_key(cx: Context) -> CaseResult {
    let (all, west) = (cx.desk(), cx.desk());
    let queue = |name: &str, pattern: &str, desk: &crate::Desk| {
        cx.new_queue(name)
            .bind("order", pattern)
            .handle(desk.takes::<Shipped>())
            .named("ship")
    };
    let _all = cx
        .start(cx.bus(), queue("ship_all", "order.*.ship", &all))
        .await?;
    let _west = cx
        .start(cx.bus(), queue("ship_west", "order.west.ship", &west))
        .await?;
    for (id, region) in [(1, "west"), (2, "east")] {
        let region = region.to_owned();
        Shipped { id, region }.publish(cx.bus()).await?;
    }
    all.finishes(2).await?;
    west.finishes(1).await?;
    west.sees_no_more_than(1).await?;
    ensure_eq!(west.seen()[0].meta.key.as_str(), "order.west.ship", "key");
    Ok(())
}

async fn a_raw_event_is_whatever_came(cx: Context) -> CaseResult {
    async fn archive(event: RawEvent, State(inbox): State<Inbox<RawEvent>>) {
        inbox.put(event);
    }
    let inbox = cx.inbox();
    let _running = Service::new("archive")
        .with_state(inbox.clone())
        .queue(
            cx.new_queue("archive_all")
                .bind("order", "#")
                .bind("stock", "#")
                .handle(archive),
        )
        .start(cx.bus())
        .await?;
    let mut sent = raw("stock", "stock.audit", vec![0, 159, 146, 150])?;
    sent.content_type = "image/x-scan".to_owned();
    sent.headers.set("page", "7");
    cx.bus().publish(&sent).await?;
    let came = inbox.next().await?;
    ensure_eq!(
        (came.exchange.as_str(), came.key.as_str()),
        ("stock", "stock.audit"),
        "address"
    );
    ensure_eq!(came.content_type, "image/x-scan", "content type");
    ensure_eq!(came.headers.text("page"), Some("7"), "header");
    ensure_eq!(came.payload[..], sent.payload[..], "payload");
    let again = came.outgoing()?;
    ensure_eq!(
        again.message().key().as_str(),
        "stock.audit",
        "key of the same event published again"
    );
    Ok(())
}
