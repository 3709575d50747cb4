//! Running cases: each in a thread and a runtime of its own.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use event_core::Support;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::time::timeout;

use crate::{
    all_cases,
    case::Case,
    context::Context,
    failure::{CaseResult, Failure},
    refusal, scorecard,
    setup::Setup,
};

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The fact holds.
    Holds,
    /// The backend refuses what the fact is about, and says so as it should.
    Refused(String),
    /// The fixture cannot make the fault that the fact is about.
    NotTried(String),
    /// The fact does not hold.
    Failed(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("ok"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::NotTried(why) => write!(f, "not tried: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl Setup {
    /// Runs the suite as a test target with `harness = false`: each case is a test, which can be listed,
    /// filtered and run alone.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = arguments.test_threads.or(self.threads);
        let verdicts: Arc<Mutex<Vec<(Case, Verdict)>>> = Arc::default();
        let trials = all_cases()
            .into_iter()
            .filter(|case| self.points.contains(&case.point))
            .map(|case| {
                let (setup, verdicts) = (self.clone(), verdicts.clone());
                Trial::ignorable_test(case.name, move || {
                    let verdict = setup.verdict(case);
                    let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                    verdicts.push((case, verdict.clone()));
                    completion(verdict)
                })
            })
            .collect();
        let conclusion = libtest_mimic::run(&arguments, trials);
        let verdicts =
            std::mem::take(&mut *verdicts.lock().unwrap_or_else(PoisonError::into_inner));
        // A run of some cases says nothing about the others.
        let complete = verdicts.len() == all_cases().len();
        if let (Some(path), true) = (&self.scorecard, complete)
            && let Err(difference) = scorecard::check(path, &scorecard::scorecard(&verdicts))
        {
            eprintln!("{difference}");
            return ExitCode::FAILURE;
        }
        conclusion.exit_code()
    }

    /// Runs all cases, on as many threads as there are processors, and answers how each ended, in their order.
    pub fn verdicts(&self) -> Vec<(Case, Verdict)> {
        let cases = all_cases();
        let next = AtomicUsize::new(0);
        let verdicts: Mutex<Vec<(usize, Case, Verdict)>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    while let Some(&case) = cases.get(next.fetch_add(1, SeqCst)) {
                        let at = cases
                            .iter()
                            .position(|other| other.name == case.name)
                            .unwrap_or(0);
                        let verdict = self.verdict(case);
                        let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                        verdicts.push((at, case, verdict));
                    }
                });
            }
        });
        let mut verdicts = verdicts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        verdicts.sort_by_key(|(at, ..)| *at);
        verdicts
            .into_iter()
            .map(|(_, case, verdict)| (case, verdict))
            .collect()
    }

    /// Runs one case.
    pub fn verdict(&self, case: Case) -> Verdict {
        let setup = self.clone();
        let (done, verdict) = mpsc::channel();
        // Not joined: a case that never ends would end nothing else.
        let spawned = thread::Builder::new()
            .name(case.name.to_owned())
            .spawn(move || {
                let verdict = catch_unwind(AssertUnwindSafe(|| setup.verdict_here(case)));
                // Nobody listens any more after the limit.
                let _ = done.send(verdict.unwrap_or_else(|panic| Verdict::Failed(text(&*panic))));
            });
        if let Err(error) = spawned {
            return Verdict::Failed(format!("no thread for the case: {error}"));
        }
        verdict
            .recv_timeout(self.limit)
            .unwrap_or_else(|_| Verdict::Failed(format!("it did not end within {:?}", self.limit)))
    }

    fn verdict_here(&self, case: Case) -> Verdict {
        let mut builder = if self.paused {
            tokio::runtime::Builder::new_current_thread()
        } else {
            tokio::runtime::Builder::new_multi_thread()
        };
        builder
            .worker_threads(2)
            .enable_all()
            .start_paused(self.paused);
        let runtime = match builder.build() {
            Ok(runtime) => runtime,
            Err(error) => return Verdict::Failed(format!("no runtime for the case: {error}")),
        };
        let verdict = runtime.block_on(self.attempt(case));
        // Not waiting for threads of a client's that hang.
        runtime.shutdown_background();
        verdict
    }

    async fn attempt(&self, case: Case) -> Verdict {
        let prefix = format!("{}.{}.", self.run, case.name);
        let cx = match Context::open(self, &prefix).await {
            Ok(cx) => cx,
            Err(failure) => return Verdict::Failed(format!("cannot begin: {failure}")),
        };
        let capabilities = cx.bus().capabilities().clone();
        let refused = case
            .needs
            .iter()
            .find_map(|&need| match capabilities.support(need) {
                Support::Refused(why) => Some((need, why)),
                _ => None,
            });
        let result = match refused {
            Some((need, _)) => self.in_time(refusal::check(&cx, need)).await,
            None => self.in_time((case.run)(cx.clone())).await,
        };
        let cleaned = self.in_time(cx.clean_up()).await;
        match (result, refused) {
            (Err(failure), _) if failure.is_not_tried() => {
                Verdict::NotTried(failure.text().to_owned())
            }
            (Err(failure), _) => Verdict::Failed(failure.to_string()),
            (Ok(()), Some((_, why))) => Verdict::Refused(why.to_owned()),
            (Ok(()), None) => match cleaned {
                Ok(()) => Verdict::Holds,
                Err(failure) => Verdict::Failed(format!("it held, but then: {failure}")),
            },
        }
    }

    /// A case may not wait for ever; on a paused clock it would do so without a timer to jump to.
    async fn in_time(&self, case: impl Future<Output = CaseResult>) -> CaseResult {
        let most = if self.paused {
            Duration::from_secs(3_600)
        } else {
            self.limit
        };
        timeout(most, case)
            .await
            .unwrap_or_else(|_| Err(Failure::new(format!("it did not end within {most:?}"))))
    }
}

fn completion(verdict: Verdict) -> Result<Completion, Failed> {
    match verdict {
        Verdict::Holds => Ok(Completion::Completed),
        Verdict::Refused(why) => Ok(Completion::ignored_with(format!("refused: {why}"))),
        Verdict::NotTried(why) => Ok(Completion::ignored_with(format!("not tried: {why}"))),
        Verdict::Failed(why) => Err(why.into()),
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", text.unwrap_or("no message"))
}
