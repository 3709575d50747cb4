//! 9. Release.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::order};

cases!(Release: a_released_delivery_comes_back_at_once);

async fn a_released_delivery_comes_back_at_once(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    order(7).publish(cx.bus()).await?;
    let first = consumer.next().await?;
    consumer.release(&first).await?;
    let again = consumer.next().await?;
    ensure_eq!(again.message().id(), first.message().id(), "id");
    Ok(())
}
