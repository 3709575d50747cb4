//! Publishes that the broker refuses: those and no others fail.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use event_conformance::{
    CaseResult, Failure, ensure, ensure_eq, faults, length,
    orders::{order, raw},
};
use event_core::{Bus, ErrorKind, QueueSpec};
use futures_util::future::join_all;

use crate::stage::{Admin, ctl, on_own_rabbitmq, on_rabbitmq};

const THREADS: u64 = 4;
const EACH: u64 = 10_000;

/// How publishes ended: how many of every seventh, and of the others.
type Ends = HashMap<(bool, Option<ErrorKind>), u64>;

/// Publishes from four threads; every seventh message is special, and is a bill among submitted orders.
async fn every_seventh(bus: &Bus, mandatory: bool) -> CaseResult<Ends> {
    let ends = Arc::new(Mutex::new(Ends::new()));
    let threads = (0..THREADS).map(|_| {
        let (bus, ends) = (bus.clone(), ends.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while number < EACH {
                let upto = (number + 250).min(EACH);
                let (bus, ends) = (&bus, &ends);
                let publishes = (number..upto).map(|number| async move {
                    let special = number % 7 == 3;
                    let key = if special {
                        "order.v1.bill"
                    } else {
                        "order.v1.submit"
                    };
                    let event = raw("order", key, "{}")?;
                    let publish = bus.publish(&event);
                    let publish = if mandatory {
                        publish.mandatory()
                    } else {
                        publish
                    };
                    let end = publish.await.err().map(|error| error.kind());
                    let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                    *ends.entry((special, end)).or_default() += 1;
                    Ok::<_, Failure>(())
                });
                for ended in join_all(publishes).await {
                    ended?;
                }
                number = upto;
            }
            Ok::<_, Failure>(())
        })
    });
    for thread in join_all(threads).await {
        thread??;
    }
    let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ends.clone())
}

/// Every seventh ended like this, and the others well.
fn expect(ends: Ends, kind: ErrorKind) -> CaseResult {
    let special = THREADS * (0..EACH).filter(|number| number % 7 == 3).count() as u64;
    let expected = Ends::from([
        ((true, Some(kind)), special),
        ((false, None), THREADS * EACH - special),
    ]);
    ensure_eq!(ends, expected, "(every seventh, error) and how often");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_05_every_seventh_of_four_threads_is_refused() -> CaseResult {
    on_rabbitmq("fault_05", "", async |at| {
        let mut full = at.direct.spec("billing_order", &["order.v1.bill"])?;
        full.max_length = Some(10);
        let open = at.direct.spec("logistic_order", &["order.v1.submit"])?;
        at.direct.declare(&[&full, &open]).await?;
        fill(at.cx.bus(), "order.v1.bill").await?;
        let (admin, name) = (Admin::of(at).await?, at.name("billing_order"));
        let held = admin.ready(&name).await?;
        for round in 0..length(1) {
            let begin = Instant::now();
            let ends = every_seventh(at.cx.bus(), false).await?;
            eprintln!("fault_05 in {:?}: {ends:?}", begin.elapsed());
            expect(ends, ErrorKind::Overloaded)?;
            ensure_eq!(
                admin.ready(&name).await?,
                held,
                "orders in the full queue, round {round}"
            );
        }
        Ok(())
    })
    .await
}

/// Publishes until the queue refuses for good. It takes a few more than it was told to, because its limit reaches
/// the publishers with a delay.
async fn fill(bus: &Bus, key: &str) -> CaseResult {
    let mut refused = 0;
    for _ in 0..1_000 {
        match bus.publish(&raw("order", key, "{}")?).await {
            Ok(_) => refused = 0,
            Err(error) => {
                ensure_eq!(error.kind(), ErrorKind::Overloaded, "kind of: {error}");
                refused += 1;
            }
        }
        if refused == 20 {
            return Ok(());
        }
    }
    Err(Failure::new(
        "a queue with a limit of 10 is not full after 1000 publishes",
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_05_every_seventh_of_four_threads_is_unroutable() -> CaseResult {
    on_rabbitmq("fault_05_mandatory", "", async |at| {
        let open = at.direct.spec("logistic_order", &["order.v1.submit"])?;
        at.direct.declare(&[&open]).await?;
        for _ in 0..length(1) {
            let begin = Instant::now();
            let ends = every_seventh(at.cx.bus(), true).await?;
            eprintln!("fault_05, mandatory, in {:?}: {ends:?}", begin.elapsed());
            expect(ends, ErrorKind::Unroutable)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_06_an_unroutable_message_fails_alone() -> CaseResult {
    on_rabbitmq("fault_06", "", async |at| {
        faults::an_unroutable_message_fails_alone(at).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_25_a_payload_over_the_limit_fails_alone() -> CaseResult {
    let set = "application:set_env(rabbit, max_message_size, 65536).";
    let prepare = async |broker: &_| ctl(broker, &["eval", set]).await.map(drop);
    on_own_rabbitmq("fault_25", prepare, async |at, _| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        let bus = at.direct.process().await?;
        let mut consumer = at.direct.consume(&bus, &spec).await?;
        let mut generations = HashSet::new();
        for round in 0..3 {
            let payloads = [10, 65_537, 20, 1_000_000, 30];
            let events: Vec<_> = payloads
                .iter()
                .map(|length| raw("order", "order.v1.submit", vec![b'7'; *length]))
                .collect::<event_core::Result<_>>()?;
            let results = bus.publish_all(&events).await;
            let kinds: Vec<_> = results
                .iter()
                .map(|result| result.as_ref().err().map(|error| error.kind()))
                .collect();
            let large = Some(ErrorKind::TooLarge);
            ensure_eq!(
                kinds,
                [None, large, None, large, None],
                "errors of round {round}"
            );
            for delivery in consumer.take(3).await? {
                generations.insert(delivery.tag().generation);
                consumer.ack(&delivery).await?;
            }
        }
        // The connection that publishes may be lost: what lapin has for a channel when the server closes it, it still
        // writes behind its end, over which the server closes the connection.
        ensure_eq!(generations.len(), 1, "channels of the consumer beside it");
        // Some may have been sent twice because their channel ended with a large one.
        for delivery in consumer.rest().await? {
            ensure!(
                delivery.message().payload().len() <= 30,
                "a large one was stored"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_25_properties_over_a_frame_fail_alone() -> CaseResult {
    on_rabbitmq("fault_25_properties", "", async |at| {
        let bus = at.cx.process().await?;
        let queue = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&queue]).await?;
        let message = || at.direct.message("order.v1.submit", "{}");
        let long = "7".repeat(70_000);
        let batch = vec![
            message()?,
            // It stands in the header and nowhere else, and does not fit twice into what a copy of it may have.
            message()?.with_partition_key(long.clone() + &long),
            message()?.with_source(long.clone()),
            message()?.with_header("note", (long.clone() + &long).as_str()),
            message()?,
        ];
        let deadline = tokio::time::Instant::now() + at.direct.patience();
        let results = bus.transport().publish(batch, deadline).await;
        let kinds: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().err().map(|error| error.kind()))
            .collect();
        let large = Some(ErrorKind::TooLarge);
        ensure_eq!(kinds, [None, large, large, large, None], "errors");
        // Nothing was sent twice, so no connection was lost over it.
        let ready = Admin::of(at)
            .await?
            .ready(&at.name("billing_order"))
            .await?;
        ensure_eq!(ready, 2, "messages");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_34_a_full_queue_is_an_error_of_its_publisher() -> CaseResult {
    on_rabbitmq("fault_34", "", async |at| {
        let limited = |name: &str, most| -> CaseResult<QueueSpec> {
            let mut spec = at.direct.spec(name, &["order.*.submit"])?;
            spec.max_length = most;
            Ok(spec)
        };
        let (full, other) = (
            limited("billing_order", Some(5))?,
            limited("logistic_order", None)?,
        );
        at.direct.declare(&[&full, &other]).await?;
        let mut tried = 0_u32;
        let refused = loop {
            tried += 1;
            match order(u64::from(tried)).publish(at.cx.bus()).await {
                Ok(_) => ensure!(tried < 200, "a queue with a limit of 5 took 200 orders"),
                Err(error) => break error,
            }
        };
        ensure_eq!(refused.kind(), ErrorKind::Overloaded, "kind of: {refused}");
        ensure!(refused.is_retryable(), "it may be tried again: {refused}");
        ensure!(
            refused.to_string().contains("order"),
            "nothing is named: {refused}"
        );
        // The other queue has one copy for each publish, the refused one included, and no more.
        let admin = Admin::of(at).await?;
        let stored = admin.ready(&at.name("logistic_order")).await?;
        ensure_eq!(stored, tried, "orders in the other queue");

        let mut consumer = at.direct.consume(at.direct.bus(), &full).await?;
        for delivery in consumer.rest().await? {
            consumer.ack(&delivery).await?;
        }
        let again = || async { Ok(order(1_000).publish(at.cx.bus()).await.is_ok()) };
        at.cx.until("a publish when there is room", again).await
    })
    .await
}
