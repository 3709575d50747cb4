//! 4. At least once.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::order};

cases!(AtLeastOnce: an_acknowledged_delivery_is_gone);

async fn an_acknowledged_delivery_is_gone(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    order(7).publish(cx.bus()).await?;
    let delivery = consumer.next().await?;
    ensure_eq!(
        consumer.ack(&delivery).await?,
        event_core::Settled::Done,
        "settled"
    );
    consumer.crash().await;
    let mut next = cx.consumer("billing_order").await?;
    next.gets_nothing_for(cx.beyond_the_lease()).await
}
