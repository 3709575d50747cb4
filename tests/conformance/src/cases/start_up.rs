//! What is refused at start.

use crate::{CaseResult, Context, case::cases};

cases!(StartUp: a_queue_without_a_handler_is_refused);

async fn a_queue_without_a_handler_is_refused(_cx: Context) -> CaseResult {
    Ok(())
}
