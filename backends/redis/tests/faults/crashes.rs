//! Messages that fail, and messages that end processes.

use std::time::Duration;

use event_conformance::{CaseResult, faults};

use crate::stage::on_redis;

/// A lease for tests in which many are waited for.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_fails_has_exactly_its_attempts() -> CaseResult {
    on_redis("fault_21", async |at| {
        faults::a_failing_message_has_its_attempts(at).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_kills_has_its_attempts_alone() -> CaseResult {
    on_redis("fault_21_kills", async |at| {
        faults::a_killing_message_has_its_attempts(at, Some(SHORT)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_29_ten_in_flight_and_one_that_kills_each_time() -> CaseResult {
    on_redis("fault_29", async |at| {
        faults::a_killer_among_ten(at, 1, Some(SHORT)).await
    })
    .await
}
