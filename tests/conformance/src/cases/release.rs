//! 9. Release.

mod given_back;
mod rebalance;

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    [given_back::cases(), rebalance::cases()].concat()
}
