//! What groups refuse, and when: requests of members, in every place of their life.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

use event_conformance::{Act, CaseResult, Desk, Failure, ensure, ensure_eq, publish};
use event_core::Settled;
use futures_util::future::try_join_all;
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};
use tokio::try_join;

use super::{LEASE, Mock, numbers};

/// Tries something with each of these at once, since all of them mostly wait.
async fn with_each<T: Clone + Debug, F: Future<Output = CaseResult>>(
    all: impl IntoIterator<Item = T>,
    test: impl Fn(T) -> F,
) -> CaseResult {
    let tests = all.into_iter().map(|one| trying(one.clone(), test(one)));
    try_join_all(tests).await.map(drop)
}

/// Says in a failure which of several things failed.
async fn trying(what: impl Debug, test: impl Future<Output = CaseResult>) -> CaseResult {
    let result = test.await;
    result.map_err(|failure| Failure::new(format!("{what:?}: {failure}")))
}

// --- Commits that are refused -------------------------------------------------------------------------------------

/// What is done when its commit is refused is committed by the next, and by the last when the consumer ends.
async fn a_refused_commit(refusal: Answer) -> CaseResult {
    let at = Mock::start().await?;
    let mut member = at.member().await?;
    publish(at.cx.bus(), 1..=300).await?;
    let held = member.take(300).await?;
    at.answer(Request::OffsetCommit, &[refusal; 6]);
    member.acks(&held, Settled::Done).await?;
    at.commits(300).await?;

    publish(at.cx.bus(), 301..=400).await?;
    let held = member.take(100).await?;
    at.answer(Request::OffsetCommit, &[refusal; 6]);
    member.acks(&held, Settled::Done).await?;
    member.leaves().await?;
    at.nothing_is_left_of(400).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_refused_is_made_again() -> CaseResult {
    let refusals = [
        Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ];
    with_each(refusals, a_refused_commit).await
}

// --- An assignment that is lost -----------------------------------------------------------------------------------

/// What is held then is lost and comes again, with what was done and not committed; what was committed does not.
async fn a_lost_assignment((request, refusal): (Request, Answer)) -> CaseResult {
    let at = Mock::start().await?;
    let mut member = at.member().await?;
    publish(at.cx.bus(), 1..=300).await?;
    let mut held = member.take(300).await?;
    // The first of each partition, so that as much is committed.
    held.sort_by_key(|held| held.tag().number);
    let mut again = held.split_off(100);
    member.acks(&held, Settled::Done).await?;
    at.commits(100).await?;

    let mut lost = again.clone();
    let begin = Instant::now();
    at.answer(request, &[refusal]);
    if matches!(request, Request::JoinGroup | Request::SyncGroup) {
        // This has it join again, with what it has.
        let rebalances = Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
        at.answer(Request::Heartbeat, &[rebalances]);
    }
    if request == Request::OffsetCommit {
        // This makes the commit that is refused.
        lost = again.split_off(50);
        member.acks(&again, Settled::Done).await?;
        again.extend(lost.iter().cloned());
    }
    member.loses(&lost).await?;
    let took = begin.elapsed();
    ensure!(took < 2 * LEASE, "it is not taken away at once: {took:?}");
    let begin = Instant::now();
    member.acks(&lost, Settled::Lost).await?;
    let second = member.take(again.len()).await?;
    let took = begin.elapsed();
    // The mock still waits for the member that it refused, once.
    ensure!(took < 2 * LEASE, "the group waits for others: {took:?}");
    ensure_eq!(numbers(&second), numbers(&again), "what comes again");
    ensure_eq!(at.committed().await?, 100, "committed of what was lost");
    // Also now that others have taken its place.
    member.acks(&lost, Settled::Lost).await?;
    ensure_eq!(at.committed().await?, 100, "committed of what was lost");
    for delivery in &second {
        ensure!(delivery.is_suspect(), "it was not given back");
        ensure_eq!(delivery.attempt(), 1, "attempt");
    }
    member.acks(&second, Settled::Done).await?;
    member.leaves().await?;
    at.nothing_is_left_of(300).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_lost_when_the_broker_says_so() -> CaseResult {
    let (unknown, old) = (
        Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        Answer::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
    );
    let lost = [
        (Request::OffsetCommit, unknown),
        (Request::OffsetCommit, old),
        (Request::Heartbeat, unknown),
        (Request::Heartbeat, old),
        (Request::JoinGroup, unknown),
        (Request::SyncGroup, unknown),
        (Request::SyncGroup, old),
    ];
    with_each(lost, a_lost_assignment).await
}

// --- Errors while joining -----------------------------------------------------------------------------------------

/// A consumer that is refused while it joins has everything a moment later, each once.
async fn a_refused_join((request, refusals): (Request, Vec<Answer>)) -> CaseResult {
    let at = Mock::start().await?;
    at.declare().await?;
    publish(at.cx.bus(), 1..=300).await?;
    at.answer(request, &refusals);
    let mut member = at.member().await?;
    let held = member.take(300).await?;
    ensure_eq!(numbers(&held), (1..=300).collect(), "orders");
    member.acks(&held, Settled::Done).await?;
    member.leaves().await?;
    at.nothing_is_left_of(300).await
}

/// A consumer that is not told where the queue was begins there all the same.
async fn a_refused_question() -> CaseResult {
    let at = Mock::start().await?;
    let mut first = at.member().await?;
    publish(at.cx.bus(), 1..=300).await?;
    let mut held = first.take(300).await?;
    // The last of each partition are given back.
    held.sort_by_key(|held| held.tag().number);
    let back = held.split_off(100);
    first.acks(&held, Settled::Done).await?;
    first.ready.extend(back.iter().cloned());
    first.gives_back().await?;
    ensure_eq!(at.committed().await?, 100, "committed");

    let refusals = [
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        Answer::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT,
    ];
    at.answer(Request::OffsetFetch, &refusals);
    let mut second = at.member().await?;
    let held = second.take(200).await?;
    ensure_eq!(numbers(&held), numbers(&back), "orders of the second");
    second.acks(&held, Settled::Done).await?;
    second.leaves().await?;
    at.nothing_is_left_of(300).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_joins_when_it_is_refused_at_first() -> CaseResult {
    let (moved, starts, loads) = (
        Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    );
    let (unknown, old, rebalances) = (
        Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        Answer::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
        Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
    );
    let refused = [
        (Request::FindCoordinator, vec![starts, loads, starts]),
        (Request::JoinGroup, vec![loads, moved, unknown, starts]),
        (Request::SyncGroup, vec![rebalances]),
        (Request::SyncGroup, vec![old]),
        (Request::SyncGroup, vec![unknown]),
        (Request::SyncGroup, vec![moved]),
    ];
    try_join!(
        with_each(refused, a_refused_join),
        trying("where the queue was", a_refused_question()),
    )
    .map(drop)
}

// --- A coordinator that moves -------------------------------------------------------------------------------------

/// What is done is committed by the coordinator that the group has now.
async fn a_coordinator_moves_between_commits() -> CaseResult {
    let at = Mock::start().await?;
    let desk = at.cx.desk().doing(|_| Act::Take(Duration::from_millis(1)));
    let running = at
        .cx
        .start(&at.cx.process().await?, at.queue(&desk))
        .await?;
    let mut orders = 0;
    for (from, to) in [(1, 2), (2, 1), (1, 2)] {
        let (before, after) = (orders + 100, orders + 200);
        let first = publish(at.cx.bus(), orders + 1..=before).await?;
        desk.until("some of them", |seen| first.balance(seen).lost < 50)
            .await?;
        at.coordinate(to)?;
        // The one before answers nothing any more.
        at.cluster.broker_down(from)?;
        publish(at.cx.bus(), before + 1..=after).await?;
        at.commits(after).await?;
        at.cluster.broker_up(from)?;
        orders = after;
    }
    running.shutdown().await?;
    ensure_eq!(desk.seen().len(), 600, "deliveries");
    ensure_eq!(
        desk.numbers().into_iter().collect::<BTreeSet<_>>(),
        (1..=600).collect(),
        "orders"
    );
    at.nothing_is_left_of(600).await
}

/// What one member lets go is committed before another has it.
async fn a_coordinator_moves_in_a_rebalance() -> CaseResult {
    let at = Mock::start().await?;
    let mut first = at.member().await?;
    publish(at.cx.bus(), 1..=300).await?;
    let mut held = first.take(300).await?;
    held.sort_by_key(|held| held.tag().number);
    let (some, rest) = held.split_at(100);
    let desk = at.cx.desk();
    let bus = at.cx.process().await?;
    let moving = async {
        // Some partition is to go, and does not before what is held of it is settled.
        while first.leaving.is_empty() {
            ensure!(first.next("a partition to go").await?, "it ended");
        }
        at.coordinate(2)?;
        at.cluster.broker_down(1)?;
        first.acks(some, Settled::Done).await?;
        at.commits(100).await?;
        first.acks(rest, Settled::Done).await?;
        at.commits(300).await
    };
    let (second, ()) = try_join!(at.cx.start(&bus, at.queue(&desk)), moving)?;
    // Both have a part of what comes now, and nothing of what was.
    publish(at.cx.bus(), 301..=600).await?;
    let last = first.take(1).await?;
    first.acks(&last, Settled::Done).await?;
    desk.sees(1).await?;
    first.gives_back().await?;
    let seen = desk.finishes(299).await?;
    ensure_eq!(seen.len(), 299, "deliveries of the second");
    let mut orders = numbers(&last);
    orders.extend(desk.numbers());
    ensure_eq!(orders, (301..=600).collect(), "orders of both");
    second.shutdown().await?;
    at.nothing_is_left_of(600).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_moves_is_followed() -> CaseResult {
    try_join!(
        trying("between commits", a_coordinator_moves_between_commits()),
        trying("in a rebalance", a_coordinator_moves_in_a_rebalance()),
    )
    .map(drop)
}

// --- A member that leaves -----------------------------------------------------------------------------------------

/// One of two members leaves after something happened. How long it took until the other had done everything.
async fn a_member_leaves(harm: impl Fn(&Mock) -> CaseResult) -> CaseResult<Duration> {
    let at = Mock::start().await?;
    let slow = || at.cx.desk().doing(|_| Act::Take(Duration::from_millis(1)));
    let desks = [slow(), slow()];
    let (one, other) = (at.cx.process().await?, at.cx.process().await?);
    let (leaver, stays) = try_join!(
        at.cx.start(&one, at.queue(&desks[0])),
        at.cx.start(&other, at.queue(&desks[1])),
    )?;
    publish(at.cx.bus(), 1..=300).await?;
    for desk in &desks {
        desk.sees(10).await?;
    }
    harm(&at)?;
    let begin = Instant::now();
    leaver.shutdown().await?;
    let left = desks[0].seen().len();
    publish(at.cx.bus(), 301..=600).await?;
    at.commits(600).await?;
    let took = begin.elapsed();
    let all: Vec<_> = desks.iter().flat_map(Desk::numbers).collect();
    ensure_eq!(all.len(), 600, "deliveries");
    ensure_eq!(
        all.into_iter().collect::<BTreeSet<_>>(),
        (1..=600).collect(),
        "orders"
    );
    ensure_eq!(
        desks[0].seen().len(),
        left,
        "deliveries of the one that left"
    );
    // What follows need not be slow.
    at.cluster.broker_round_trip_time(1, Duration::ZERO)?;
    stays.shutdown().await?;
    at.nothing_is_left_of(600).await?;
    Ok(took)
}

/// Everything takes a while longer.
async fn a_member_leaves_a_slow_coordinator() -> CaseResult {
    let slow = |at: &Mock| {
        let slow = Duration::from_millis(200);
        Ok(at.cluster.broker_round_trip_time(1, slow)?)
    };
    a_member_leaves(slow).await.map(drop)
}

/// The others have its part after its lease.
async fn a_member_leaves_unheard() -> CaseResult {
    let unheard = |at: &Mock| {
        at.answer(Request::LeaveGroup, &[Answer::RD_KAFKA_RESP_ERR__TRANSPORT]);
        Ok(())
    };
    let took = a_member_leaves(unheard).await?;
    ensure!(took > LEASE, "the group heard of it: it took {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_leaves_has_committed_what_it_did() -> CaseResult {
    try_join!(
        trying("slowly", a_member_leaves_a_slow_coordinator()),
        trying("unheard", a_member_leaves_unheard()),
    )
    .map(drop)
}
