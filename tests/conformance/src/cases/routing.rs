//! 1. Routing.

use crate::{CaseResult, Context, case::cases, ensure_eq, orders::raw};

cases!(Routing: a_star_stands_for_one_word);

async fn a_star_stands_for_one_word(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    for key in ["order.submit", "order.v1.eu.submit", "order.v1.submit"] {
        cx.bus().publish(&raw("order", key, "{}")?).await?;
    }
    let delivery = consumer.next().await?;
    ensure_eq!(delivery.message().key().as_str(), "order.v1.submit", "key");
    consumer.ack(&delivery).await?;
    consumer.gets_nothing().await
}
