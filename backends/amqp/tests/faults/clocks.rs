//! Clocks that are wrong: all waits are times to live on the broker.

use std::{env, time::Duration};

use event_conformance::{CaseResult, WrongClock};

use crate::stage::{RABBITMQ, on_rabbitmq};

/// Tells a process of this test what it is to consume.
const STAGE: &str = "SWITCHBOARD_TEST_STAGE";
/// A step of waits.
const WAIT: Duration = Duration::from_millis(1_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of fault 26, which starts it"]
async fn a_process_whose_clock_is_wrong() -> CaseResult {
    // Called with all the others.
    let Ok(stage) = env::var(STAGE) else {
        return Ok(());
    };
    WrongClock::fails(&RABBITMQ.from_text(&stage).await?, WAIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_26_a_clock_that_is_an_hour_off_changes_no_wait() -> CaseResult {
    on_rabbitmq("fault_26", "", async |at| {
        let stage = at.to_text();
        let process = |offset: &str| {
            let test = "clocks::a_process_whose_clock_is_wrong";
            WrongClock::start(test, offset, (STAGE, &stage))
        };
        WrongClock::changes_no_wait(&at.direct, WAIT, process).await
    })
    .await
}
