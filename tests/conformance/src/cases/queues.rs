//! 3. Queues.

use crate::{CaseResult, Context, case::cases, orders::order};

cases!(Queues: each_queue_has_its_own_copy);

async fn each_queue_has_its_own_copy(cx: Context) -> CaseResult {
    let (billing, logistic) = (cx.desk(), cx.desk());
    let _billing = cx
        .start(cx.bus(), cx.queue("billing_order", &billing))
        .await?;
    let _logistic = cx
        .start(&cx.process().await?, cx.queue("logistic_order", &logistic))
        .await?;
    order(7).publish(cx.bus()).await?;
    billing.finishes(1).await?;
    logistic.finishes(1).await?;
    billing.sees_no_more_than(1).await?;
    logistic.sees_no_more_than(1).await?;
    Ok(())
}
