//! What can be seen.

use crate::{CaseResult, Context, case::cases};

cases!(Observation: publishes_and_deliveries_are_counted);

async fn publishes_and_deliveries_are_counted(_cx: Context) -> CaseResult {
    Ok(())
}
