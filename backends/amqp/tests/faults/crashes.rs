//! Processes that end, and messages that end them.

use event_conformance::{CaseResult, faults};

use crate::stage::on_rabbitmq;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_20_a_process_ends_right_after_it_published() -> CaseResult {
    on_rabbitmq("fault_20", "", async |at| {
        faults::a_process_ends_while_it_publishes(at, 5).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_fails_has_exactly_its_attempts() -> CaseResult {
    on_rabbitmq("fault_21", "", async |at| {
        faults::a_failing_message_has_its_attempts(at).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_a_message_that_kills_has_its_attempts_alone() -> CaseResult {
    on_rabbitmq("fault_21_kills", "", async |at| {
        faults::a_killing_message_has_its_attempts(at, None).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_29_ten_in_flight_and_one_that_kills_each_time() -> CaseResult {
    on_rabbitmq("fault_29", "", async |at| {
        faults::a_killer_among_ten(at, 2, None).await
    })
    .await
}
