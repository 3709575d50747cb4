//! 12. Envelope.

use crate::{CaseResult, Context, case::cases};

cases!(Envelope: headers_reach_the_handler);

async fn headers_reach_the_handler(_cx: Context) -> CaseResult {
    Ok(())
}
