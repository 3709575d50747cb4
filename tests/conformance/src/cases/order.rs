//! 7. Order.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::order_of};

cases!(Order: one_key_is_handled_in_order_at_any_concurrency);

async fn one_key_is_handled_in_order_at_any_concurrency(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _running = cx
        .start(cx.bus(), cx.queue("billing_order", &desk))
        .await?;
    for id in 1..=10 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    desk.finishes(10).await?;
    ensure_eq!(desk.numbers(), (1..=10).collect::<Vec<_>>(), "order");
    Ok(())
}
