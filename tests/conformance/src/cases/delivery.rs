//! 4. At least once.

mod crashes;
pub(super) mod suspects;
mod tags;

use std::collections::BTreeSet;

use crate::{Case, CaseResult, Context, Seen, orders::order};

pub(crate) fn cases() -> Vec<Case> {
    [crashes::cases(), suspects::cases(), tags::cases()].concat()
}

async fn publish(cx: &Context, ids: impl IntoIterator<Item = u64>) -> CaseResult {
    for id in ids {
        order(id).publish(cx.bus()).await?;
    }
    Ok(())
}

/// The numbers of what handlers have ended with.
fn done(seen: &[Seen]) -> BTreeSet<u64> {
    let ended = seen.iter().filter(|seen| seen.ended.is_some());
    ended.map(Seen::number).collect()
}
