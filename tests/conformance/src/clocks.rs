//! Processes whose clocks are wrong.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use event_core::{Delivery, RetryPolicy, Selection};

use crate::{
    context::Context,
    desk::Act,
    ensure, ensure_eq,
    failure::{CaseResult, Failure},
    orders::order,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A process with a wrong clock, until it is dropped: a test of the running test binary, alone. Needs `faketime`,
/// which `scripts/test` installs.
#[derive(Debug)]
pub struct WrongClock(Child);

impl WrongClock {
    /// Starts the ignored test of this name, with a clock that is off by so much (`+1h`) and a variable in its
    /// environment.
    ///
    /// # Errors
    /// `faketime` is missing, or there are no processes left.
    pub fn start(test: &str, offset: &str, variable: (&str, &str)) -> CaseResult<Self> {
        Self::start_with(test, offset, variable, &[])
    }

    /// The same with libraries that come before the one that gives it another time.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn start_with(
        test: &str,
        offset: &str,
        (variable, value): (&str, &str),
        before: &[PathBuf],
    ) -> CaseResult<Self> {
        let libraries = before.iter().cloned().chain([library()?]);
        let libraries: Vec<_> = libraries.map(PathBuf::into_os_string).collect();
        let mut process = Command::new(env::current_exe()?);
        process.args(["--ignored", "--exact", test]);
        process.env(variable, value);
        process
            .env("LD_PRELOAD", libraries.join(OsStr::new(":")))
            .env("FAKETIME", offset);
        // Nobody sets the clock that only counts.
        process.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        process.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(process.spawn()?))
    }

    /// What such a process does: it consumes `billing_order`, and fails three times on everything, with this wait in
    /// between. Never ends by itself.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn fails(cx: &Context, wait: Duration) -> CaseResult {
        let desk = cx.desk().doing(|_| Act::fail("the bank is closed"));
        let policy = RetryPolicy::fixed(wait).attempts(3);
        let queue = cx.queue("billing_order", &desk).retry(policy);
        let mut running = cx.start(cx.bus(), queue).await?;
        Ok(running.join().await?)
    }

    /// Fault 26: a process whose clock is an hour off retries no sooner and no later, and so does one whose clock is
    /// right with what that one left.
    ///
    /// # Errors
    /// It did not.
    pub async fn changes_no_wait(
        cx: &Context,
        wait: Duration,
        start: impl Fn(&str) -> CaseResult<Self>,
    ) -> CaseResult {
        cx.declare(&[&cx.spec("billing_order", &["order.*.submit"])?])
            .await?;
        for offset in ["+1h", "-1h"] {
            let process = start(offset)?;
            let begin = Instant::now();
            order(7).publish(cx.bus()).await?;
            let letters = cx.dead_letters("billing_order", 1).await?;
            let took = begin.elapsed();
            ensure!(took >= wait * 2, "{offset}: dead after {took:?}");
            ensure_eq!(letters.len(), 1, "{offset}: dead letters");
            ensure_eq!(letters[0].attempts(), 3, "{offset}: attempts");
            let failed = letters[0].first_failure();
            let failed = failed.ok_or_else(|| Failure::new("it does not say when it failed"))?;
            let off = match failed.duration_since(SystemTime::now()) {
                Ok(ahead) => ahead,
                Err(behind) => behind.duration(),
            };
            ensure!(off > HOUR * 9 / 10, "{offset}: the clock was right");

            drop(process);
            // By a process whose clock is another one.
            let dead = cx.bus().dead_letters("billing_order").await?;
            ensure_eq!(dead.replay(Selection::All).await?, 1, "{offset}: replayed");
            let mut consumer = cx.consumer("billing_order").await?;
            let mut came = vec![consumer.next().await?];
            came.extend(consumer.rest().await?);
            for delivery in &came {
                consumer.ack(delivery).await?;
            }
            // It was killed, perhaps before the broker knew that its last attempt was done: that comes again.
            let attempts = came.iter().map(Delivery::attempt);
            let (last, replayed): (Vec<_>, Vec<_>) = attempts.partition(|attempt| *attempt == 3);
            ensure_eq!(replayed, [1], "{offset}: attempts of what came");
            ensure!(last.len() <= 1, "{offset}: the last attempt came {last:?}");
            consumer.crash().await;
        }
        Ok(())
    }
}

impl Drop for WrongClock {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The library that gives a process another time.
fn library() -> CaseResult<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .ok_or_else(|| {
            Failure::new("the Debian package `faketime` is missing; `scripts/test` installs it")
        })
}
