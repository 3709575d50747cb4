//! 4. At least once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Arrival, Delivery, DeliveryTag, Error, ErrorKind, Queue, QueueSpec, Reason, Result, RetryPolicy, Service,
    Settle, Settled, Settlement, Subscription,
};

use crate::{
    Act, CaseResult, Consumer, Context, Desk, Failure, Intercept, Intercepted, Seen, case::cases,
    ensure, ensure_eq, orders::{OrderSubmitted, order},
};

cases!(AtLeastOnce:
    an_acknowledged_delivery_is_gone,
    a_delivery_is_not_acknowledged_before_its_handler_is_done,
    a_delivery_is_not_acknowledged_before_its_last_handler_is_done,
    a_crash_loses_nothing,
    two_crashes_lose_nothing,
    what_a_crashed_consumer_held_comes_back_after_the_lease,
    leases_are_renewed_while_the_subscription_lives,
    a_handler_that_holds_its_thread_keeps_its_lease,
    a_lost_connection_redelivers,
    a_settlement_that_was_lost_is_made_up_for,
    the_first_attempt_is_number_one,
    attempts_are_visible [DelayedRetry],
    a_crash_uses_no_attempt_of_its_neighbours [DelayedRetry],
    suspects_run_alone [Isolation],
    suspects_run_under_load [Isolation],
    a_suspect_runs_only_when_that_was_recorded [Isolation],
    isolation_counts_only_runs_alone [Isolation],
    a_message_that_kills_its_process_becomes_a_dead_letter [Isolation, DeadLetters],
    failures_and_crashes_alone_count_together [Isolation, DeadLetters, DelayedRetry],
    neighbours_of_a_killer_are_handled [Isolation, DeadLetters],
    a_stale_tag_settles_nothing [DelayedRetry, DeadLetters],
    settling_twice_settles_once [DelayedRetry, DeadLetters],
    settlements_are_answered_in_order [DelayedRetry, DeadLetters],
    a_batch_is_never_larger_than_asked_for,
);

/// How often a process has to end before every backend suspects what it held: brokers that count releases and
/// crashes alike begin at the third.
const CRASHES: usize = 3;

async fn an_acknowledged_delivery_is_gone(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    order(7).publish(cx.bus()).await?;
    let delivery = consumer.next().await?;
    ensure_eq!(consumer.ack(&delivery).await?, Settled::Done, "settled");
    consumer.gets_nothing_for(cx.beyond_the_lease()).await?;
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await
}

async fn a_delivery_is_not_acknowledged_before_its_handler_is_done(cx: Context) -> CaseResult {
    let holding = cx.desk().holding();
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &holding))
        .await?;
    order(7).publish(cx.bus()).await?;
    let first = holding.sees(1).await?;
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.sees_no_more_than(0).await?;
    drop(running);
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.id, first[0].meta.id, "id");
    desk.sees_no_more_than(1).await?;
    Ok(())
}

async fn a_delivery_is_not_acknowledged_before_its_last_handler_is_done(cx: Context) -> CaseResult {
    let (first, last) = (cx.desk(), cx.desk().holding());
    let queue = |last: &Desk| {
        cx.queue("billing_order", &first)
            .handle(last.takes::<OrderSubmitted>())
            .named("pack")
    };
    let running = cx.start(&cx.process().await?, queue(&last)).await?;
    order(7).publish(cx.bus()).await?;
    last.sees(1).await?;
    drop(running);
    let last = cx.desk();
    let _running = cx.start(&cx.process().await?, queue(&last)).await?;
    last.finishes(1).await?;
    ensure_eq!(first.seen().len(), 2, "runs of the first handler");
    Ok(())
}

async fn a_crash_loses_nothing(cx: Context) -> CaseResult {
    let held = cx.desk().holding();
    let queue = cx.queue("billing_order", &held).concurrency(4).prefetch(20);
    let running = cx.start(&cx.process().await?, queue).await?;
    publish(&cx, 1..=50).await?;
    held.sees(4).await?;
    drop(running);
    let desk = cx.desk();
    let _running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    desk.finishes(50).await?;
    desk.sees_no_more_than(50).await?;
    ensure_eq!(done(&desk.seen()), (1..=50).collect(), "handled");
    Ok(())
}

async fn two_crashes_lose_nothing(cx: Context) -> CaseResult {
    // Both hold every third order, and end with others done, held and waiting.
    let desk = cx.desk().doing(|seen| match seen.number() % 3 {
        0 => Act::Hold,
        _ => Act::DONE,
    });
    let queue = || cx.queue("billing_order", &desk).concurrency(3).prefetch(8);
    let one = cx.start(&cx.process().await?, queue()).await?;
    let two = cx.start(&cx.process().await?, queue()).await?;
    publish(&cx, 1..=30).await?;
    desk.until("an order to be held", |seen| {
        seen.iter().any(|seen| seen.number() % 3 == 0)
    })
    .await?;
    drop(one);
    publish(&cx, 31..=40).await?;
    // What the first held comes to the second, and is held there too.
    desk.until("two orders to be held", |seen| {
        let held = seen.iter().filter(|seen| seen.number() % 3 == 0);
        held.count() >= 2
    })
    .await?;
    drop(two);
    let last = cx.desk();
    let _last = cx
        .start(&cx.process().await?, cx.queue("billing_order", &last))
        .await?;
    let before = done(&desk.seen());
    last.until("every order to be handled", move |seen| {
        before.union(&done(seen)).count() == 40
    })
    .await?;
    last.sees_no_more_than(40).await?;
    Ok(())
}

async fn what_a_crashed_consumer_held_comes_back_after_the_lease(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    let mut holder = cx.consume(&cx.process().await?, &spec).await?;
    publish(&cx, 1..=3).await?;
    let held = holder.take(3).await?;
    let mut other = cx.consume(&cx.process().await?, &spec).await?;
    other.gets_nothing_for(cx.lease() * 2).await?;
    holder.crash().await;
    let again = other.take(3).await?;
    let ids = |deliveries: &[Delivery]| -> BTreeSet<String> {
        let ids = deliveries.iter().map(|delivery| delivery.message().id());
        ids.map(ToString::to_string).collect()
    };
    ensure_eq!(ids(&again), ids(&held), "what came back");
    other.gets_nothing().await
}

async fn leases_are_renewed_while_the_subscription_lives(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let queue = || cx.queue("billing_order", &desk).concurrency(2).prefetch(10);
    let _one = cx.start(&cx.process().await?, queue()).await?;
    let _two = cx.start(&cx.process().await?, queue()).await?;
    publish(&cx, 1..=10).await?;
    desk.sees(2).await?;
    // Two places in each process.
    desk.sees_no_more_than_for(4, cx.lease() * 5).await?;
    desk.open();
    desk.finishes(10).await?;
    desk.sees_no_more_than_for(10, cx.beyond_the_lease())
        .await?;
    ensure_eq!(done(&desk.seen()), (1..=10).collect(), "handled");
    Ok(())
}

async fn a_handler_that_holds_its_thread_keeps_its_lease(cx: Context) -> CaseResult {
    let lease = cx.lease();
    let runs = Arc::new(AtomicUsize::new(0));
    let queue = || {
        let runs = runs.clone();
        let bill = move |order: OrderSubmitted| {
            let runs = runs.clone();
            async move {
                if order.id == 1 {
                    hold_thread(lease * 2);
                }
                runs.fetch_add(1, SeqCst);
            }
        };
        Queue::new("billing_order")
            .bind("order", "order.*.submit")
            .lease(lease)
            .handle(bill)
            .named("bill")
    };
    let _one = cx.start(&cx.process().await?, queue()).await?;
    publish(&cx, 1..=5).await?;
    let _two = cx.start(&cx.process().await?, queue()).await?;
    cx.until("all to be handled", || async {
        Ok(runs.load(SeqCst) >= 5)
    })
    .await?;
    let mut other = cx.consumer("billing_order").await?;
    other.gets_nothing_for(cx.beyond_the_lease()).await?;
    ensure_eq!(runs.load(SeqCst), 5, "runs");
    Ok(())
}

/// Holds the thread for this long; on a paused clock, which stands still then, only for a moment.
fn hold_thread(time: Duration) {
    let (begun, seen) = (std::time::Instant::now(), tokio::time::Instant::now());
    let stands_still = || begun.elapsed() > Duration::from_millis(30) && seen.elapsed().is_zero();
    while seen.elapsed() < time && !stands_still() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn a_lost_connection_redelivers(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let running = cx
        .start(&cx.process().await?, cx.queue("billing_order", &desk))
        .await?;
    publish(&cx, 1..=5).await?;
    desk.sees(5).await?;
    cx.disconnect().await?;
    desk.open();
    // The connection is used again, by the same service.
    cx.until("a publish after the connection was lost", || async {
        Ok(order(6).publish(cx.bus()).await.is_ok())
    })
    .await?;
    desk.until("everything to be handled", |seen| done(seen).len() == 6)
        .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Does not pass on the first batch, and not back the answers to the second.
#[derive(Debug, Default)]
struct Forgetful(AtomicUsize);

#[async_trait]
impl Intercept for Forgetful {
    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        let count = settlements.len();
        match self.0.fetch_add(1, SeqCst) {
            0 => {}
            1 => drop(inner.settle(settlements).await),
            _ => return inner.settle(settlements).await,
        }
        let lost = || Error::retryable(ErrorKind::Connection, "the answer was lost");
        (0..count).map(|_| Err(lost())).collect()
    }
}

async fn a_settlement_that_was_lost_is_made_up_for(cx: Context) -> CaseResult {
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, Forgetful::default()))
        .await?;
    let desk = cx.desk();
    let running = cx.start(&bus, cx.queue("billing_order", &desk)).await?;
    publish(&cx, 1..=3).await?;
    desk.until("everything to be handled", |seen| done(seen).len() == 3)
        .await?;
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn the_first_attempt_is_number_one(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(1).await?;
    ensure_eq!(seen[0].meta.attempt, 1, "attempt");
    ensure_eq!(seen[0].meta.first_failure, None, "first failure");
    Ok(())
}

async fn attempts_are_visible(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(2);
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let receipt = order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(3).await?;
    for (seen, attempt) in seen.iter().zip(1..) {
        ensure_eq!(seen.meta.attempt, attempt, "attempt");
        ensure_eq!(seen.meta.id, receipt.id, "id");
    }
    let first = seen[1].meta.first_failure;
    ensure_eq!(seen[0].meta.first_failure, None, "first failure at first");
    ensure!(first.is_some(), "the second attempt has no first failure");
    ensure_eq!(seen[2].meta.first_failure, first, "first failure");
    Ok(())
}

async fn a_crash_uses_no_attempt_of_its_neighbours(cx: Context) -> CaseResult {
    // Everything fails once. Then the first that comes again is held, with the others behind it.
    let held = cx.desk().doing(|seen| match seen.meta.attempt {
        1 => Act::fail("the bank is closed"),
        _ => Act::Hold,
    });
    let policy = || RetryPolicy::fixed(Duration::from_millis(100)).attempts(2);
    let queue = cx.queue("billing_order", &held).retry(policy());
    let running = cx.start(&cx.process().await?, queue.concurrency(1)).await?;
    publish(&cx, 1..=5).await?;
    let seen = held.sees(6).await?;
    let killer = seen[5].number();
    drop(running);
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).retry(policy());
    let _running = cx.start(&cx.process().await?, queue).await?;
    let seen = desk.finishes(5).await?;
    for seen in seen.iter().filter(|seen| seen.number() != killer) {
        ensure_eq!(seen.meta.attempt, 2, "attempt of {}", seen.number());
    }
    desk.sees_no_more_than(5).await?;
    Ok(())
}

async fn suspects_run_alone(cx: Context) -> CaseResult {
    let service = |desk: &Desk| {
        let queue = |name| {
            cx.queue(name, desk)
                .retry(RetryPolicy::default().attempts(50))
        };
        Service::new("billing")
            .queue(queue("billing_order").workers(2))
            .queue(queue("logistic_order"))
    };
    for crash in 0..CRASHES {
        let held = cx.desk().holding();
        let running = service(&held).start(&cx.process().await?).await?;
        if crash == 0 {
            publish(&cx, 1..=4).await?;
            held.sees(8).await?;
        } else {
            held.sees(1).await?;
        }
        drop(running);
    }
    // These are suspected of nothing; they run when the suspects come back, and arrive while one runs.
    let lease = cx.lease();
    let desk = cx.desk().doing(move |seen| match seen.number() {
        5..=8 => Act::Take(lease * 2),
        _ => Act::Take(Duration::from_millis(200)),
    });
    publish(&cx, 5..=8).await?;
    let _running = service(&desk).start(&cx.process().await?).await?;
    desk.until("a suspect to run", |seen| {
        seen.iter().any(|seen| seen.number() <= 4)
    })
    .await?;
    publish(&cx, 9..=12).await?;
    let seen = desk.finishes(24).await?;
    let suspects = seen.iter().filter(|seen| seen.number() <= 4);
    for suspect in suspects {
        for other in seen.iter().filter(|other| other.nth != suspect.nth) {
            ensure!(
                !overlap(suspect, other),
                "{} ran beside the suspect {}",
                other.number(),
                suspect.number()
            );
        }
    }
    Ok(())
}

/// Whether two handlers ran at the same time.
fn overlap(one: &Seen, two: &Seen) -> bool {
    let (Some(one_ended), Some(two_ended)) = (one.ended, two.ended) else {
        return true;
    };
    one.at < two_ended && two.at < one_ended
}

async fn suspects_run_under_load(cx: Context) -> CaseResult {
    let policy = || RetryPolicy::default().attempts(50);
    let queue = |desk: &Desk| cx.queue("billing_order", desk).retry(policy());
    for crash in 0..CRASHES {
        let held = cx.desk().holding();
        let running = cx.start(&cx.process().await?, queue(&held)).await?;
        if crash == 0 {
            order(1).publish(cx.bus()).await?;
        }
        held.sees(1).await?;
        drop(running);
    }
    // There is always something in flight.
    let desk = cx.desk().doing(|_| Act::Take(Duration::from_millis(250)));
    let _running = cx.start(&cx.process().await?, queue(&desk)).await?;
    let load = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        for id in 2..=200 {
            order(id).publish(cx.bus()).await?;
            tick.tick().await;
        }
        Err(Failure::new(
            "200 others were published and the suspect did not run",
        ))
    };
    tokio::select! {
        seen = desk.until("the suspect to be handled", |seen| done(seen).contains(&1)) => seen.map(drop),
        failed = load => failed,
    }
}

/// Does not record the first runs alone.
#[derive(Debug)]
struct Unrecorded(Arc<AtomicUsize>);

#[async_trait]
impl Intercept for Unrecorded {
    async fn isolate(&self, inner: &dyn Settle, tag: DeliveryTag) -> Result<u32> {
        match self.0.fetch_add(1, SeqCst) {
            0 | 1 => Err(Error::retryable(ErrorKind::Connection, "it was not recorded")),
            _ => inner.isolate(tag).await,
        }
    }
}

async fn a_suspect_runs_only_when_that_was_recorded(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    publish_first(&cx, 7).await?;
    for crash in 1..=CRASHES {
        let running = cx
            .start(&cx.process().await?, cx.queue("billing_order", &desk))
            .await?;
        desk.sees(crash).await?;
        drop(running);
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, Unrecorded(asked.clone())))
        .await?;
    let heard = asked.clone();
    let desk = cx.desk().doing(move |_| match heard.load(SeqCst) {
        3 => Act::DONE,
        _ => Act::Hold,
    });
    let running = cx.start(&bus, cx.queue("billing_order", &desk)).await?;
    desk.finishes(1).await?;
    ensure_eq!(asked.load(SeqCst), 3, "how often it was to be recorded");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

async fn isolation_counts_only_runs_alone(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;

    for crashes in 0..2 {
        let (consumer, suspect) = suspect(&cx, &spec).await?;
        let counted = consumer.isolate(suspect.tag()).await?;
        ensure_eq!(counted, crashes, "runs alone that ended in a crash");
        consumer.crash().await;
    }
    // A crash while it was only buffered.
    let (consumer, _) = suspect(&cx, &spec).await?;
    consumer.crash().await;
    // A run alone that ended in good order.
    let (consumer, again) = suspect(&cx, &spec).await?;
    let counted = consumer.isolate(again.tag()).await?;
    ensure_eq!(counted, 2, "runs alone after another crash");
    consumer.release(&again).await?;
    consumer.crash().await;

    let (consumer, again) = suspect(&cx, &spec).await?;
    let counted = consumer.isolate(again.tag()).await?;
    ensure_eq!(counted, 2, "runs alone after a release");
    ensure_eq!(consumer.ack(&again).await?, Settled::Done, "settled");
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await
}

/// A delivery that is suspected, with the consumer that holds it: consumers crash until it is.
async fn suspect(cx: &Context, spec: &QueueSpec) -> CaseResult<(Consumer, Delivery)> {
    for _ in 0..=CRASHES {
        let mut consumer = cx.consume(&cx.process().await?, spec).await?;
        let delivery = consumer.next().await?;
        if delivery.is_suspect() {
            return Ok((consumer, delivery));
        }
        consumer.crash().await;
    }
    Err(Failure::new("what consumers died with is not suspected"))
}

async fn a_message_that_kills_its_process_becomes_a_dead_letter(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let receipt = publish_first(&cx, 7).await?;
    let queue = |desk: &Desk| {
        cx.queue("billing_order", desk)
            .retry(RetryPolicy::default().attempts(3))
    };
    let crashes = crash_until_dead(&cx, &desk, |seen| seen.number() == 7, queue).await?;
    // Those that made it a suspect, and three alone.
    ensure!(
        (4..=3 + CRASHES).contains(&crashes),
        "it ended {crashes} processes, and 3 attempts were allowed"
    );
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    let letter = &letters[0];
    ensure_eq!(letter.reason(), Some(Reason::Crashed), "reason");
    ensure_eq!(letter.attempts(), 3, "attempts");
    ensure_eq!(letter.message().id(), &receipt, "id");
    ensure_eq!(letter.consumer(), Some("billing"), "consumer");
    ensure!(letter.error().is_some(), "it says nothing of what happened");
    cx.nothing_is_left("billing_order").await
}

async fn failures_and_crashes_alone_count_together(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|seen| match seen.meta.attempt {
        2 => Act::Hold,
        _ => Act::fail("the bank is closed"),
    });
    publish_first(&cx, 7).await?;
    let queue = |desk: &Desk| {
        let policy = RetryPolicy::fixed(Duration::from_millis(100)).attempts(3);
        cx.queue("billing_order", desk).retry(policy)
    };
    let kills = |seen: &Seen| seen.meta.attempt == 2;
    crash_until_dead(&cx, &desk, kills, queue).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
    ensure_eq!(letters[0].attempts(), 3, "attempts");
    let last = desk.seen().pop().map(|seen| seen.meta.attempt);
    ensure_eq!(last, Some(3), "the last attempt");
    Ok(())
}

async fn neighbours_of_a_killer_are_handled(cx: Context) -> CaseResult {
    // The first process ends with all ten in flight, those after it with the killer.
    let desk = cx.desk().doing(|seen| match seen.number() {
        4 => Act::Hold,
        _ if seen.nth < 10 => Act::Hold,
        _ => Act::DONE,
    });
    let queue = |desk: &Desk| {
        cx.queue("billing_order", desk)
            .retry(RetryPolicy::default().attempts(2))
    };
    let running = cx.start(&cx.process().await?, queue(&desk)).await?;
    publish(&cx, 1..=10).await?;
    desk.sees(10).await?;
    drop(running);
    crash_until_dead(&cx, &desk, |seen| seen.number() == 4, queue).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(
        crate::desk::number(letters[0].message().payload()),
        4,
        "the dead letter"
    );
    let _running = cx.start(&cx.process().await?, queue(&desk)).await?;
    let seen = desk
        .until("the neighbours to be handled", |seen| done(seen).len() == 9)
        .await?;
    ensure!(
        seen.iter()
            .filter(|seen| seen.number() != 4)
            .all(|seen| seen.meta.attempt == 1),
        "a neighbour paid for it with an attempt"
    );
    Ok(())
}

/// Declares the queue and publishes an order, before any service runs.
async fn publish_first(cx: &Context, id: u64) -> CaseResult<event_core::MessageId> {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    Ok(order(id).publish(cx.bus()).await?.id)
}

/// Runs a service in one process after another, each of which ends when a handler begins that kills it, until
/// the queue has a dead letter. Answers how many processes ended.
async fn crash_until_dead(
    cx: &Context,
    desk: &Desk,
    kills: impl Fn(&Seen) -> bool + Copy + Send + Sync,
    queue: impl Fn(&Desk) -> Queue,
) -> CaseResult<usize> {
    let killed = move |seen: &[Seen]| seen.iter().filter(|seen| kills(seen)).count();
    let before = killed(&desk.seen());
    for crashes in 0..20 {
        let running = cx.start(&cx.process().await?, queue(desk)).await?;
        tokio::select! {
            seen = desk.until("a handler to kill its process", move |seen| killed(seen) > before + crashes) => {
                seen?;
                drop(running);
            }
            letters = cx.dead_letters("billing_order", 1) => {
                letters?;
                running.shutdown().await?;
                return Ok(crashes);
            }
        }
    }
    Err(Failure::new("it ended 20 processes and is no dead letter"))
}

async fn a_stale_tag_settles_nothing(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=4).await?;
    let stale = consumer.take(4).await?;
    cx.disconnect().await?;
    // The same four, with other tags.
    let held = consumer.take(4).await?;
    let settlements = vec![
        Settlement::Ack(stale[0].tag()),
        Settlement::Release(stale[1].tag()),
        retry(&stale[2], Duration::ZERO),
        dead_letter(&stale[3]),
    ];
    for (at, result) in consumer
        .settle_all(settlements)
        .await
        .into_iter()
        .enumerate()
    {
        ensure_eq!(result?, Settled::Lost, "answer to stale settlement {at}");
    }
    ensure!(
        consumer.isolate(stale[0].tag()).await.is_err(),
        "a run alone of a stale delivery was recorded"
    );
    consumer.gets_nothing().await?;
    for delivery in &held {
        ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
    }
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await?;
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    Ok(())
}

async fn settling_twice_settles_once(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=5).await?;
    let held = consumer.take(5).await?;
    let second = [
        Settlement::Ack(held[0].tag()),
        Settlement::Release(held[1].tag()),
        retry(&held[2], Duration::ZERO),
        dead_letter(&held[3]),
    ];
    for (delivery, second) in held.iter().zip(second) {
        ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "the first");
        ensure_eq!(consumer.settle(second).await?, Settled::Lost, "the second");
    }
    // In one batch too.
    let twice = vec![Settlement::Ack(held[4].tag()), dead_letter(&held[4])];
    let results: Result<Vec<_>> = consumer.settle_all(twice).await.into_iter().collect();
    ensure_eq!(results?, [Settled::Done, Settled::Lost], "in one batch");
    consumer.gets_nothing().await?;
    consumer.crash().await;
    cx.nothing_is_left("billing_order").await?;
    let letters = cx.bus().dead_letters("billing_order").await?;
    ensure_eq!(letters.list(1).await?.len(), 0, "dead letters");
    Ok(())
}

async fn settlements_are_answered_in_order(cx: Context) -> CaseResult {
    use Settled::{Done, Lost};
    let mut consumer = cx.consumer("billing_order").await?;
    publish(&cx, 1..=7).await?;
    let held = consumer.take(7).await?;
    let tag = |at: usize| held[at].tag();
    for gone in [1, 4, 6] {
        consumer.ack(&held[gone]).await?;
    }
    let batch = vec![
        Settlement::Ack(tag(0)),
        Settlement::Ack(tag(1)),
        retry(&held[2], Duration::from_secs(3_600)),
        dead_letter(&held[3]),
        retry(&held[4], Duration::from_secs(3_600)),
        Settlement::Ack(tag(5)),
        Settlement::Release(tag(6)),
    ];
    let results: Result<Vec<_>> = consumer.settle_all(batch).await.into_iter().collect();
    let expected = [Done, Lost, Done, Done, Lost, Done, Lost];
    ensure_eq!(results?, expected, "answers");
    let none = consumer.settle_all(Vec::new()).await;
    ensure_eq!(none.len(), 0, "answers to an empty batch");
    Ok(())
}

async fn a_batch_is_never_larger_than_asked_for(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    publish(&cx, 1..=20).await?;
    let Subscription {
        mut deliveries,
        settle,
        ..
    } = cx.process().await?.transport().consume(&spec).await?;
    let mut came = 0;
    for max in (1..=4).cycle() {
        let arrival = cx.within("a batch", deliveries.next(max)).await??;
        let Arrival::Batch(batch) = arrival else {
            return Err(Failure::new(format!("not a batch: {arrival:?}")));
        };
        ensure!(
            (1..=max).contains(&batch.len()),
            "{} deliveries, and {max} were asked for",
            batch.len()
        );
        ensure!(
            batch.is_sorted_by_key(Delivery::tag),
            "a batch is not in the order of its tags"
        );
        came += batch.len();
        let acks = batch.iter().map(|delivery| Settlement::Ack(delivery.tag()));
        settle.settle(acks.collect()).await;
        if came >= 20 {
            break;
        }
    }
    ensure_eq!(came, 20, "deliveries");
    Ok(())
}

fn retry(delivery: &Delivery, delay: Duration) -> Settlement {
    Settlement::Retry {
        tag: delivery.tag(),
        message: Box::new(delivery.message().clone()),
        delay,
    }
}

fn dead_letter(delivery: &Delivery) -> Settlement {
    Settlement::DeadLetter {
        tag: delivery.tag(),
        message: Box::new(delivery.message().clone()),
    }
}

async fn publish(cx: &Context, ids: impl IntoIterator<Item = u64>) -> CaseResult {
    for id in ids {
        order(id).publish(cx.bus()).await?;
    }
    Ok(())
}

/// The numbers of what handlers have ended with.
fn done(seen: &[Seen]) -> BTreeSet<u64> {
    let ended = seen.iter().filter(|seen| seen.ended.is_some());
    ended.map(Seen::number).collect()
}
