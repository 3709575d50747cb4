//! Who may run at the same time: everything, or one suspect alone.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The deliveries in flight of one process, over all its buses.
///
/// A delivery that may have killed a process runs with nothing else in flight, so that a crash can be
/// blamed on it. That concerns the whole process: every bus takes part in [`Process::this`]. A test that
/// plays several processes in one gives each bus a [`Process::separate`].
#[derive(Clone, Debug)]
pub struct Process(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held for reading by every worker with something in flight, for writing by one that runs a suspect.
    gate: Arc<RwLock<()>>,
    /// How many workers wait to run a suspect, so that the others stop starting deliveries.
    waiting: AtomicUsize,
}

/// Held while something is in flight.
pub(crate) type InFlight = OwnedRwLockReadGuard<()>;

/// Held while a suspect runs.
#[derive(Debug)]
pub(crate) struct Alone {
    process: Process,
    _guard: OwnedRwLockWriteGuard<()>,
}

impl Process {
    /// This process.
    pub fn this() -> Self {
        static THIS: LazyLock<Process> = LazyLock::new(Process::separate);
        THIS.clone()
    }

    /// Stands for another process in a test that plays several.
    pub fn separate() -> Self {
        Self(Arc::default())
    }

    /// Whether someone waits to run a suspect. Costs one load.
    pub(crate) fn is_isolating(&self) -> bool {
        self.0.waiting.load(SeqCst) > 0
    }

    /// Waits until no suspect runs.
    pub(crate) async fn enter(&self) -> InFlight {
        self.0.gate.clone().read_owned().await
    }

    /// The same when it is possible at once, which it nearly always is.
    pub(crate) fn try_enter(&self) -> Option<InFlight> {
        self.0.gate.clone().try_read_owned().ok()
    }

    /// Waits until nothing else is in flight. The caller must not hold an [`InFlight`] of its own.
    pub(crate) async fn isolate(&self) -> Alone {
        let waiting = Waiting::new(self);
        let guard = self.0.gate.clone().write_owned().await;
        // From here on `Alone` counts instead, until it is dropped.
        std::mem::forget(waiting);
        Alone {
            process: self.clone(),
            _guard: guard,
        }
    }
}

/// Counts a waiter also when its future is dropped.
struct Waiting<'a>(&'a Process);

impl<'a> Waiting<'a> {
    fn new(process: &'a Process) -> Self {
        process.0.waiting.fetch_add(1, SeqCst);
        Self(process)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, SeqCst);
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.process.0.waiting.fetch_sub(1, SeqCst);
    }
}
