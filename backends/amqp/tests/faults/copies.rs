//! Copies that cannot be made: the original stays.

use std::time::Duration;

use event_conformance::{
    CaseResult, Consumer, Failure, Stage, ensure, ensure_eq, faults::Copy, publish,
};
use event_core::{Delivery, Settled};
use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};

use crate::stage::{Admin, on_rabbitmq};

/// Long enough to see a copy where it waits.
const WAIT: Duration = Duration::from_millis(1_600);

/// The queue that a copy goes to.
fn target(copy: Copy, at: &Stage) -> String {
    match copy {
        Copy::Retry => at.name("billing_order.retry.1600"),
        Copy::DeadLetter => at.name("billing_order.dead"),
    }
}

/// A consumer that holds one order.
async fn holds_one(at: &Stage) -> CaseResult<(Consumer, Delivery)> {
    let mut spec = at.cx.spec("billing_order", &["order.*.submit"])?;
    spec.retry_waits = vec![WAIT];
    at.direct.declare(&[&spec]).await?;
    let process = at.cx.process().await?;
    let mut consumer = at.cx.consume(&process, &spec).await?;
    // By this process, which then is ready to publish the copy.
    publish(&process, 1..=1).await?;
    let delivery = consumer.next().await?;
    Ok((consumer, delivery))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_the_confirm_of_a_retrys_copy_is_lost() -> CaseResult {
    confirm_is_lost("fault_22_retry", Copy::Retry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_the_confirm_of_a_dead_letters_copy_is_lost() -> CaseResult {
    confirm_is_lost("fault_22_dead", Copy::DeadLetter).await
}

async fn confirm_is_lost(name: &str, copy: Copy) -> CaseResult {
    on_rabbitmq(name, "", async |at| {
        let (mut consumer, mut delivery) = holds_one(at).await?;
        if let Copy::Retry = copy {
            // The first retry makes sure that its queue is there, for which it needs a reply.
            let settled = consumer.settle(copy.of(&delivery, WAIT)).await?;
            ensure_eq!(settled, Settled::Done, "the first retry");
            delivery = consumer.next().await?;
        }
        at.proxy.silence_replies(true);
        let settling = consumer.settle_all(vec![copy.of(&delivery, WAIT)]);
        let cutting = async {
            let admin = Admin::of(at).await?;
            let stored = || async { Ok(admin.ready(&target(copy, at)).await? == 1) };
            let stored = at.cx.until("the copy to be stored", stored).await;
            at.proxy.cut();
            at.proxy.silence_replies(false);
            stored
        };
        let (mut settled, cut) = tokio::join!(settling, cutting);
        cut?;
        // Its connection is gone, so the original cannot have been acknowledged.
        match settled.pop() {
            Some(Err(_) | Ok(Settled::Lost)) => {}
            other => return Err(Failure::new(format!("it was settled as {other:?}"))),
        }
        let again = consumer.next().await?;
        ensure_eq!(
            again.message().id(),
            delivery.message().id(),
            "what came again"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_22_the_broker_refuses_a_dead_letters_copy() -> CaseResult {
    on_rabbitmq("fault_22_refused", "", async |at| {
        let (consumer, delivery) = holds_one(at).await?;
        let target = target(Copy::DeadLetter, at);
        let admin = Admin::of(at).await?;
        admin.delete(&target).await?;
        // One that takes nothing, in its place.
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
        arguments.insert(
            "x-overflow".into(),
            AMQPValue::LongString("reject-publish".into()),
        );
        let channel = admin.channel().await?;
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .queue_declare(target.as_str().into(), options, arguments)
            .await?;

        let settled = consumer
            .settle_all(vec![Copy::DeadLetter.of(&delivery, WAIT)])
            .await;
        ensure!(
            matches!(settled[..], [Err(_)]),
            "it was settled as {settled:?}"
        );
        consumer.crash().await;
        let spec = at.cx.spec("billing_order", &[])?;
        let mut other = at.direct.consume(at.direct.bus(), &spec).await?;
        let again = other.next().await?;
        ensure_eq!(
            again.message().id(),
            delivery.message().id(),
            "what came again"
        );
        other.ack(&again).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_the_queue_for_retries_is_missing() -> CaseResult {
    target_is_missing("fault_30_retry", Copy::Retry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_the_queue_for_dead_letters_is_missing() -> CaseResult {
    target_is_missing("fault_30_dead", Copy::DeadLetter).await
}

async fn target_is_missing(name: &str, copy: Copy) -> CaseResult {
    on_rabbitmq(name, "", async |at| {
        let (mut consumer, delivery) = holds_one(at).await?;
        let admin = Admin::of(at).await?;
        admin.delete(&target(copy, at)).await?;
        let mut settled = consumer.settle_all(vec![copy.of(&delivery, WAIT)]).await;
        match (settled.pop(), copy) {
            // The target was declared anew, and has it.
            (Some(Ok(Settled::Done)), Copy::Retry) => {
                let retried = consumer.next().await?;
                ensure_eq!(retried.message().id(), delivery.message().id(), "the retry");
                consumer.ack(&retried).await?;
                consumer.gets_nothing().await
            }
            (Some(Ok(Settled::Done)), Copy::DeadLetter) => {
                at.direct.dead_letters("billing_order", 1).await?;
                consumer.gets_nothing().await
            }
            (Some(Err(_)), _) => {
                consumer.crash().await;
                let mut other = at.direct.consumer("billing_order").await?;
                let again = other.next().await?;
                ensure_eq!(
                    again.message().id(),
                    delivery.message().id(),
                    "what came again"
                );
                other.ack(&again).await.map(drop)
            }
            (other, _) => Err(Failure::new(format!("it was settled as {other:?}"))),
        }
    })
    .await
}
