//! 2. Publish.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::order};

cases!(Publish: ok_means_stored);

async fn ok_means_stored(cx: Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await?;
    order(7).publish(cx.bus()).await?;
    let later = cx.process().await?;
    let mut consumer = cx.consume(&later, &spec).await?;
    let delivery = consumer.next().await?;
    ensure_eq!(delivery.message().key().as_str(), "order.v1.submit", "key");
    Ok(())
}
