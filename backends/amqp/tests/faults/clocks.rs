//! Clocks that are wrong: all waits are times to live on the broker.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use event_conformance::{Act, CaseResult, Failure, ensure, ensure_eq};
use event_core::{RetryPolicy, Selection};

use crate::stage::{Stage, on_rabbitmq, publish};

/// Tells a process of this test what it is to consume.
const STAGE: &str = "SWITCHBOARD_TEST_STAGE";
/// A step of waits.
const WAIT: Duration = Duration::from_millis(1_600);
const HOUR: Duration = Duration::from_secs(3_600);

/// A process of its own whose clock is wrong, until it is dropped.
struct Process(Child);

impl Process {
    fn start(at: &Stage, offset: &str) -> CaseResult<Self> {
        let mut process = Command::new(env::current_exe()?);
        process.args([
            "--ignored",
            "--exact",
            "clocks::a_process_whose_clock_is_wrong",
        ]);
        process.env(STAGE, at.to_text());
        process
            .env("LD_PRELOAD", faketime()?)
            .env("FAKETIME", offset);
        // Nobody sets the clock that only counts.
        process.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        process.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(process.spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The library that gives a process another time.
fn faketime() -> CaseResult<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .ok_or_else(|| {
            Failure::new("the Debian package `faketime` is missing; `scripts/test` installs it")
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of fault 26, which starts it"]
async fn a_process_whose_clock_is_wrong() -> CaseResult {
    // Called with all the others.
    let Ok(stage) = env::var(STAGE) else {
        return Ok(());
    };
    let cx = Stage::from_text(&stage).await?;
    let desk = cx.desk().doing(|_| Act::fail("the bank is closed"));
    let policy = RetryPolicy::fixed(WAIT).attempts(3);
    let queue = cx.queue("billing_order", &desk).retry(policy);
    let mut running = cx.start(cx.bus(), queue).await?;
    Ok(running.join().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_26_a_clock_that_is_an_hour_off_changes_no_wait() -> CaseResult {
    on_rabbitmq("fault_26", "", async |at| {
        let cx = &at.direct;
        cx.declare(&[&cx.spec("billing_order", &["order.*.submit"])?])
            .await?;
        for offset in ["+1h", "-1h"] {
            let process = Process::start(at, offset)?;
            let begin = Instant::now();
            publish(cx.bus(), 7..=7).await?;
            let letters = cx.dead_letters("billing_order", 1).await?;
            let took = begin.elapsed();
            ensure!(took >= WAIT * 2, "{offset}: dead after {took:?}");
            ensure_eq!(letters.len(), 1, "{offset}: dead letters");
            ensure_eq!(letters[0].attempts(), 3, "{offset}: attempts");
            let failed = letters[0].first_failure();
            let failed = failed.ok_or_else(|| Failure::new("it does not say when it failed"))?;
            let now = SystemTime::now();
            let off = match failed.duration_since(now) {
                Ok(ahead) => ahead,
                Err(behind) => behind.duration(),
            };
            ensure!(off > HOUR * 9 / 10, "{offset}: the clock was right");

            drop(process);
            // By a process whose clock is another one.
            let dead = cx.bus().dead_letters("billing_order").await?;
            ensure_eq!(dead.replay(Selection::All).await?, 1, "{offset}: replayed");
            let mut consumer = cx.consumer("billing_order").await?;
            let delivery = consumer.next().await?;
            consumer.ack(&delivery).await?;
            consumer.gets_nothing().await?;
            consumer.crash().await;
        }
        Ok(())
    })
    .await
}
