//! Two versions of one service at once, as in every deployment.

use std::time::Duration;

use event_conformance::{
    CaseResult, Desk, Ledger, ensure, ensure_eq,
    orders::{OrderNoted, order},
};
use event_core::{Queue, RetryPolicy};

use crate::stage::on_redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_28_an_older_version_restarts_beside_a_newer_one() -> CaseResult {
    on_redis("fault_28", async |at| {
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
    })
    .await
}
