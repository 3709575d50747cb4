//! 5. Failure.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::order};

cases!(Failure: redelivers_after_handler_error);

async fn redelivers_after_handler_error(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(1);
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let seen = desk.finishes(2).await?;
    ensure_eq!(seen[1].meta.attempt, 2, "attempt");
    desk.sees_no_more_than(2).await?;
    Ok(())
}
