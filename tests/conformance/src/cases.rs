//! The cases, in a file for each point of the contract.

mod back_pressure;
mod dead_letters;
mod delivery;
mod envelope;
mod ephemeral;
mod failure;
mod observation;
mod order;
mod publish;
mod queues;
mod release;
mod routing;
mod shutdown;
mod start_up;

use crate::case::Case;

/// Every case, in the order of the contract.
pub fn all_cases() -> Vec<Case> {
    [
        routing::cases(),
        publish::cases(),
        queues::cases(),
        delivery::cases(),
        failure::cases(),
        dead_letters::cases(),
        order::cases(),
        back_pressure::cases(),
        release::cases(),
        shutdown::cases(),
        ephemeral::cases(),
        envelope::cases(),
        start_up::cases(),
        observation::cases(),
    ]
    .concat()
}
