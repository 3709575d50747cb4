//! Clocks that are wrong: all waits are on the broker's clock.

use std::{
    env,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use event_conformance::{CaseResult, WrongClock, ensure};

use crate::stage::{KAFKA, on_kafka};

/// Tells a process of this test what it is to consume.
const STAGE: &str = "SWITCHBOARD_TEST_STAGE";
/// Between two attempts.
const WAIT: Duration = Duration::from_millis(1_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of fault 26, which starts it"]
async fn a_process_whose_clock_is_wrong() -> CaseResult {
    // Called with all the others.
    let Ok(stage) = env::var(STAGE) else {
        return Ok(());
    };
    WrongClock::fails(&KAFKA.from_text(&stage).await?, WAIT).await
}

/// The library without which the client would not only show a wrong time, but wait for it. It needs the compiler that
/// the client was built with.
fn real_waits() -> CaseResult<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/real_waits.c");
    let library = format!(
        "{}/real_waits-{}.so",
        env!("CARGO_TARGET_TMPDIR"),
        process::id()
    );
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o", &library, source]);
    ensure!(compiler.status()?.success(), "cannot compile {source}");
    Ok(Path::new(&library).to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_26_a_clock_that_is_an_hour_off_changes_no_wait() -> CaseResult {
    on_kafka("fault_26", async |at| {
        let stage = at.to_text();
        let before = [real_waits()?];
        let process = |offset: &str| {
            let test = "clocks::a_process_whose_clock_is_wrong";
            WrongClock::start_with(test, offset, (STAGE, &stage), &before)
        };
        WrongClock::changes_no_wait(&at.direct, WAIT, process).await
    })
    .await
}
