//! What the server keeps of messages that are done with: nothing.

use event_conformance::{CaseResult, Ledger, ensure, ensure_eq, orders::order};

use crate::stage::{Admin, nothing, on_own_redis};

/// How much more it may be afterwards: what an allocator keeps.
const MOST: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_fifty_thousand_messages_is_given_back() -> CaseResult {
    through("memory", 50_000).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; scripts/soak runs it"]
async fn memory_of_a_million_messages_is_given_back() -> CaseResult {
    through("memory_long", 1_000_000).await
}

async fn used(admin: &Admin) -> CaseResult<u64> {
    admin.tell("MEMORY PURGE").await?;
    admin.info("memory", "used_memory").await
}

async fn through(name: &str, count: u64) -> CaseResult {
    const BATCH: u64 = 1_000;
    on_own_redis(name, nothing, async |at, _| {
        let admin = Admin::of(at).await?;
        let mut spec = at.direct.spec("billing_order", &["order.*.submit"])?;
        spec.prefetch = usize::try_from(BATCH)?;
        at.direct.declare(&[&spec]).await?;
        let mut consumer = at.direct.consume(at.direct.bus(), &spec).await?;
        let mut before = 0;
        let mut most = 0;
        for batch in 0..count / BATCH {
            let orders = (0..BATCH).map(|n| order(batch * BATCH + n));
            for result in Ledger::new().publish_all(at.direct.bus(), orders).await {
                result?;
            }
            most = most.max(admin.info("memory", "used_memory").await?);
            let mut left = usize::try_from(BATCH)?;
            while left > 0 {
                let some = consumer.take(left.min(500)).await?;
                let acks = some
                    .iter()
                    .map(|delivery| event_core::Settlement::Ack(delivery.tag()));
                for settled in consumer.settle_all(acks.collect()).await {
                    ensure_eq!(settled?, event_core::Settled::Done, "settled");
                }
                left -= some.len();
            }
            if batch == 1 {
                // Connections and scripts are there.
                before = used(&admin).await?;
            }
        }
        let after = used(&admin).await?;
        eprintln!("{name}: {before} bytes became {after}, at most {most}");
        ensure!(most > before, "it never held anything");
        ensure!(after < before + MOST, "{before} bytes became {after}");
        let keys: Vec<String> = admin.ask("KEYS *").await?;
        ensure!(keys.len() < 10, "keys: {keys:?}");
        Ok(())
    })
    .await
}
