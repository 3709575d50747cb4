//! What happens can be seen: spans and counters.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use crate::process;
use switchboard::{Event, HandlerError, Queue, Result, RetryPolicy, Service, testing::TestBroker};
use tracing::{
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::SubscriberExt};

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

type Fields = BTreeMap<&'static str, String>;

/// Keeps the spans of the library by name, with their fields.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(&'static str, Fields)>>>);

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(
        &self,
        span: &span::Attributes<'_>,
        _: &span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        if span.metadata().target() == "switchboard" {
            let mut fields = Read::default();
            span.record(&mut fields);
            self.0
                .lock()
                .unwrap()
                .push((span.metadata().name(), fields.0));
        }
    }
}

#[derive(Default)]
struct Read(Fields);

impl Visit for Read {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(
            field.name(),
            format!("{value:?}").trim_matches('"').to_owned(),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_batch_and_each_delivery_has_a_span() {
    async fn bill(order: OrderSubmitted) -> Result {
        if order.id == 2 {
            Err("no such account".into())
        } else {
            Ok(())
        }
    }
    // Tracing remembers for the process who wanted a span when it was met first.
    if !process::is_child("visible::each_batch_and_each_delivery_has_a_span") {
        return process::run("visible::each_batch_and_each_delivery_has_a_span", None);
    }
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    // The default of the thread, since the service's tasks are spawned.
    let _default = tracing::subscriber::set_default(subscriber);
    let broker = TestBroker::new();
    let bus = broker.bus();
    let queue = Queue::new("billing_order")
        .bind("order", "order.#")
        .retry(RetryPolicy::default().attempts(2))
        .handle(bill);
    let running = Service::new("billing")
        .queue(queue)
        .start(&bus)
        .await
        .unwrap();
    let orders = [1, 2, 3].map(|id| OrderSubmitted { id });
    let results = bus.publish_all(&orders).await;
    broker.wait_idle("billing_order").await;
    running.shutdown().await.unwrap();

    let seen = spans.0.lock().unwrap();
    let of = |name| {
        seen.iter()
            .filter(move |span| span.0 == name)
            .map(|span| &span.1)
            .collect::<Vec<_>>()
    };
    let (published, handled) = (of("publish"), of("handle"));
    assert_eq!(published.len(), 1, "{published:?}");
    assert_eq!(
        (&*published[0]["count"], &*published[0]["exchange"]),
        ("3", "order")
    );
    assert_eq!(
        handled.len(),
        4,
        "three deliveries and a second attempt: {handled:?}"
    );
    assert_eq!(
        (&*handled[0]["queue"], &*handled[0]["key"]),
        ("billing_order", "order.v1.submit")
    );
    let id = results[1].as_ref().unwrap().id.to_string();
    let attempts: Vec<_> = handled
        .iter()
        .filter(|span| span["id"] == id)
        .map(|span| &*span["attempt"])
        .collect();
    assert_eq!(attempts, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn counters_say_what_happened() {
    async fn bill(order: OrderSubmitted) -> Result {
        match order.id {
            1 => Ok(()),
            2 => Err(HandlerError::permanent("no such account")),
            _ => Err("the bank is closed".into()),
        }
    }
    let broker = TestBroker::new();
    let bus = broker.bus();
    OrderSubmitted { id: 0 }.publish(&bus).await.unwrap();
    let queue = Queue::new("billing_order")
        .bind("order", "order.#")
        .retry(RetryPolicy::default().attempts(3))
        .handle(bill);
    let running = Service::new("billing")
        .queue(queue)
        .start(&bus)
        .await
        .unwrap();
    for result in bus
        .publish_all([1, 2, 3].map(|id| OrderSubmitted { id }))
        .await
    {
        result.unwrap();
    }
    broker.wait_idle("billing_order").await;
    running.shutdown().await.unwrap();
    let counters = bus.counters();
    assert_eq!((counters.published, counters.unroutable), (4, 1));
    assert_eq!(
        (counters.handled, counters.retried, counters.dead_lettered),
        (1, 2, 2)
    );
    assert_eq!(
        (counters.released, counters.skipped, counters.lost),
        (0, 0, 0)
    );
}
