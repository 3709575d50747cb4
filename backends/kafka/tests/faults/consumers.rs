//! What happens to consumers: killed, slow, stopped in good order, and others have their partitions.

use std::{sync::Arc, time::Duration};

use event_conformance::{
    Act, CaseResult, Failure, Seen, Stage, ensure, ensure_eq, faults, orders::OrderBilled,
    orders::order, publish,
};
use event_core::{Arrival, Deliveries, Delivery, Settle, Settled, Settlement, Subscription};
use tokio::time::timeout;

use crate::{
    process::{Role, Victim},
    stage::{Admin, LEASE, on_kafka, on_kafka_with},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_02_a_consumer_is_killed_with_fifty_deliveries() -> CaseResult {
    on_kafka("fault_02", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        publish(at.direct.bus(), 1..=50).await?;
        let mut victim = Victim::start(at, Role::Holds)?;
        let began = victim.begins(1).await?.len();
        ensure!(began > 0, "it began with nothing");
        let began = victim.kill()?;

        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        let again = consumer.take(50).await?;
        for delivery in &again {
            // Whatever was lent to the one that was killed.
            if began.contains(&number(delivery)) {
                ensure!(delivery.is_suspect(), "its crash cannot be seen");
            }
            ensure_eq!(delivery.attempt(), 1, "attempt");
            ensure_eq!(consumer.ack(delivery).await?, Settled::Done, "settled");
        }
        consumer.gets_nothing().await
    })
    .await
}

/// The `id` in the payload of an order.
fn number(delivery: &Delivery) -> u64 {
    let order: serde_json::Value =
        serde_json::from_slice(delivery.message().payload()).unwrap_or_default();
    order["id"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_09_a_queue_without_its_topic_leaves_its_neighbour_alone() -> CaseResult {
    on_kafka("fault_09", async |at| {
        // Both on one connection.
        let (desk, neighbour) = (at.direct.desk(), at.direct.desk().holding());
        let bus = at.direct.process().await?;
        let queue = at.direct.new_queue("billing_note");
        let queue = queue.bind("billing", "billing.#").lease(LEASE);
        let queue = queue.handle(desk.takes::<OrderBilled>()).named("note");
        let mut running = at.direct.start(&bus, queue).await?;
        let queue = at.direct.queue("billing_order", &neighbour);
        let _neighbour = at.direct.start(&bus, queue).await?;
        publish(at.direct.bus(), 1..=5).await?;
        neighbour.sees(5).await?;
        OrderBilled { id: 1 }.publish(at.direct.bus()).await?;
        desk.finishes(1).await?;

        Admin::of(at)?.delete_topic(&at.name("billing")).await?;
        // Made anew by who publishes, and read by who has not ended. So many that it is noticed, wherever they go.
        let mut ids = 2..200;
        while !desk.seen().iter().any(|seen| seen.number() > 1) {
            let Some(id) = ids.next() else {
                return Err(Failure::new("it was silent all the time"));
            };
            OrderBilled { id }.publish(at.direct.bus()).await?;
            let soon = desk.until("what was published again", |seen| {
                seen.iter().any(|seen| seen.number() > 1)
            });
            tokio::select! {
                ended = running.join() => {
                    ensure!(ended.is_err(), "the service ended without a word");
                    break;
                }
                // Otherwise once more.
                seen = timeout(Duration::from_millis(300), soon) => if let Ok(seen) = seen {
                    drop(seen?);
                },
            }
        }
        neighbour.sees_no_more_than(5).await?;
        neighbour.open();
        let seen = neighbour.finishes(5).await?;
        ensure_eq!(seen.len(), 5, "deliveries of the neighbour");
        let ledger = publish(at.direct.bus(), 6..=7).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        neighbour.until("orders of later", all).await.map(drop)
    })
    .await
}

/// A consumer whose line was silent until its orders were in the hands of another, and that knows it by now.
struct Stale {
    reading: Box<dyn Deliveries>,
    settle: Arc<dyn Settle>,
    held: Vec<Delivery>,
}

/// With it comes the other consumer, with what it holds.
async fn stale(
    at: &Stage,
    count: u64,
) -> CaseResult<(Stale, event_conformance::Consumer, Vec<Delivery>)> {
    let spec = at.cx.spec("billing_order", &["order.*.submit"])?;
    at.direct.declare(&[&spec]).await?;
    let process = at.cx.process().await?;
    let Subscription {
        deliveries: mut reading,
        settle,
        stop: _,
    } = process.transport().consume(&spec).await?;
    publish(at.direct.bus(), 1..=count).await?;
    let count = usize::try_from(count)?;
    let mut held = Vec::new();
    while held.len() < count {
        let next = at.cx.within("its orders", reading.next(count));
        if let Arrival::Batch(batch) = next.await?? {
            held.extend(batch);
        }
    }
    at.proxy.silence(true);
    let mut holder = at.direct.consume(at.direct.bus(), &spec).await?;
    let taken = holder.take(count).await?;
    at.proxy.silence(false);
    let mut lost: Vec<u64> = held.iter().map(|held| held.tag().generation).collect();
    lost.sort_unstable();
    lost.dedup();
    while !lost.is_empty() {
        let next = at.cx.within("to hear what it lost", reading.next(count));
        if let Arrival::Revoked { generation } = next.await?? {
            lost.retain(|lost| *lost != generation);
        }
    }
    let stale = Stale {
        reading,
        settle,
        held,
    };
    Ok((stale, holder, taken))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_10_an_acknowledgement_after_the_assignment_is_lost() -> CaseResult {
    on_kafka_with("fault_10", "partitions=3&drain=60000", async |at| {
        let (mut stale, holder, taken) = stale(at, 5).await?;
        let acks = taken.iter().map(|taken| Settlement::Ack(taken.tag()));
        for settled in holder.settle_all(acks.collect()).await {
            ensure_eq!(settled?, Settled::Done, "the new holder's");
        }
        drop(holder);
        // It goes on with others, which are its own.
        publish(at.direct.bus(), 6..=8).await?;
        let mut own = Vec::new();
        while own.len() < 3 {
            let next = at.cx.within("orders of its own", stale.reading.next(10));
            if let Arrival::Batch(batch) = next.await?? {
                own.extend(batch);
            }
        }
        let numbers: Vec<_> = own.iter().map(number).collect();
        ensure!(
            numbers.iter().all(|number| *number > 5),
            "it was given {numbers:?}"
        );
        let acks = stale.held.iter().map(|held| Settlement::Ack(held.tag()));
        for settled in stale.settle.settle(acks.collect()).await {
            ensure_eq!(settled?, Settled::Lost, "an acknowledgement too late");
        }
        // Together with one that it lost.
        for own in &own {
            let tags = [stale.held[0].tag(), own.tag()].map(Settlement::Ack);
            let settled = stale.settle.settle(tags.into()).await;
            ensure!(
                matches!(settled[..], [Ok(Settled::Lost), Ok(Settled::Done)]),
                "settled as {settled:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_35_a_holder_whose_assignment_went_elsewhere_changes_nothing() -> CaseResult {
    on_kafka_with("fault_35", "partitions=3&drain=60000", async |at| {
        let (stale, mut holder, taken) = stale(at, 8).await?;
        let admin = Admin::of(at)?;
        let settlements = stale.held.iter().enumerate().map(|(nth, held)| {
            let (tag, message) = (held.tag(), Box::new(held.message().clone()));
            match nth % 4 {
                0 => Settlement::Ack(tag),
                1 => Settlement::Release(tag),
                2 => Settlement::Retry {
                    tag,
                    message,
                    delay: Duration::from_millis(100),
                },
                _ => Settlement::DeadLetter { tag, message },
            }
        });
        for (nth, settled) in stale
            .settle
            .settle(settlements.collect())
            .await
            .into_iter()
            .enumerate()
        {
            let harmless = matches!(settled, Ok(Settled::Lost) | Err(_));
            ensure!(harmless, "settlement {nth} ended as {settled:?}");
        }
        for held in &stale.held {
            ensure!(
                stale.settle.isolate(held.tag()).await.is_err(),
                "it is to run what it does not hold"
            );
        }
        holder.gets_nothing_for(LEASE).await?;
        let queue = at.name("billing_order");
        for topic in [".retry.100", ".dead"] {
            let copies = admin.stored(&format!("{queue}{topic}")).await?;
            ensure_eq!(copies, 0, "copies in {topic}");
        }
        for taken in &taken {
            ensure_eq!(holder.ack(taken).await?, Settled::Done, "the new holder");
        }
        holder.gets_nothing().await?;
        drop((stale, holder));
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_18_a_handler_outlives_the_longest_pause_between_polls() -> CaseResult {
    const POLL: Duration = Duration::from_secs(10);
    let options = "partitions=3&max.poll.interval.ms=10000&drain=3000";
    on_kafka_with("fault_18", options, async |at| {
        let slow = || {
            at.direct.desk().doing(|seen| match seen.number() {
                1 => Act::Take(POLL + Duration::from_secs(3)),
                _ => Act::DONE,
            })
        };
        let desks = [slow(), slow()];
        let queue = |desk| at.direct.queue("billing_order", desk);
        let (one, other) = (at.direct.process().await?, at.direct.process().await?);
        let one = at.direct.start(&one, queue(&desks[0])).await?;
        let other = at.direct.start(&other, queue(&desks[1])).await?;
        // Both have their partitions before it, because who joins later waits no longer than `drain` for what began.
        let mut ids = 100..;
        while desks.iter().any(|desk| desk.seen().is_empty()) {
            let id = ids.next().unwrap_or_default();
            publish(at.direct.bus(), id..=id).await?;
        }
        let all = || {
            let all = desks.iter().flat_map(|desk| desk.seen());
            all.filter(|seen| seen.number() < 100).collect::<Vec<_>>()
        };
        let ledger = publish(at.direct.bus(), 1..=20).await?;
        let ended = || async { Ok(ledger.balance(&all()).lost == 0) };
        at.direct.until("the slow one to end", ended).await?;
        for desk in &desks {
            let before = desk.seen().len();
            desk.sees_no_more_than_for(before, LEASE).await?;
        }
        let seen = all();
        ensure_eq!(seen.len(), 20, "runs");
        let slow = seen.iter().find(|seen| seen.number() == 1);
        ensure!(
            slow.is_some_and(|slow| slow.ended.is_some_and(|ended| ended - slow.at > POLL)),
            "it was not slow"
        );
        drop((one, other));
        at.direct.nothing_is_left("billing_order").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_13_a_handler_takes_five_leases_with_a_full_buffer() -> CaseResult {
    const SHORT: Duration = Duration::from_secs(1);
    on_kafka_with("fault_13", "partitions=3&drain=20000", async |at| {
        let desk = at.direct.desk().doing(|_| Act::Take(5 * SHORT));
        let queue = || {
            let queue = at.direct.queue("billing_order", &desk);
            queue.lease(SHORT).prefetch(4).concurrency(2)
        };
        let (one, other) = (at.direct.process().await?, at.direct.process().await?);
        let _one = at.direct.start(&one, queue()).await?;
        let _other = at.direct.start(&other, queue()).await?;
        let ledger = publish(at.direct.bus(), 1..=8).await?;
        desk.finishes(8).await?;
        let seen = desk.sees_no_more_than_for(8, 2 * SHORT).await?;
        ledger.balance(&seen).expect_balanced()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_24_services_stop_under_load_and_use_no_attempt() -> CaseResult {
    on_kafka("fault_24", async |at| {
        let (took, seen) = faults::services_stop_under_load(at).await?;
        eprintln!("fault_24: {took:?}");
        // Nobody waited for a session to end.
        ensure!(took < 5 * LEASE, "it took {took:?}");
        let suspected = |seen: &Seen| seen.delivery.is_suspect();
        ensure!(
            !seen.iter().any(suspected),
            "what was given back is suspect"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_19_a_killed_process_repeats_only_what_was_not_committed() -> CaseResult {
    on_kafka_with("fault_19", "partitions=1", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        let (group, topic) = (at.name("billing_order"), at.name("order"));
        publish(at.direct.bus(), 1..=20).await?;
        let mut victim = Victim::start(at, Role::HoldsTwo)?;
        victim.begins(20).await?;
        let admin = Admin::of(at)?;
        // The fifth is the lowest; what is finished above it is six, and eight after the twelfth.
        let told = || async {
            let committed = admin.committed(&group, &topic).await?;
            let (offset, text) = &committed[0];
            Ok(*offset == Some(4) && text.contains(" 1+6 1+8"))
        };
        at.direct
            .until("a commit of all that is done", told)
            .await?;
        victim.kill()?;

        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        let again = consumer.take(2).await?;
        let numbers: Vec<_> = again.iter().map(number).collect();
        ensure_eq!(numbers, [5, 12], "what is repeated");
        for delivery in &again {
            ensure!(delivery.is_suspect(), "its crash cannot be seen");
            consumer.ack(delivery).await?;
        }
        consumer.gets_nothing().await?;
        publish(at.direct.bus(), 21..=21).await?;
        let next = consumer.next().await?;
        ensure_eq!(number(&next), 21, "what comes next");
        consumer.ack(&next).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_killed_between_a_retrys_copy_and_its_commit() -> CaseResult {
    const ORDERS: u64 = 40;
    on_kafka("killed_copies", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        at.direct.declare(&[&spec]).await?;
        let admin = Admin::of(at)?;
        let retries = at.name("billing_order.retry.400");
        let ledger = publish(at.direct.bus(), 1..=ORDERS).await?;
        for round in 0..3 {
            let before = admin.stored(&retries).await?;
            let _victim = Victim::start(at, Role::Fails)?;
            let some = || async { Ok(admin.stored(&retries).await? > before + 5) };
            at.direct
                .until(&format!("copies of round {round}"), some)
                .await?;
        }
        let desk = at.direct.desk();
        let policy = event_core::RetryPolicy::fixed(LEASE).attempts(50);
        let queue = at.direct.queue("billing_order", &desk).retry(policy);
        let _running = at.direct.start(at.direct.bus(), queue).await?;
        let all = |seen: &[_]| ledger.balance(seen).lost == 0;
        let seen = desk.until("all of them", all).await?;
        eprintln!(
            "killed_copies: {}, {} copies",
            ledger.balance(&seen),
            admin.stored(&retries).await?
        );
        let dead = at.direct.bus().dead_letters("billing_order").await?;
        ensure_eq!(dead.list(10).await?.len(), 0, "dead letters");
        let most = usize::try_from(ORDERS)? * 4;
        ensure!(seen.len() <= most, "{} of at most {most}", seen.len());
        order(99).publish(at.direct.bus()).await?;
        desk.until("an order of later", |seen| {
            seen.iter().any(|seen| seen.number() == 99)
        })
        .await
        .map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_behind_one_that_came_again_is_not_repeated() -> CaseResult {
    const MANY: usize = 3_000;
    on_kafka_with("behind", "partitions=1", async |at| {
        let mut spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        spec.prefetch = MANY;
        at.direct.declare(&[&spec]).await?;
        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        publish(at.direct.bus(), 1..=u64::try_from(MANY)?).await?;
        let held = consumer.take(MANY).await?;
        consumer.release(&held[0]).await?;
        for delivery in &held[1..] {
            consumer.ack(delivery).await?;
        }
        let again = consumer.next().await?;
        ensure_eq!(again.message().id(), held[0].message().id(), "what came");
        consumer.release(&again).await?;
        consumer.stop().await?;
        let mut next = at.direct.consume(at.direct.bus(), &spec).await?;
        let left = next.next().await?;
        ensure_eq!(left.message().id(), held[0].message().id(), "what is left");
        next.ack(&left).await?;
        next.gets_nothing().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_not_allowed_is_refused_when_it_starts() -> CaseResult {
    on_kafka("lease", async |at| {
        for lease in [100, 2_000_000, 7_200_000] {
            let mut spec = at.direct.spec("billing_order", &["order.*.submit"])?;
            spec.lease = Duration::from_millis(lease);
            at.direct.declare(&[&spec]).await?;
            let Err(error) = at.direct.consume(at.direct.bus(), &spec).await else {
                return Err(Failure::new(format!("{lease} ms are allowed")));
            };
            let text = error.to_string();
            ensure!(text.contains("the lease is outside"), "{text}");
        }
        Ok(())
    })
    .await
}
