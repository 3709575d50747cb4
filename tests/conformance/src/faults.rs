//! Faults that are the same on every broker: a backend tries each on its own, by its number in the list.

use std::{cell::Cell, time::Duration};

use event_core::{
    Bus, ConnectionState, Delivery, Error, ErrorKind, Queue, Reason, RetryPolicy, Running,
    Settlement,
};
use tokio::{
    runtime,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    context::{Context, topology},
    desk::{Act, Desk, Seen},
    ensure, ensure_eq,
    failure::{CaseResult, Failure},
    ledger::Ledger,
    orders::{OrderNoted, order, raw},
    stage::{Stage, done, length, publish},
};

/// A copy that a backend makes of a delivery before that is done.
#[derive(Clone, Copy, Debug)]
pub enum Copy {
    /// To be tried again.
    Retry,
    /// A dead letter.
    DeadLetter,
}

impl Copy {
    /// The settlement that makes it; a retry waits so long.
    #[must_use]
    pub fn of(self, delivery: &Delivery, delay: Duration) -> Settlement {
        let (tag, message) = (delivery.tag(), Box::new(delivery.message().clone()));
        match self {
            Self::Retry => Settlement::Retry {
                tag,
                message,
                delay,
            },
            Self::DeadLetter => Settlement::DeadLetter { tag, message },
        }
    }
}

/// How much later something may be than it should, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Fault 1: a broker is killed and comes back while all publish and consume, so many times; each publish ends by its deadline.
/// Twenty orders are published with each beat, and a hundred at most are held. The kill is told what was published so far
/// and who handles it. What is left of them is being handled: answers both, and the service, which ends when it is dropped.
///
/// # Errors
/// The backend does otherwise, or the broker does not come back.
pub async fn the_broker_is_killed(
    at: &Stage,
    kills: u32,
    beat: Duration,
    deadline: Duration,
    kill: impl AsyncFn(&Ledger, &Desk) -> CaseResult,
) -> CaseResult<(Ledger, Desk, Running)> {
    const BATCH: u64 = 20;
    let cx = &at.direct;
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).prefetch(100);
    let running = cx.start(&cx.process().await?, queue).await?;
    let bus = cx.process().await?.with_publish_deadline(deadline);
    let ledger = Ledger::new();
    for round in 0..kills {
        let over = Cell::new(false);
        let publishing = async {
            let mut tick = interval(beat);
            let mut id = u64::from(round) * 1_000_000;
            while !over.get() {
                tick.tick().await;
                let orders: Vec<_> = (0..BATCH).map(|n| order(id + n)).collect();
                id += BATCH;
                let begin = Instant::now();
                ledger.publish_all(&bus, &orders).await;
                let took = begin.elapsed();
                ensure!(took < deadline + SLACK, "a publish took {took:?}");
            }
            Ok(())
        };
        let killing = async {
            confirms_more(at, &ledger).await?;
            kill(&ledger, &desk).await?;
            confirms_more(at, &ledger).await?;
            over.set(true);
            Ok::<_, Failure>(())
        };
        tokio::try_join!(publishing, killing)?;
    }
    Ok((ledger, desk, running))
}

/// Waits until 200 publishes more are confirmed.
///
/// # Errors
/// They are not.
pub async fn confirms_more(at: &Stage, ledger: &Ledger) -> CaseResult {
    let before = ledger.balance(&[]).confirmed;
    let more = || {
        let more = ledger.balance(&[]).confirmed >= before + 200;
        async move { Ok(more) }
    };
    at.direct.until("some publishes", more).await
}

/// Fault 3: a connection is cut when the broker has a message and its confirmation is lost, and before it has it. How many
/// it has is for the backend to say. Answers what was published.
///
/// # Errors
/// The backend does otherwise.
pub async fn a_publish_is_cut<F>(
    at: &Stage,
    stored: impl Fn() -> F + Send + Sync,
) -> CaseResult<Ledger>
where
    F: Future<Output = CaseResult<u64>> + Send,
{
    let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
    at.direct.declare(&[&spec]).await?;
    // So that the connection that publishes is there.
    publish(at.cx.bus(), 1..=1).await?;

    at.proxy.silence_replies(true);
    let ledger = Ledger::new();
    let publishing = ledger.publish(at.cx.bus(), order(2));
    let cutting = async {
        let both = || {
            let stored = stored();
            async move { Ok(stored.await? == 2) }
        };
        at.cx.until("the order to be stored", both).await?;
        at.proxy.cut();
        at.proxy.silence_replies(false);
        Ok::<_, Failure>(())
    };
    let (result, cut) = tokio::join!(publishing, cutting);
    cut?;
    may_fail(result)?;

    at.is_up(at.cx.bus()).await?;
    at.proxy.silence(true);
    let publishing = ledger.publish(at.cx.bus(), order(3));
    let cutting = async {
        // Long enough for it to be written, which nothing here can see.
        sleep(Duration::from_millis(200)).await;
        at.proxy.cut();
        at.proxy.silence(false);
    };
    let (result, ()) = tokio::join!(publishing, cutting);
    may_fail(result)?;

    let desk = at.direct.desk();
    let queue = at.direct.queue("billing_order", &desk);
    let _running = at.direct.start(at.direct.bus(), queue).await?;
    let all = |seen: &[_]| ledger.balance(seen).lost == 0;
    desk.until("what was confirmed", all).await?;
    Ok(ledger)
}

/// A publish whose line was cut may end with an error that says so.
///
/// # Errors
/// It is another one.
pub fn may_fail<T>(result: event_core::Result<T>) -> CaseResult {
    let Err(error) = result else { return Ok(()) };
    let expected = matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout);
    ensure!(expected, "a {:?}: {error}", error.kind());
    ensure!(error.is_retryable(), "it may be tried again: {error}");
    Ok(())
}

/// Fault 4: a line that is silent is noticed within twice the heartbeat, by who publishes and by who consumes.
///
/// # Errors
/// The backend does otherwise.
pub async fn a_silent_line_is_noticed(at: &Stage, heartbeat: Duration) -> CaseResult {
    let desk = at.cx.desk();
    let consuming = at.cx.process().await?;
    let queue = at.cx.queue("billing_order", &desk);
    let _running = at.cx.start(&consuming, queue).await?;
    publish(at.cx.bus(), 1..=1).await?;
    desk.finishes(1).await?;

    at.proxy.silence(true);
    let begin = Instant::now();
    for (of, bus) in [("publishes", at.cx.bus()), ("consumes", &consuming)] {
        let mut state = bus.state();
        let lost = state.wait_for(|state| *state == ConnectionState::Reconnecting);
        let lost = timeout(heartbeat * 2 + SLACK, lost).await;
        ensure!(lost.is_ok(), "the process that {of} has not noticed it");
    }
    let noticed = begin.elapsed();
    ensure!(
        noticed < heartbeat * 2 + SLACK,
        "it was noticed after {noticed:?}"
    );

    publish(at.direct.bus(), 2..=2).await?;
    at.proxy.silence(false);
    desk.until("the order of the time of silence", |seen| {
        done(seen).len() == 2
    })
    .await?;
    at.is_up(at.cx.bus()).await?;
    publish(at.cx.bus(), 3..=3).await?;
    desk.until("an order of later", |seen| done(seen).len() == 3)
        .await
        .map(drop)
}

/// Fault 6: only the message fails that no queue is bound for.
///
/// # Errors
/// The backend does otherwise.
pub async fn an_unroutable_message_fails_alone(at: &Stage) -> CaseResult {
    let mut consumer = at.cx.consumer("billing_order").await?;
    let keys = ["order.v1.submit", "order.v1.nobody", "order.v2.submit"];
    let events: Vec<_> = keys
        .iter()
        .map(|key| raw("order", key, "{}"))
        .collect::<event_core::Result<_>>()?;
    let results = at.cx.bus().publish_all(&events).mandatory().await;
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|error| error.kind()))
        .collect();
    ensure_eq!(kinds, [None, Some(ErrorKind::Unroutable), None], "errors");
    if let Err(error) = &results[1] {
        let text = error.to_string();
        ensure!(text.contains("order.v1.nobody"), "no key is named: {text}");
    }
    ensure_eq!(consumer.rest().await?.len(), 2, "deliveries");
    Ok(())
}

/// Fault 20: what was confirmed is handled, although the process ends while it publishes, so many times.
///
/// # Errors
/// The backend does otherwise.
pub async fn a_process_ends_while_it_publishes(at: &Stage, rounds: u64) -> CaseResult {
    let desk = at.direct.desk();
    let queue = at.direct.queue("billing_order", &desk);
    let _running = at.direct.start(at.direct.bus(), queue).await?;
    let ledger = Ledger::new();
    for round in 0..rounds {
        // With all its tasks, wherever they are.
        let process = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (cx, book) = (at.direct.clone(), ledger.clone());
        process.spawn(async move {
            let bus = cx.process().await?;
            for id in 0.. {
                book.publish(&bus, order(round * 1_000_000 + id)).await?;
            }
            Ok::<_, Failure>(())
        });
        let before = ledger.balance(&[]).confirmed;
        let book = ledger.clone();
        let some = move || {
            let more = book.balance(&[]).confirmed >= before + 50;
            async move { Ok(more) }
        };
        at.direct.until("some publishes", some).await?;
        process.shutdown_background();
    }
    let all = |seen: &[_]| ledger.balance(seen).lost == 0;
    desk.until("all that was confirmed", all).await.map(drop)
}

/// Fault 21: a message that fails has exactly its attempts.
///
/// # Errors
/// The backend does otherwise.
pub async fn a_failing_message_has_its_attempts(at: &Stage) -> CaseResult {
    let desk = at.cx.desk().doing(|seen| match seen.number() {
        3 => Act::fail("the bank is closed"),
        _ => Act::DONE,
    });
    let policy = RetryPolicy::fixed(Duration::from_millis(100)).attempts(3);
    let queue = at.cx.queue("billing_order", &desk).retry(policy);
    let _running = at.cx.start(at.cx.bus(), queue).await?;
    publish(at.direct.bus(), 1..=10).await?;
    let letters = at.direct.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(letters[0].reason(), Some(Reason::Exhausted), "reason");
    ensure_eq!(letters[0].attempts(), 3, "attempts");
    // Nine others, and three attempts.
    desk.finishes(12).await?;
    let seen = desk.sees_no_more_than(12).await?;
    ensure_eq!(done(&seen), (1..=10).collect::<Vec<_>>(), "orders");
    Ok(())
}

/// Fault 21: a message that ends processes has its attempts alone, and becomes a dead letter.
///
/// # Errors
/// The backend does otherwise.
pub async fn a_killing_message_has_its_attempts(at: &Stage, lease: Option<Duration>) -> CaseResult {
    let desk = at.direct.desk().holding();
    let queue = || with_lease(at.direct.queue("billing_order", &desk), 3, lease);
    at.direct
        .declare(&[&at.direct.spec("billing_order", &["order.*.submit"])?])
        .await?;
    publish(at.direct.bus(), 7..=7).await?;
    let crashes = until_dead(at, &desk, 7, queue).await?;
    // Those that made it a suspect, and three alone.
    ensure!((4..=6).contains(&crashes), "it ended {crashes} processes");
    let letters = at.direct.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(letters[0].reason(), Some(Reason::Crashed), "reason");
    at.direct.nothing_is_left("billing_order").await
}

/// Fault 29: ten deliveries are in flight, and one of them ends its process each time; its neighbours are handled. So
/// many processes end with all ten in flight, after which they are suspects, and those that follow with the killer.
///
/// # Errors
/// The backend does otherwise.
pub async fn a_killer_among_ten(
    at: &Stage,
    crashes_with_all: usize,
    lease: Option<Duration>,
) -> CaseResult {
    let desk = at.direct.desk().doing(move |seen| match seen.number() {
        4 => Act::Hold,
        _ if seen.nth < 10 * crashes_with_all => Act::Hold,
        _ => Act::DONE,
    });
    let queue = || with_lease(at.direct.queue("billing_order", &desk), 5, lease).prefetch(10);
    at.direct
        .declare(&[&at.direct.spec("billing_order", &["order.*.submit"])?])
        .await?;
    publish(at.direct.bus(), 1..=3).await?;
    let killer = order(4).publish(at.direct.bus()).await?.id;
    publish(at.direct.bus(), 5..=10).await?;
    for crashes in 1..=crashes_with_all {
        let process = at.direct.process().await?;
        let running = at.direct.start(&process, queue()).await?;
        desk.sees(crashes * 10).await?;
        drop((running, process));
    }
    until_dead(at, &desk, 4, queue).await?;
    let _running = at.direct.start(at.direct.bus(), queue()).await?;
    let neighbours: Vec<_> = (1..=10).filter(|id| *id != 4).collect();
    desk.until("the neighbours", move |seen| done(seen) == neighbours)
        .await?;
    let letters = at.direct.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    ensure_eq!(letters[0].message().id(), &killer, "the dead letter");
    Ok(())
}

fn with_lease(queue: Queue, attempts: u32, lease: Option<Duration>) -> Queue {
    let queue = queue.retry(RetryPolicy::default().attempts(attempts));
    match lease {
        Some(lease) => queue.lease(lease),
        None => queue,
    }
}

/// Lets processes end, each as soon as it runs the killer, until it is a dead letter. Answers how many ended.
///
/// # Errors
/// 20 ended, and it is none.
async fn until_dead(
    at: &Stage,
    desk: &Desk,
    killer: u64,
    queue: impl Fn() -> Queue,
) -> CaseResult<usize> {
    for crashes in 0..20 {
        let runs = |seen: &[Seen]| seen.iter().filter(|seen| seen.number() == killer).count();
        let before = runs(&desk.seen());
        let process = at.direct.process().await?;
        let running = at.direct.start(&process, queue()).await?;
        let kills = desk.until("the killer", move |seen| runs(seen) > before);
        let dead = at.direct.dead_letters("billing_order", 1);
        tokio::select! {
            kills = kills => drop(kills?),
            dead = dead => {
                dead?;
                running.shutdown().await?;
                return Ok(crashes);
            }
        }
        drop((running, process));
    }
    Err(Failure::new(
        "20 processes ended and there is no dead letter",
    ))
}

/// Fault 24: services stop under load, and nothing is lost, run twice or counted as an attempt. Answers how long it took,
/// and what was seen.
///
/// # Errors
/// The backend does otherwise.
pub async fn services_stop_under_load(at: &Stage) -> CaseResult<(Duration, Vec<Seen>)> {
    const ORDERS: u64 = 600;
    let desk = at.cx.desk().doing(|_| Act::Take(Duration::from_millis(5)));
    let queue = || at.cx.queue("billing_order", &desk).concurrency(10);
    let (one, other) = (at.cx.process().await?, at.cx.process().await?);
    let first = at.cx.start(&one, queue()).await?;
    let publishing = publish(at.cx.bus(), 1..=ORDERS);
    let stopping = async {
        desk.finishes(50).await?;
        first.shutdown().await?;
        let second = at.cx.start(&other, queue()).await?;
        let handled = desk.seen().len();
        desk.finishes(handled + 50).await?;
        second.shutdown().await?;
        let third = at.cx.start(&one, queue()).await?;
        desk.until("all of them", |seen| done(seen).len() == 600)
            .await?;
        Ok::<_, Failure>(third)
    };
    let begin = Instant::now();
    let (ledger, third) = tokio::try_join!(publishing, stopping)?;
    let took = begin.elapsed();
    let seen = desk.seen();
    let balance = ledger.balance(&seen);
    ensure_eq!((balance.lost, balance.duplicated), (0, 0), "{balance}");
    let unused = seen.iter().all(|seen| seen.meta.attempt == 1);
    ensure!(unused, "an attempt was used up");
    third.shutdown().await?;
    at.direct.nothing_is_left("billing_order").await?;
    Ok((took, seen))
}

/// Fault 28: an older version of a service restarts beside a newer one.
///
/// # Errors
/// The backend does otherwise.
pub async fn an_older_version_beside_a_newer_one(at: &Stage) -> CaseResult {
    let policy = || RetryPolicy::fixed(Duration::from_millis(100)).attempts(2);
    let older = |desk: &Desk| -> Queue { at.cx.queue("billing_order", desk).retry(policy()) };
    let newer = |desk: &Desk, notes: &Desk| -> Queue {
        older(desk)
            .bind("order", "order.*.note")
            .handle(notes.takes::<OrderNoted>())
            .named("note")
    };
    let (desk, notes) = (at.cx.desk(), at.cx.desk());
    let (old, new) = (at.cx.process().await?, at.cx.process().await?);
    let mut old_running = at.cx.start(&old, older(&desk)).await?;
    let new_running = at.cx.start(&new, newer(&desk, &notes)).await?;
    let (orders, noted) = (Ledger::new(), Ledger::new());
    for id in 1..=60 {
        orders.publish(at.cx.bus(), order(id)).await?;
        noted.publish(at.cx.bus(), OrderNoted { id }).await?;
        if id % 20 == 0 {
            old_running.shutdown().await?;
            old_running = at.cx.start(&old, older(&desk)).await?;
        }
    }
    // With each note that it gets, the older one makes it wait longer for a newer one.
    old_running.shutdown().await?;
    let all = |seen: &[_]| noted.balance(seen).lost == 0;
    let seen = notes.until("all notes", all).await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "an attempt was used up"
    );
    let all = |seen: &[_]| orders.balance(seen).lost == 0;
    desk.until("all orders", all).await?;
    ensure_eq!(
        noted.balance(&notes.seen()).duplicated,
        0,
        "notes that ran twice"
    );
    let dead = at
        .direct
        .bus()
        .dead_letters("billing_order")
        .await?
        .list(10)
        .await?;
    ensure!(dead.is_empty(), "{} dead letters", dead.len());
    new_running.shutdown().await?;
    Ok(())
}

/// Fault 31: two processes declare a queue at once while a third publishes, and nothing is missed that was published
/// after either had declared it. Some brokers refuse what comes while a queue is made: errors that pass.
///
/// # Errors
/// The backend does otherwise.
pub async fn two_processes_declare_one_queue(
    at: &Stage,
    passes: impl Fn(&Error) -> bool,
) -> CaseResult {
    let (one, other) = (at.direct.process().await?, at.direct.process().await?);
    let third = at.direct.process().await?;
    for round in 0..length(5) {
        let name = format!("billing_{round}");
        let spec = at.direct.spec(&name, &["order.*.submit"])?;
        let topology = topology(&[&spec]);
        let declared = Cell::new(false);
        let over = Cell::new(0);
        let declaring = async |bus: &Bus| {
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
                    Err(error) if passes(&error) => {}
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
}

/// What a connection is for: publishes an order and consumes it.
///
/// # Errors
/// It does not work.
pub async fn carries_an_order(cx: &Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    let published = order(7).publish(cx.bus()).await?;
    let delivery = consumer.next().await?;
    ensure_eq!(delivery.message().id(), &published.id, "the order");
    consumer.ack(&delivery).await?;
    cx.clean_up().await
}
