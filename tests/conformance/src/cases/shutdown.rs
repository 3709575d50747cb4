//! 10. Shutdown.

mod ends;
mod gives_back;

use std::time::Duration;

use crate::{Case, CaseResult, Context, orders::order};

pub(crate) fn cases() -> Vec<Case> {
    [ends::cases(), gives_back::cases()].concat()
}

/// So long that nothing in a case waits for its end by mistake.
const LONG: Duration = Duration::from_secs(3_600);

async fn publish(cx: &Context, ids: impl IntoIterator<Item = u64>) -> CaseResult {
    for id in ids {
        order(id).publish(cx.bus()).await?;
    }
    Ok(())
}

/// Declares the queue, for a service that is started beside the case.
async fn declared(cx: &Context) -> CaseResult {
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    cx.declare(&[&spec]).await
}
