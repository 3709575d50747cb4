//! Declarations that contradict each other, or come at once.

use std::cell::Cell;

use event_conformance::{CaseResult, Failure, ensure, ensure_eq, faults, orders::order, topology};
use event_core::{Error, ErrorKind};

use crate::stage::on_rabbitmq;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_07_other_arguments_are_an_error_and_other_traffic_goes_on() -> CaseResult {
    on_rabbitmq("fault_07", "", async |at| {
        let (cx, bus) = (&at.cx, at.cx.bus());
        let spec = cx.spec("billing_order", &["order.*.submit"])?;
        cx.declare(&[&spec]).await?;
        let mut consumer = cx.consume(bus, &spec).await?;
        let over = Cell::new(false);
        let traffic = async {
            let mut id = 0;
            let mut generation = None;
            while !over.get() || id < 100 {
                id += 1;
                order(id).publish(bus).await?;
                let delivery = consumer.next().await?;
                ensure_eq!(delivery.redeliveries(), 0, "redeliveries");
                let now = delivery.tag().generation;
                ensure_eq!(now, *generation.get_or_insert(now), "generation");
                consumer.ack(&delivery).await?;
            }
            Ok(())
        };
        let declaring = async {
            let mut other = spec.clone();
            other.max_length = Some(5);
            for _ in 0..10 {
                let result = bus.topology().declare(&topology(&[&other])).await;
                let Err(error) = result else {
                    return Err(Failure::new("it was declared with other arguments"));
                };
                ensure_eq!(error.kind(), ErrorKind::Mismatch, "kind of: {error}");
                let text = error.to_string();
                for named in [at.name("billing_order").as_str(), "x-max-length", "5"] {
                    ensure!(text.contains(named), "`{named}` is not named: {text}");
                }
            }
            over.set(true);
            Ok(())
        };
        tokio::try_join!(traffic, declaring).map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_31_two_processes_declare_one_queue_while_a_third_publishes() -> CaseResult {
    on_rabbitmq("fault_31", "", async |at| {
        // The server refuses what comes while the queue has no leader yet, and says so.
        let passes = |error: &Error| error.kind() == ErrorKind::Overloaded;
        faults::two_processes_declare_one_queue(at, passes).await
    })
    .await
}
