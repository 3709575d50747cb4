//! What happens to consumers: killed, their queue deleted, their channel closed, stopped in good order.

use std::time::Duration;

use event_conformance::{
    Act, Balance, CaseResult, Failure, done, ensure, ensure_eq, faults, orders::order, publish,
};
use event_core::{Capability, ErrorKind, QueueKind, Settled};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::interval;

use crate::stage::{Admin, ctl, on_own_rabbitmq, on_own_rabbitmq_with, on_rabbitmq};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_02_a_consumer_is_killed_with_fifty_deliveries() -> CaseResult {
    on_rabbitmq("fault_02", "", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        publish(at.direct.bus(), 1..=50).await?;
        let process = at.cx.process().await?;
        let mut killed = at.cx.consume(&process, &spec).await?;
        for delivery in killed.take(50).await? {
            ensure_eq!(delivery.redeliveries(), 0, "redeliveries at first");
        }
        // It does not come back.
        at.proxy.refuse(true);
        at.proxy.cut();
        killed.crash().await;
        drop(process);

        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        let again = consumer.take(50).await?;
        for delivery in &again {
            ensure!(delivery.redeliveries() > 0, "its crash cannot be seen");
            ensure_eq!(delivery.attempt(), 1, "attempt");
            ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
        }
        consumer.gets_nothing().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_a_queue_is_deleted_under_its_consumer() -> CaseResult {
    on_rabbitmq("fault_08", "", async |at| {
        let desk = at.cx.desk();
        let service = at.cx.process().await?;
        let mut running = at
            .cx
            .start(&service, at.cx.queue("billing_order", &desk))
            .await?;
        publish(at.cx.bus(), 1..=1).await?;
        desk.finishes(1).await?;
        Admin::of(at)
            .await?
            .delete(&at.name("billing_order"))
            .await?;

        // It is declared anew, or the service ends and says so.
        let anew = async {
            let publishing =
                || async { Ok(order(2).publish(at.direct.bus()).mandatory().await.is_ok()) };
            at.cx.until("the queue to be back", publishing).await?;
            let handled = desk.until("its order", |seen| done(seen).contains(&2));
            handled.await.map(drop)
        };
        tokio::select! {
            ended = running.join() => match ended {
                Ok(()) => Err(Failure::new("the service ended without a word")),
                Err(error) => {
                    let text = error.to_string();
                    ensure!(text.contains("billing_order"), "no queue is named: {text}");
                    Ok(())
                }
            },
            handled = anew => handled,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_09_a_channel_error_concerns_its_consumer_only() -> CaseResult {
    // The broker closes the channel of who holds a delivery for longer.
    let set = "application:set_env(rabbit, consumer_timeout, 1000), \
               application:set_env(rabbit, channel_tick_interval, 500).";
    let prepare = async |broker: &_| ctl(broker, &["eval", set]).await.map(drop);
    on_own_rabbitmq("fault_09", prepare, async |at, _| {
        let cx = &at.direct;
        let slow = cx.spec("billing_order", &["order.*.submit"])?;
        let quick = cx.spec("logistic_order", &["order.*.note"])?;
        cx.declare(&[&slow, &quick]).await?;
        let process = cx.process().await?;
        let mut quick = cx.consume(&process, &quick).await?;
        let mut slow = cx.consume(&process, &slow).await?;
        publish(cx.bus(), 1..=1).await?;
        let first = slow.next().await?;

        let going_on = async {
            let mut tick = interval(Duration::from_millis(100));
            let mut generation = None;
            loop {
                tick.tick().await;
                let note = event_conformance::orders::OrderNoted { id: 7 };
                note.publish(cx.bus()).await?;
                let delivery = quick.next().await?;
                ensure_eq!(quick.ack(&delivery).await?, Settled::Done, "settled");
                let now = delivery.tag().generation;
                let before = *generation.get_or_insert(now);
                ensure_eq!(now, before, "generation of the other consumer");
                ensure_eq!(delivery.redeliveries(), 0, "redeliveries to the other");
            }
        };
        let again: CaseResult<_> = tokio::select! {
            again = slow.next() => again,
            failed = going_on => failed,
        };
        let again = again?;
        ensure_eq!(
            again.message().id(),
            first.message().id(),
            "what came again"
        );
        ensure_eq!(slow.ack(&first).await?, Settled::Lost, "the old tag");
        ensure_eq!(slow.ack(&again).await?, Settled::Done, "the new one");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_09_what_waits_for_long_goes_back_before_its_channel_is_closed() -> CaseResult {
    const ORDERS: u64 = 24;
    let set = "application:set_env(rabbit, consumer_timeout, 4000), \
               application:set_env(rabbit, channel_tick_interval, 500).";
    let prepare = async |broker: &_| ctl(broker, &["eval", set]).await.map(drop);
    let options = "?consumer_timeout=4000";
    on_own_rabbitmq_with("fault_09_ages", options, prepare, async |at, _| {
        let cx = &at.direct;
        cx.declare(&[&cx.spec("billing_order", &["order.*.submit"])?])
            .await?;
        let ledger = publish(cx.bus(), 1..=ORDERS).await?;
        // All of them take more than twice as long as the broker lets one wait.
        let desk = cx.desk().doing(|_| Act::Take(Duration::from_millis(400)));
        let queue = cx.queue("billing_order", &desk).concurrency(1);
        let queue = queue.prefetch(usize::try_from(ORDERS)?);
        let running = cx.start(&cx.process().await?, queue).await?;
        desk.until("all of them", |seen| done(seen).len() == 24)
            .await?;
        running.shutdown().await?;
        let seen = desk.seen();
        let balance: Balance = ledger.balance(&seen);
        ensure_eq!((balance.lost, balance.duplicated), (0, 0), "{balance}");
        ensure!(
            seen.iter().all(|seen| seen.meta.attempt == 1),
            "an attempt was used up"
        );
        ensure!(
            seen.iter().any(|seen| seen.meta.redeliveries > 0),
            "nothing went back"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_29_a_count_of_returns_that_a_publisher_made_up_makes_no_suspect() -> CaseResult {
    on_rabbitmq("fault_29_made_up", "", async |at| {
        let mut consumer = at.direct.consumer("billing_order").await?;
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(7));
        let channel = Admin::of(at).await?.channel().await?;
        let properties = BasicProperties::default().with_headers(headers);
        let queue = at.name("billing_order");
        let options = BasicPublishOptions::default();
        channel
            .basic_publish("".into(), queue.as_str().into(), options, b"{}", properties)
            .await?;
        let delivery = consumer.next().await?;
        ensure!(!delivery.is_suspect(), "it is a suspect");
        ensure_eq!(delivery.redeliveries(), 0, "redeliveries");
        ensure_eq!(consumer.ack(&delivery).await?, Settled::Done, "settled");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_23_strict_order_is_refused() -> CaseResult {
    on_rabbitmq("fault_23", "", async |at| {
        ensure!(!at.cx.can(Capability::Ordered), "it has to be tried now");
        let desk = at.cx.desk();
        let queue = at.cx.queue("billing_order", &desk).ordered();
        let Err(refused) = event_core::Service::new("billing")
            .queue(queue)
            .start(at.cx.bus())
            .await
        else {
            return Err(Failure::new("it was not refused"));
        };
        ensure_eq!(refused.kind(), ErrorKind::Unsupported, "kind of: {refused}");
        ensure!(
            refused.to_string().contains("`ordered`"),
            "it says: {refused}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_24_services_stop_under_load_and_use_no_attempt() -> CaseResult {
    on_rabbitmq("fault_24", "", async |at| {
        faults::services_stop_under_load(at).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_24_a_queue_of_another_type_is_left_in_good_order() -> CaseResult {
    on_rabbitmq("fault_24_classic", "", async |at| {
        let queue = at.name("billing_order");
        let admin = Admin::of(at).await?;
        let channel = admin.channel().await?;
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let classic = channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
        classic.await?;
        for _ in 0..60 {
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            channel
                .basic_publish("".into(), queue.as_str().into(), options, b"{}", properties)
                .await?;
        }
        let mut spec = at.direct.spec("billing_order", &[])?;
        spec.kind = QueueKind::Existing;
        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        let held = consumer.take(60).await?;
        // The last first, so that each is a request of its own.
        for delivery in held.iter().rev() {
            ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
        }
        consumer.stop().await?;
        drop(consumer);
        let mut other = at.direct.consume(at.direct.bus(), &spec).await?;
        other.gets_nothing().await
    })
    .await
}
