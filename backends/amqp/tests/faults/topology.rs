//! Declarations that contradict each other, or come at once.

use std::cell::Cell;

use event_conformance::{CaseResult, Failure, Ledger, ensure, ensure_eq, orders::order, topology};
use event_core::ErrorKind;

use crate::stage::{length, on_rabbitmq};

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
        let (one, other) = (at.direct.process().await?, at.direct.process().await?);
        let third = at.direct.process().await?;
        for round in 0..length(5) {
            let name = format!("billing_{round}");
            let spec = at.direct.spec(&name, &["order.*.submit"])?;
            let topology = topology(&[&spec]);
            let declared = Cell::new(false);
            let over = Cell::new(0);
            let declaring = async |bus: &event_core::Bus| {
                bus.topology().declare(&topology).await?;
                declared.set(true);
                over.set(over.get() + 1);
                Ok::<_, Failure>(())
            };
            let ledger = Ledger::new();
            let publishing = async {
                let (mut id, mut confirmed) = (0, 0);
                while over.get() < 2 || confirmed < 50 {
                    id += 1;
                    // What is published before is nobody's business.
                    let result = match declared.get() {
                        true => ledger.publish(&third, order(id)).await,
                        false => order(id).publish(&third).await,
                    };
                    match result {
                        Ok(_) => confirmed += usize::from(declared.get()),
                        // The server refuses what comes while the queue has no leader yet, and says so.
                        Err(error) if error.kind() == ErrorKind::Overloaded => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            };
            tokio::try_join!(declaring(&one), declaring(&other), publishing)?;
            let desk = at.direct.desk();
            let queue = at.direct.queue(&name, &desk);
            let running = at.direct.start(&one, queue).await?;
            let all = |seen: &[_]| ledger.balance(seen).lost == 0;
            desk.until("all that was published after", all).await?;
            running.shutdown().await?;
        }
        Ok(())
    })
    .await
}
