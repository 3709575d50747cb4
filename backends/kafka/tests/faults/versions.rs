//! Two versions of one service at once, as in every deployment.

use event_conformance::{CaseResult, faults};

use crate::stage::on_kafka;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_28_an_older_version_restarts_beside_a_newer_one() -> CaseResult {
    on_kafka("fault_28", async |at| {
        faults::an_older_version_beside_a_newer_one(at).await
    })
    .await
}
