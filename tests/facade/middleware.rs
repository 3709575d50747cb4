//! Layers of tower's around handlers and around publishing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use switchboard::{
    Delivery, Event, Message, Outcome, Queue, Receipt, Reply, RetryPolicy, Service, State,
    testing::TestBroker,
};
use tower::{Layer, limit::ConcurrencyLimitLayer, timeout::TimeoutLayer};

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct OrderSubmitted {
    id: u64,
}

fn queue<S>() -> Queue<S> {
    Queue::new("billing_order")
        .bind("order", "order.*.submit")
        .retry(RetryPolicy::never())
}

async fn publish(broker: &TestBroker, count: u64) {
    let bus = broker.bus();
    for result in bus
        .publish_all((0..count).map(|id| OrderSubmitted { id }))
        .mandatory()
        .await
    {
        result.unwrap();
    }
}

/// Writes down what passes, outermost first.
#[derive(Clone)]
struct Trace(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl<V> Layer<V> for Trace {
    type Service = Traced<V>;

    fn layer(&self, inner: V) -> Traced<V> {
        Traced(self.clone(), inner)
    }
}

#[derive(Clone)]
struct Traced<V>(Trace, V);

impl<R, V: tower::Service<R>> tower::Service<R> for Traced<V> {
    type Response = V::Response;
    type Error = V::Error;
    type Future = V::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), V::Error>> {
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> V::Future {
        self.0.1.lock().unwrap().push(self.0.0);
        self.1.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_makes_a_handler_fail() {
    async fn stuck(_: OrderSubmitted) {
        std::future::pending::<()>().await;
    }
    let broker = TestBroker::new();
    let queue = queue()
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .handle(stuck);
    let running = Service::new("billing")
        .queue(queue)
        .start(&broker.bus())
        .await
        .unwrap();
    publish(&broker, 1).await;
    assert_eq!(broker.wait_idle("billing_order").await.dead, 1);
    let letters = broker
        .bus()
        .dead_letters("billing_order")
        .await
        .unwrap()
        .list(10)
        .await
        .unwrap();
    assert!(
        letters[0].error().unwrap().contains("timed out"),
        "{:?}",
        letters[0].error()
    );
    running.shutdown().await.unwrap();
}

/// How many handlers run, and how many ran at most at the same time.
#[derive(Clone, Default)]
struct Busy(Arc<(AtomicUsize, AtomicUsize)>);

async fn busy(_: OrderSubmitted, State(Busy(busy)): State<Busy>) {
    let now = busy.0.fetch_add(1, SeqCst) + 1;
    busy.1.fetch_max(now, SeqCst);
    tokio::time::sleep(Duration::from_millis(10)).await;
    busy.0.fetch_sub(1, SeqCst);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_concurrency_holds_over_all_workers() {
    let (broker, state) = (TestBroker::new(), Busy::default());
    let queue = queue()
        .concurrency(12)
        .workers(4)
        .layer(ConcurrencyLimitLayer::new(3))
        .handle(busy);
    let service = Service::new("billing")
        .with_state(state.clone())
        .queue(queue);
    let running = service.start(&broker.bus()).await.unwrap();
    publish(&broker, 100).await;
    assert_eq!(broker.wait_idle("billing_order").await.dead, 0);
    assert_eq!(state.0.1.load(SeqCst), 3);
    running.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn layers_of_the_service_are_outside_of_the_queues() {
    async fn bill(_: OrderSubmitted) {}
    let (broker, seen) = (TestBroker::new(), Arc::default());
    let trace = |name| Trace(name, Arc::clone(&seen));
    let queue = queue()
        .layer(trace("inner"))
        .layer(trace("outer"))
        .handle(bill);
    let service = Service::new("billing")
        .queue(queue)
        .layer(trace("service"))
        .layer(trace("outermost"));
    let running = service.start(&broker.bus()).await.unwrap();
    publish(&broker, 1).await;
    broker.wait_idle("billing_order").await;
    assert_eq!(
        *seen.lock().unwrap(),
        ["outermost", "service", "outer", "inner"]
    );
    running.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn layers_concern_the_handlers_after_them() {
    async fn bare(_: OrderSubmitted) {}
    async fn layered(_: OrderSubmitted) {}
    let (broker, seen) = (TestBroker::new(), Arc::default());
    let queue = queue()
        .handle(bare)
        .layer(Trace("layer", Arc::clone(&seen)))
        .handle(layered);
    let running = Service::new("billing")
        .queue(queue)
        .start(&broker.bus())
        .await
        .unwrap();
    publish(&broker, 1).await;
    broker.wait_idle("billing_order").await;
    assert_eq!(*seen.lock().unwrap(), ["layer"]);
    running.shutdown().await.unwrap();
}

/// Answers instead of the handler.
#[derive(Clone)]
struct Refuse<V>(#[allow(dead_code)] V);

impl<V> tower::Service<Delivery> for Refuse<V> {
    type Response = Reply;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Reply, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Delivery) -> Self::Future {
        std::future::ready(Ok(Outcome::Reject("the shop is closed".to_owned()).into()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_may_answer_for_its_handler() {
    async fn bill(_: OrderSubmitted) {}
    let broker = TestBroker::new();
    let queue = queue().layer(tower::layer::layer_fn(Refuse)).handle(bill);
    let running = Service::new("billing")
        .queue(queue)
        .start(&broker.bus())
        .await
        .unwrap();
    publish(&broker, 1).await;
    assert_eq!(broker.wait_idle("billing_order").await.dead, 1);
    running.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn layers_around_publishing_see_batches() {
    let (broker, seen) = (TestBroker::new(), Arc::default());
    let bus = broker
        .bus()
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .layer(Trace("publish", Arc::clone(&seen)));
    let results: Vec<Result<Receipt, _>> = bus
        .publish_all((0..100).map(|id| OrderSubmitted { id }))
        .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 100);
    assert_eq!(seen.lock().unwrap().len(), 1);
    assert_eq!(bus.counters().published, 100);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_publish_layer_is_the_error_of_each_message() {
    let broker = TestBroker::new();
    broker.outage(true);
    let bus = broker
        .bus()
        .layer(TimeoutLayer::new(Duration::from_secs(1)));
    let results = bus
        .publish_all([OrderSubmitted { id: 1 }, OrderSubmitted { id: 2 }])
        .await;
    assert_eq!(results.len(), 2);
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().is_err_and(|error| error.is_retryable()))
    );
}

/// Changes what is published.
#[tokio::test(start_paused = true)]
async fn a_publish_layer_may_change_messages() {
    let broker = TestBroker::new();
    let stamp = tower::util::MapRequestLayer::new(|batch: Vec<Message>| -> Vec<Message> {
        batch
            .into_iter()
            .map(|message| message.with_header("region", "eu"))
            .collect()
    });
    OrderSubmitted { id: 1 }
        .publish(&broker.bus().layer(stamp))
        .await
        .unwrap();
    assert_eq!(broker.published()[0].headers().text("region"), Some("eu"));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_may_be_set_after_the_layers() {
    let broker = TestBroker::new();
    broker.outage(true);
    let bus = broker
        .bus()
        .layer(ConcurrencyLimitLayer::new(1))
        .with_publish_deadline(Duration::from_millis(50));
    let start = tokio::time::Instant::now();
    let error = OrderSubmitted { id: 1 }.publish(&bus).await.unwrap_err();
    assert_eq!(error.kind(), switchboard::ErrorKind::Timeout);
    assert_eq!(start.elapsed(), Duration::from_millis(50));
}
