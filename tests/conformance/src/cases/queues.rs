//! 3. Queues.

use std::time::Duration;

use event_core::{Error, ErrorKind, HandlerError, Outcome, Queue, RetryPolicy, Service, Settled};
use futures_util::future::try_join_all;

use crate::{
    Act, CaseResult, Context, Failure, Ledger,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, OrderSubmitted, order, raw},
    topology,
};

cases!(Queues:
    a_queue_receives_what_is_published_after_it_was_declared,
    a_queue_keeps_messages_while_its_service_is_down,
    each_queue_has_its_own_copy [DelayedRetry],
    consumers_of_one_queue_compete,
    declaring_twice_changes_nothing,
    declaring_only_adds_bindings,
    a_new_binding_takes_part_at_once,
    processes_may_declare_at_the_same_time,
    an_older_service_takes_nothing_from_a_newer_one,
    a_queue_declared_with_other_arguments_is_a_mismatch [MaxLength],
    an_unbound_pattern_stops_matching_at_once [Unbind],
    unbinding_keeps_other_bindings [Unbind],
    unbinding_what_is_not_bound_succeeds [Unbind],
    a_service_unbinds_what_it_names [Unbind],
    pruning_keeps_what_is_declared [Prune],
    deleting_a_queue_takes_its_retries_and_dead_letters_along [DeleteQueue, DeadLetters, DelayedRetry],
    deleting_a_queue_leaves_others_alone [DeleteQueue],
    deleting_what_is_not_there_succeeds [DeleteQueue],
    a_queue_deleted_under_its_service_is_noticed [DeleteQueue],
    a_full_queue_refuses [MaxLength],
    an_existing_queue_is_used_as_it_is [Existing],
    consuming_what_is_not_there_is_not_found [Existing],
);

/// A10 of the shop.
async fn a_queue_receives_what_is_published_after_it_was_declared(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    ensure_eq!(consumer.rest().await?.len(), 1, "deliveries");
    Ok(())
}

async fn a_queue_keeps_messages_while_its_service_is_down(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let first = cx.process().await?;
    let running = cx.start(&first, cx.queue("billing_order", &desk)).await?;
    order(1).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    running.shutdown().await?;
    order(2).publish(cx.bus()).await?;
    order(3).publish(cx.bus()).await?;
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.finishes(3).await?;
    desk.sees_no_more_than(3).await?;
    let mut numbers = desk.numbers();
    numbers.sort_unstable();
    ensure_eq!(numbers, [1, 2, 3], "orders");
    Ok(())
}

/// A6 of the shop.
async fn each_queue_has_its_own_copy(cx: Context) -> CaseResult {
    let (billing, logistic) = (cx.desk().failing(1), cx.desk());
    let _billing = cx
        .start(cx.bus(), cx.queue("billing_order", &billing))
        .await?;
    let _logistic = cx
        .start(&cx.process().await?, cx.queue("logistic_order", &logistic))
        .await?;
    order(7).publish(cx.bus()).await?;
    billing.finishes(2).await?;
    logistic.finishes(1).await?;
    billing.sees_no_more_than(2).await?;
    logistic.sees_no_more_than(1).await?;
    Ok(())
}

/// A7 of the shop.
async fn consumers_of_one_queue_compete(cx: Context) -> CaseResult {
    let (one, two) = (cx.desk().holding(), cx.desk().holding());
    let queue = |desk| {
        let queue = cx.queue("billing_order", desk);
        queue.concurrency(1).prefetch(4)
    };
    let _one = cx.start(&cx.process().await?, queue(&one)).await?;
    let _two = cx.start(&cx.process().await?, queue(&two)).await?;
    let ledger = Ledger::new();
    for id in 0..40 {
        ledger.publish(cx.bus(), &order(id)).await?;
    }
    one.sees(1).await?;
    two.sees(1).await?;
    one.open();
    two.open();
    let all = || {
        let mut seen = one.seen();
        seen.extend(two.seen());
        seen
    };
    cx.until("both processes to handle everything", || async {
        Ok(ledger.balance(&all()).lost == 0)
    })
    .await?;
    one.sees_no_more_than(one.seen().len()).await?;
    two.sees_no_more_than(two.seen().len()).await?;
    ensure_eq!(all().len(), 40, "handlers that ran");
    ensure_eq!(ledger.balance(&all()).duplicated, 0, "handled twice");
    Ok(())
}

async fn declaring_twice_changes_nothing(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(1).publish(cx.bus()).await?;
    cx.declare(&[&spec]).await?;
    order(2).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let first = consumer.take(2).await?;
    // Also under a consumer: what it holds stays its own.
    let other = cx.process().await?;
    other.topology().declare(&topology(&[&spec])).await?;
    for delivery in &first {
        ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
    }
    order(3).publish(cx.bus()).await?;
    ensure_eq!(consumer.rest().await?.len(), 1, "deliveries afterwards");
    Ok(())
}

async fn declaring_only_adds_bindings(cx: Context) -> CaseResult {
    let older = cx.spec("billing_order", &["order.*.submit"])?;
    let newer = cx.spec("billing_order", &["order.*.note"])?;
    let none = cx.spec("billing_order", &[])?;
    for spec in [&older, &newer, &none] {
        cx.declare(&[spec]).await?;
    }
    order(1).publish(cx.bus()).await?;
    OrderNoted { id: 2 }.publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &older).await?;
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries");
    Ok(())
}

async fn a_new_binding_takes_part_at_once(cx: Context) -> CaseResult {
    let older = cx.spec("billing_order", &["order.*.refuse"])?;
    cx.declare(&[&older]).await?;
    let publisher = cx.process().await?;
    order(1).publish(&publisher).await?;
    let newer = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&newer]).await?;
    order(2).publish(&publisher).await?;
    let mut consumer = cx.consume(cx.bus(), &newer).await?;
    let rest = consumer.rest().await?;
    ensure_eq!(rest.len(), 1, "deliveries, one from afterwards");
    Ok(())
}

async fn processes_may_declare_at_the_same_time(cx: Context) -> CaseResult {
    let declaring = (0..6).map(|process| {
        let cx = cx.clone();
        async move {
            let bus = cx.process().await?;
            let patterns = ["order.*.submit", &format!("order.{process}.*")];
            let spec = cx.spec("billing_order", &patterns)?;
            bus.topology().declare(&topology(&[&spec])).await?;
            order(process).publish(&bus).await?;
            let own = raw("order", &format!("order.{process}.own"), "{}")?;
            bus.publish(&own).await?;
            CaseResult::Ok(spec)
        }
    });
    let specs = try_join_all(declaring).await?;
    let mut consumer = cx.consume(cx.bus(), &specs[0]).await?;
    ensure_eq!(consumer.rest().await?.len(), 12, "deliveries");
    Ok(())
}

async fn an_older_service_takes_nothing_from_a_newer_one(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let newer = cx
        .queue("billing_order", &desk)
        .bind("order", "order.*.note")
        .handle(desk.takes::<OrderNoted>())
        .named("note");
    let _newer = cx.start(&cx.process().await?, newer).await?;
    let older = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    older.shutdown().await?;
    OrderNoted { id: 7 }.publish(cx.bus()).await?;
    desk.finishes(1).await?;
    Ok(())
}

async fn a_queue_declared_with_other_arguments_is_a_mismatch(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(1).publish(cx.bus()).await?;
    let mut limited = spec.clone();
    limited.max_length = Some(5);
    let other = cx.process().await?;
    let declared = other.topology().declare(&topology(&[&limited])).await;
    let Err(error) = declared else {
        return Err(Failure::new("it was declared with other arguments"));
    };
    ensure_eq!(error.kind(), ErrorKind::Mismatch, "kind of: {error}");
    let text = error.to_string().replace('-', "_");
    for name in ["billing_order", "max_length"] {
        ensure!(
            text.contains(name),
            "the error does not name `{name}`: {text}"
        );
    }
    // Other traffic of that connection goes on.
    order(2).publish(&other).await?;
    let mut consumer = cx.consume(&other, &spec).await?;
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries");
    Ok(())
}

async fn an_unbound_pattern_stops_matching_at_once(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let publisher = cx.process().await?;
    order(1).publish(&publisher).await?;
    let topology = cx.bus().topology();
    topology
        .unbind("billing_order", "order", "order.*.submit")
        .await?;
    // Also for a publisher that knew the binding before.
    order(2).publish(&publisher).await?;
    order(3).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let rest = consumer.rest().await?;
    ensure_eq!(rest.len(), 1, "deliveries, one from before");
    Ok(())
}

async fn unbinding_keeps_other_bindings(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit", "order.*.note"])?;
    let other = cx.spec("logistic_order", &["order.*.submit"])?;
    cx.declare(&[&spec, &other]).await?;
    order(1).publish(cx.bus()).await?;
    let topology = cx.bus().topology();
    topology
        .unbind("billing_order", "order", "order.*.submit")
        .await?;
    OrderNoted { id: 2 }.publish(cx.bus()).await?;
    order(3).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries of billing");
    let mut consumer = cx.consume(cx.bus(), &other).await?;
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries of logistic");
    Ok(())
}

async fn unbinding_what_is_not_bound_succeeds(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let topology = cx.bus().topology();
    for _ in 0..2 {
        topology
            .unbind("billing_order", "order", "order.*.refuse")
            .await?;
    }
    order(1).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    ensure_eq!(consumer.rest().await?.len(), 1, "deliveries");
    Ok(())
}

async fn a_service_unbinds_what_it_names(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit", "order.*.note"])?;
    cx.declare(&[&spec]).await?;
    let desk = cx.desk();
    let queue = cx
        .queue("billing_order", &desk)
        .unbind("order", "order.*.note");
    let running = cx.start(cx.bus(), queue).await?;
    OrderNoted { id: 1 }.publish(cx.bus()).await?;
    order(2).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    running.shutdown().await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    consumer.gets_nothing().await
}

async fn pruning_keeps_what_is_declared(cx: Context) -> CaseResult {
    let patterns = ["order.*.submit", "order.*.note", "order.#"];
    let spec = cx.spec("billing_order", &patterns)?;
    let other = cx.spec("logistic_order", &["order.#"])?;
    cx.declare(&[&spec, &other]).await?;
    OrderNoted { id: 1 }.publish(cx.bus()).await?;
    let declared = cx.spec("billing_order", &["order.*.submit"])?;
    let topology = topology(&[&declared]);
    cx.bus().topology().prune(&topology).await?;
    OrderNoted { id: 2 }.publish(cx.bus()).await?;
    order(3).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let rest = consumer.rest().await?;
    let mut numbers: Vec<_> = rest
        .iter()
        .map(|delivery| crate::desk::number(delivery.message().payload()))
        .collect();
    // They have no key in common, and so no order.
    numbers.sort_unstable();
    ensure_eq!(numbers, [1, 3], "what billing got");
    let mut consumer = cx.consume(cx.bus(), &other).await?;
    ensure_eq!(consumer.rest().await?.len(), 3, "deliveries of logistic");
    Ok(())
}

async fn deleting_a_queue_takes_its_retries_and_dead_letters_along(cx: Context) -> CaseResult {
    let wait = Duration::from_secs(2);
    let desk = cx.desk().doing(move |seen| match seen.number() {
        1 => Act::End(Outcome::Reject("no such customer".to_owned())),
        2 => Act::Fail(HandlerError::retry_after(wait, "the bank is closed")),
        _ => Act::Hold,
    });
    let queue = cx
        .queue("billing_order", &desk)
        .retry(RetryPolicy::fixed(wait));
    let running = cx.start(cx.bus(), queue).await?;
    for id in 1..=3 {
        order(id).publish(cx.bus()).await?;
    }
    desk.sees(3).await?;
    cx.until("a retry and a dead letter", || async {
        let counters = cx.bus().counters();
        Ok((counters.retried, counters.dead_lettered) == (1, 1))
    })
    .await?;
    running.stop_now();
    running.shutdown().await?;
    cx.bus().topology().delete_queue("billing_order").await?;

    let letters = cx.bus().dead_letters("billing_order").await;
    ensure!(letters.is_err(), "a deleted queue still has dead letters");
    let spec = cx.spec("billing_order", &["order.*.note"])?;
    cx.declare(&[&spec]).await?;
    // Neither is the old binding there.
    order(4).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    consumer.gets_nothing_for(wait + cx.quiet()).await?;
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(10).await?.len(), 0, "dead letters");
    Ok(())
}

async fn deleting_a_queue_leaves_others_alone(cx: Context) -> CaseResult {
    let billing = cx.spec("billing_order", &["order.*.submit"])?;
    let archive = cx.spec("billing_order_archive", &["order.*.submit"])?;
    cx.declare(&[&billing, &archive]).await?;
    order(1).publish(cx.bus()).await?;
    cx.bus().topology().delete_queue("billing_order").await?;
    order(2).publish(cx.bus()).await?;
    let mut consumer = cx.consume(cx.bus(), &archive).await?;
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries");
    Ok(())
}

async fn deleting_what_is_not_there_succeeds(cx: Context) -> CaseResult {
    let topology = cx.bus().topology();
    topology.delete_queue("billing_order").await?;
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    for _ in 0..2 {
        topology.delete_queue("billing_order").await?;
    }
    Ok(())
}

async fn a_queue_deleted_under_its_service_is_noticed(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let mut running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    order(1).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    cx.bus().topology().delete_queue("billing_order").await?;
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    let handled_again = async {
        loop {
            cx.declare(&[&spec]).await?;
            order(2).publish(cx.bus()).await?;
            if desk.sees_no_more_than(1).await.is_err() {
                return CaseResult::Ok(());
            }
        }
    };
    cx.within("the service to notice", async {
        tokio::select! {
            handled = handled_again => handled,
            ended = running.join() => match ended {
                Err(_) => Ok(()),
                Ok(()) => Err(Failure::new("the service ended without an error")),
            },
        }
    })
    .await?
}

async fn a_full_queue_refuses(cx: Context) -> CaseResult {
    let mut spec = cx.spec("billing_order", &["order.*.submit"])?;
    spec.max_length = Some(3);
    cx.declare(&[&spec]).await?;
    let mut taken = 0;
    // A broker may take a few more than it was told to.
    let refused = loop {
        match order(taken).publish(cx.bus()).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        ensure!(taken < 100, "a queue with a limit of 3 took 100 messages");
    };
    ensure!(taken >= 3, "it refused after {taken} of 3");
    ensure_eq!(refused.kind(), ErrorKind::Overloaded, "kind of: {refused}");
    let mut consumer = cx.consume(cx.bus(), &spec).await?;
    let rest = consumer.take(usize::try_from(taken)?).await?;
    for delivery in &rest {
        consumer.ack(delivery).await?;
    }
    consumer.gets_nothing().await?;
    order(7).publish(cx.bus()).await?;
    consumer.next().await?;
    Ok(())
}

async fn an_existing_queue_is_used_as_it_is(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(1).publish(cx.bus()).await?;
    let desk = cx.desk();
    let queue = Queue::existing("billing_order")
        .retry(cx.policy())
        .handle(desk.takes::<OrderSubmitted>())
        .named("bill");
    let _running = cx.start(&cx.process().await?, queue).await?;
    order(2).publish(cx.bus()).await?;
    desk.finishes(2).await?;
    desk.sees_no_more_than(2).await?;
    Ok(())
}

async fn consuming_what_is_not_there_is_not_found(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let queue = Queue::existing("billing_order")
        .retry(cx.policy())
        .handle(desk.takes::<OrderSubmitted>())
        .named("bill");
    let started = Service::new("billing").queue(queue).start(cx.bus()).await;
    let kind = started.err().as_ref().map(Error::kind);
    ensure_eq!(kind, Some(ErrorKind::NotFound), "how the start ended");
    Ok(())
}
