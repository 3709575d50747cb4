//! 10. Shutdown.

use crate::{CaseResult, Context, case::cases};

cases!(Shutdown: a_stopped_reader_ends);

async fn a_stopped_reader_ends(cx: Context) -> CaseResult {
    let mut consumer = cx.consumer("billing_order").await?;
    consumer.stop().await?;
    Ok(())
}
