//! 8. Back-pressure.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::order};

cases!(BackPressure: one_place_is_one_at_a_time);

async fn one_place_is_one_at_a_time(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let queue = cx.queue("billing_order", &desk).concurrency(1);
    let _running = cx.start(cx.bus(), queue).await?;
    for id in 1..=10 {
        order(id).publish(cx.bus()).await?;
    }
    desk.finishes(10).await?;
    ensure_eq!(desk.most_running(), 1, "handlers at the same time");
    Ok(())
}
