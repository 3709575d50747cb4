//! 11. Ephemeral subscriptions.

use crate::{CaseResult, Context, case::cases};

cases!(Ephemeral: an_ephemeral_subscription_gets_its_own_copy [Ephemeral]);

async fn an_ephemeral_subscription_gets_its_own_copy(_cx: Context) -> CaseResult {
    Ok(())
}
