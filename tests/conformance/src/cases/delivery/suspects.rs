//! What may have killed its process runs alone, and pays for nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use event_core::{
    Delivery, DeliveryTag, Error, ErrorKind, MessageId, Queue, QueueSpec, Reason, Result,
    RetryPolicy, Service, Settle, Settled, Settlement,
};

use super::{done, publish};
use crate::{
    Act, CaseResult, Consumer, Context, Desk, Failure, Intercept, Intercepted, Seen, case::cases,
    ensure, ensure_eq, orders::order,
};

cases!(AtLeastOnce:
    suspects_run_alone [Isolation, DelayedRetry],
    suspects_run_under_load [Isolation, DelayedRetry],
    a_suspect_is_settled_before_the_next_runs [Isolation, DelayedRetry],
    a_suspect_runs_only_when_that_was_recorded [Isolation, DelayedRetry],
    isolation_counts_only_runs_alone [Isolation],
    a_message_that_kills_its_process_becomes_a_dead_letter [Isolation, DeadLetters, DelayedRetry],
    failures_and_crashes_alone_count_together [Isolation, DeadLetters, DelayedRetry],
    neighbours_of_a_killer_are_handled [Isolation, DeadLetters, DelayedRetry],
);

/// How often a process has to end before every backend suspects what it held: brokers that count releases and
/// crashes alike begin at the third.
pub(in crate::cases) const CRASHES: usize = 3;

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

/// Takes its time to settle.
#[derive(Debug)]
struct SlowToSettle(Duration);

#[async_trait]
impl Intercept for SlowToSettle {
    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        tokio::time::sleep(self.0).await;
        inner.settle(settlements).await
    }
}

async fn a_suspect_is_settled_before_the_next_runs(cx: Context) -> CaseResult {
    for crash in 0..CRASHES {
        let held = cx.desk().holding();
        let running = cx
            .start(&cx.process().await?, cx.queue("billing_order", &held))
            .await?;
        if crash == 0 {
            publish(&cx, 1..=3).await?;
            held.sees(3).await?;
        }
        held.sees(1).await?;
        drop(running);
    }
    let takes = Duration::from_millis(300);
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, SlowToSettle(takes)))
        .await?;
    let desk = cx.desk();
    let running = cx.start(&bus, cx.queue("billing_order", &desk)).await?;
    let seen = desk.finishes(3).await?;
    for pair in seen.windows(2) {
        // If it crashed now, the one before it would be blamed as well.
        let after = pair[1].at - pair[0].ended.unwrap_or(pair[0].at);
        ensure!(after >= takes, "the next one ran {after:?} later");
    }
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}

/// Does not record the first two runs alone.
#[derive(Debug)]
pub(in crate::cases) struct Unrecorded(pub(in crate::cases) Arc<AtomicUsize>);

#[async_trait]
impl Intercept for Unrecorded {
    async fn isolate(&self, inner: &dyn Settle, tag: DeliveryTag) -> Result<u32> {
        match self.0.fetch_add(1, SeqCst) {
            0 | 1 => Err(Error::retryable(
                ErrorKind::Connection,
                "it was not recorded",
            )),
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
async fn publish_first(cx: &Context, id: u64) -> CaseResult<MessageId> {
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
