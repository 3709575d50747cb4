//! Processes of their own, which tests kill with a signal that they cannot handle.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use event_conformance::{Act, CaseResult, Desk, Failure, Seen, Stage};
use event_core::RetryPolicy;
use tokio::{sync::watch, time::timeout};

use crate::stage::KAFKA;

/// Tells a process of these tests what it is to consume, and how.
const STAGE: &str = "SWITCHBOARD_TEST_STAGE";
const ROLE: &str = "SWITCHBOARD_TEST_ROLE";

/// How long a process may take to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a process does with the orders of `billing_order`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Holds all.
    Holds,
    /// Holds number 5 and number 12, and finishes the others.
    HoldsTwo,
    /// Fails on all, to be tried again in a moment.
    Fails,
}

impl Role {
    const ALL: [Self; 3] = [Self::Holds, Self::HoldsTwo, Self::Fails];

    fn act(self, seen: &Seen) -> Act {
        match self {
            Self::Holds => Act::Hold,
            Self::HoldsTwo if matches!(seen.number(), 5 | 12) => Act::Hold,
            Self::HoldsTwo => Act::DONE,
            Self::Fails => Act::fail("the bank is closed"),
        }
    }

    fn desk(self, desk: &Desk) -> Desk {
        desk.doing(move |seen| {
            // What the test reads.
            println!("\norder {}", seen.number());
            self.act(seen)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of other tests, which start it"]
async fn a_process_that_is_killed() -> CaseResult {
    // Called with all the others.
    let (Ok(stage), Ok(role)) = (env::var(STAGE), env::var(ROLE)) else {
        return Ok(());
    };
    let role = Role::ALL
        .into_iter()
        .find(|known| format!("{known:?}") == role);
    let role = role.ok_or_else(|| Failure::new("an unknown role"))?;
    let cx = KAFKA.from_text(&stage).await?;
    let policy = RetryPolicy::fixed(Duration::from_millis(400)).attempts(10);
    let queue = cx.queue("billing_order", &role.desk(&cx.desk()));
    let mut running = cx.start(cx.bus(), queue.retry(policy)).await?;
    Ok(running.join().await?)
}

/// A process that consumes, until it is killed or dropped, which kills it too.
#[derive(Debug)]
pub(crate) struct Victim {
    process: Child,
    began: watch::Receiver<Vec<u64>>,
}

impl Victim {
    pub(crate) fn start(at: &Stage, role: Role) -> CaseResult<Self> {
        let mut process = Command::new(env::current_exe()?);
        process.args(["--ignored", "--exact", "process::a_process_that_is_killed"]);
        process.arg("--nocapture");
        process.env(STAGE, at.to_text());
        process.env(ROLE, format!("{role:?}"));
        process.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = process.spawn()?;
        let said = process.stdout.take();
        let (tell, began) = watch::channel(Vec::new());
        thread::spawn(move || {
            let Some(said) = said else { return };
            for line in BufReader::new(said).lines() {
                let Ok(line) = line else { return };
                if let Some(number) = line.strip_prefix("order ").and_then(|n| n.parse().ok()) {
                    tell.send_modify(|began| began.push(number));
                }
            }
        });
        Ok(Self { process, began })
    }

    /// The orders whose handlers it began, as soon as there are this many.
    pub(crate) async fn begins(&mut self, count: usize) -> CaseResult<Vec<u64>> {
        let some = self.began.wait_for(|began| began.len() >= count);
        match timeout(PATIENCE, some).await {
            Ok(Ok(began)) => Ok(began.clone()),
            Ok(Err(_)) => Err(Failure::new("the process has ended")),
            Err(_) => Err(Failure::new(format!(
                "it did not begin with {count} orders"
            ))),
        }
    }

    /// Kills it, and answers the orders whose handlers it began.
    pub(crate) fn kill(mut self) -> CaseResult<Vec<u64>> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(self.began.borrow().clone())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
