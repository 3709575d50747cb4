//! What happens to consumers: killed, paused, slow, stopped in good order, and their queue deleted under them.

use std::time::{Duration, Instant};

use event_conformance::{
    Act, CaseResult, Consumer, Failure, Seen, Stage, done, ensure, ensure_eq, faults,
    orders::{OrderBilled, order},
    publish, topology,
};
use event_core::{Delivery, ErrorKind, Removal, Settled, Settlement};

use crate::stage::{Admin, LEASE, holds, key, on_redis};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_02_a_consumer_is_killed_with_fifty_deliveries() -> CaseResult {
    on_redis("fault_02", async |at| {
        let (killed, held) = holds(at, 50).await?;
        for delivery in held {
            ensure_eq!(delivery.redeliveries(), 0, "redeliveries at first");
        }
        // It does not come back.
        at.proxy.refuse(true);
        at.proxy.cut();
        killed.crash().await;

        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
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
async fn fault_08_a_stream_is_deleted_under_its_consumer() -> CaseResult {
    on_redis("fault_08", async |at| {
        let desk = at.direct.desk();
        let service = at.direct.process().await?;
        let queue = at.direct.queue("billing_order", &desk);
        let mut running = at.direct.start(&service, queue).await?;
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "billing_order"));
        for round in 1..=5 {
            publish(at.direct.bus(), round..=round).await?;
            desk.until("the order of a round", move |seen| {
                done(seen).contains(&round)
            })
            .await?;
            let deleted: u64 = admin.ask(&format!("DEL {stream}")).await?;
            ensure_eq!(deleted, 1, "streams that were deleted");
            // It is declared anew, and until then a publish says what is missing.
            let begin = Instant::now();
            while let Err(error) = order(round * 100).publish(at.direct.bus()).await {
                ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
                let text = error.to_string();
                let named = text.contains(&at.name("billing_order"));
                ensure!(named, "no queue is named: {text}");
                ensure!(begin.elapsed() < Duration::from_secs(10), "still: {text}");
            }
            tokio::select! {
                ended = running.join() => {
                    return Err(Failure::new(format!("the service ended: {ended:?}")));
                }
                seen = desk.until("an order of later", move |seen| {
                    done(seen).contains(&(round * 100))
                }) => drop(seen?),
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_a_queue_is_removed_under_its_consumer() -> CaseResult {
    on_redis("fault_08_removed", async |at| {
        // Whoever removes it has a long line: what belongs together is removed piece by piece.
        at.proxy.delay(Duration::from_millis(20));
        for round in 0..5 {
            let name = format!("billing_{round}");
            let desk = at.direct.desk();
            let service = at.direct.process().await?;
            // On two exchanges, which are deleted one after the other.
            let queue = at.direct.queue(&name, &desk).bind("billing", "billing.#");
            let queue = queue.handle(desk.takes::<OrderBilled>()).named("note");
            let mut running = at.direct.start(&service, queue).await?;
            publish(at.direct.bus(), round..=round).await?;
            desk.finishes(1).await?;
            let removal = Removal::Queue(name.parse()?);
            at.cx.bus().transport().remove(&removal).await?;
            let ended = at.direct.within("the service to end", running.join());
            let Err(error) = ended.await? else {
                return Err(Failure::new("the service ended without a word"));
            };
            ensure_eq!(error.kind(), ErrorKind::NotFound, "kind of: {error}");
            let named = error.to_string().contains(&at.name(&name));
            ensure!(named, "no queue is named: {error}");
            // And nothing of it came back.
            let left: Vec<String> = Admin::of(at)
                .await?
                .ask(&format!("KEYS *{}", at.name(&name)))
                .await?;
            ensure!(left.is_empty(), "there still is {left:?}");
            let order = order(1).publish(at.direct.bus()).mandatory().await;
            let kind = order.map(drop).map_err(|error| error.kind());
            ensure_eq!(kind, Err(ErrorKind::Unroutable), "a publish afterwards");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_a_queue_is_removed_while_its_consumers_declare_it() -> CaseResult {
    on_redis("fault_08_both", async |at| {
        let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        let (topology, admin) = (topology(&[&spec]), Admin::of(at).await?);
        let (one, other) = (at.direct.process().await?, at.direct.process().await?);
        for _ in 0..50 {
            let removal = Removal::Queue(spec.name.clone());
            let declaring = async { one.topology().declare(&topology).await };
            let removing = other.transport().remove(&removal);
            let (declared, removed) = tokio::join!(declaring, removing);
            declared?;
            removed?;
            // Whichever was last: it is there as a whole, or it can be declared as a whole.
            one.topology().declare(&topology).await?;
            let receipt = order(1).publish(at.direct.bus()).mandatory().await?;
            ensure_eq!(receipt.queues, Some(1), "queues");
            let consumer = at.direct.consume(&one, &spec).await?;
            consumer.crash().await;
            let stream = key(at, "stream", "billing_order");
            ensure_eq!(
                admin.ask::<u64>(&format!("EXISTS {stream}")).await?,
                1,
                "streams"
            );
        }
        Ok(())
    })
    .await
}

/// A consumer whose line is silent until its orders are in the hands of another.
async fn paused(at: &Stage, count: u64) -> CaseResult<[(Consumer, Vec<Delivery>); 2]> {
    let (stale, held) = holds(at, count).await?;
    at.proxy.silence(true);
    let spec = at.direct.spec("billing_order", &["order.*.submit"])?;
    let mut holder = at.direct.consume(at.direct.bus(), &spec).await?;
    let taken = holder.take(usize::try_from(count)?).await?;
    at.proxy.silence(false);
    Ok([(stale, held), (holder, taken)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_10_an_acknowledgement_after_the_lease_is_lost() -> CaseResult {
    on_redis("fault_10", async |at| {
        let [(mut stale, held), (holder, taken)] = paused(at, 5).await?;
        holder
            .settle_all(taken.iter().map(|d| Settlement::Ack(d.tag())).collect())
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        drop(holder);
        // It goes on with others, which are its own.
        publish(at.direct.bus(), 6..=8).await?;
        let own = stale.take(3).await?;
        let stale_tags = held.iter().map(|held| Settlement::Ack(held.tag()));
        for settled in stale.settle_all(stale_tags.collect()).await {
            ensure_eq!(settled?, Settled::Lost, "an acknowledgement too late");
        }
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "billing_order"));
        let left: u64 = admin.ask(&format!("XLEN {stream}")).await?;
        ensure_eq!(left, 3, "orders that nobody acknowledged");
        // Among them one that it acknowledges together with one that it lost.
        for own in &own {
            let tags = [held[0].tag(), own.tag()].map(Settlement::Ack);
            let settled = stale.settle_all(tags.into()).await;
            ensure!(
                matches!(settled[..], [Ok(Settled::Lost), Ok(Settled::Done)]),
                "settled as {settled:?}"
            );
        }
        ensure_eq!(
            admin.ask::<u64>(&format!("XLEN {stream}")).await?,
            0,
            "orders"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_13_a_handler_takes_five_leases_with_a_full_buffer() -> CaseResult {
    const SHORT: Duration = Duration::from_secs(1);
    on_redis("fault_13", async |at| {
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
    on_redis("fault_24", async |at| {
        let (took, seen) = faults::services_stop_under_load(at).await?;
        // What was given back did not wait for its lease.
        ensure!(took < 5 * LEASE, "it took {took:?}");
        let again = |seen: &Seen| seen.delivery.redeliveries() > 0;
        ensure!(!seen.iter().any(again), "an attempt was used up");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_35_a_holder_whose_lease_went_elsewhere_changes_nothing() -> CaseResult {
    on_redis("fault_35", async |at| {
        let [(mut stale, held), (mut holder, taken)] = paused(at, 8).await?;
        let (admin, stream) = (Admin::of(at).await?, key(at, "stream", "billing_order"));
        let pending = async || -> CaseResult<Vec<(String, String)>> {
            let all: Vec<(String, String, u64, u64)> = admin
                .ask(&format!("XPENDING {stream} consumers - + 100"))
                .await?;
            Ok(all.into_iter().map(|(id, who, ..)| (id, who)).collect())
        };
        let before = pending().await?;
        ensure_eq!(before.len(), 8, "orders in the new holder's hands");
        // Two of each kind.
        let settlements = held.iter().enumerate().map(|(nth, held)| {
            let (tag, message) = (held.tag(), Box::new(held.message().clone()));
            match nth % 4 {
                0 => Settlement::Ack(tag),
                1 => Settlement::Release(tag),
                2 => Settlement::Retry {
                    tag,
                    message,
                    delay: Duration::from_millis(nth as u64 % 3 * 100),
                },
                _ => Settlement::DeadLetter { tag, message },
            }
        });
        for (nth, settled) in stale
            .settle_all(settlements.collect())
            .await
            .into_iter()
            .enumerate()
        {
            let harmless = matches!(settled, Ok(Settled::Lost) | Err(_));
            ensure!(harmless, "settlement {nth} ended as {settled:?}");
        }
        // Its renewals go on for as long as it takes to lose a lease.
        stale.gets_nothing_for(LEASE + LEASE / 2).await?;
        ensure_eq!(pending().await?, before, "orders and their holders");
        let left: [u64; 3] = [
            admin.ask(&format!("XLEN {stream}")).await?,
            admin
                .ask(&format!("ZCARD {}", key(at, "delayed", "billing_order")))
                .await?,
            admin
                .ask(&format!("XLEN {}", key(at, "dead", "billing_order")))
                .await?,
        ];
        ensure_eq!(left, [8, 0, 0], "orders, retries and dead letters");
        for taken in &taken {
            ensure_eq!(holder.ack(taken).await?, Settled::Done, "the new holder");
        }
        holder.gets_nothing().await?;
        ensure_eq!(pending().await?, [], "what is held");
        Ok(())
    })
    .await
}
