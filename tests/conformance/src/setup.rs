//! How the suite is run against a backend.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use event_core::{Result, Transport};

use crate::{case::Point, fixture::Fixture};

type Open = dyn Fn(&str) -> Box<dyn Fixture> + Send + Sync;
type Wrap = dyn Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync;

/// How the suite is run against a backend: where connections come from, and how time passes.
#[derive(Clone)]
pub struct Setup {
    open: Arc<Open>,
    wrap: Option<Arc<Wrap>>,
    pub(crate) paused: bool,
    pub(crate) lease: Duration,
    pub(crate) patience: Duration,
    pub(crate) quiet: Duration,
    pub(crate) limit: Duration,
    pub(crate) threads: Option<usize>,
    pub(crate) points: Vec<Point>,
    pub(crate) scorecard: Option<PathBuf>,
    pub(crate) run: String,
}

impl Setup {
    /// A set-up for a real broker. The function makes a fixture for each case; it is given the prefix of the
    /// case's names, which no other case of any run has.
    pub fn new<F: Fixture>(open: impl Fn(&str) -> F + Send + Sync + 'static) -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            open: Arc::new(move |prefix| Box::new(open(prefix))),
            wrap: None,
            paused: false,
            lease: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            quiet: Duration::from_millis(500),
            limit: Duration::from_secs(300),
            threads: None,
            points: Point::ALL.to_vec(),
            scorecard: None,
            // Two processes may begin in one millisecond.
            run: format!("t{:x}p{:x}", since.as_millis(), std::process::id()),
        }
    }

    /// Runs each case on a clock of its own that stands still while something is to be done, and jumps when
    /// all wait: for backends that take their time from tokio. The suite then takes seconds.
    pub fn with_paused_clock(mut self) -> Self {
        self.paused = true;
        self.patience = Duration::from_secs(120);
        self.quiet = Duration::from_secs(30);
        self.limit = Duration::from_secs(60);
        // Nobody else is on the broker.
        self.run = "t".to_owned();
        self
    }

    /// The lease of the cases' queues: the shortest that the broker keeps well. 5 seconds by default.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a case waits for something that must happen. 30 seconds by default.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long a case waits for something that must not happen. Half a second by default.
    pub fn with_quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// How long a case may take in all, on the clock on the wall. 5 minutes by default, 1 with a paused clock.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How many cases run at the same time, if the command line does not say. As many as there are processors by
    /// default; with a broker elsewhere cases mostly wait.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The points of the contract that are tried; all of them by default. Without all there is no scorecard.
    pub fn with_points(mut self, points: impl IntoIterator<Item = Point>) -> Self {
        self.points = points.into_iter().collect();
        self
    }

    /// Compares the scorecard with this file after a run of all cases; writes it instead when
    /// `SWITCHBOARD_WRITE` is set.
    pub fn with_scorecard(mut self, path: impl Into<PathBuf>) -> Self {
        self.scorecard = Some(path.into());
        self
    }

    /// Puts something between the suite and every connection, for example one of the
    /// [broken transports](crate::broken).
    pub fn with_wrapper(
        mut self,
        wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
    ) -> Self {
        self.wrap = Some(Arc::new(wrap));
        self
    }

    pub(crate) fn open(&self, prefix: &str) -> Box<dyn Fixture> {
        (self.open)(prefix)
    }

    pub(crate) async fn connect(&self, fixture: &dyn Fixture) -> Result<Arc<dyn Transport>> {
        let transport = fixture.connect().await?;
        Ok(match &self.wrap {
            Some(wrap) => wrap(transport),
            None => transport,
        })
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("paused", &self.paused)
            .field("lease", &self.lease)
            .field("patience", &self.patience)
            .field("quiet", &self.quiet)
            .finish_non_exhaustive()
    }
}
