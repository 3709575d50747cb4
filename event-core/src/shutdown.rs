//! How a service is told to end: stop, then stop now.

use std::{fmt, future::Future, pin::Pin};

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When a service stops, in two stages: at the first it takes nothing more and finishes what it has
/// started, until its shutdown deadline; at the second it stops at once.
///
/// Nothing is lost in either: what was not finished goes back to its queue without using an attempt.
pub struct Shutdown {
    pub(crate) stop: Signal,
    pub(crate) now: Signal,
}

impl Shutdown {
    /// Stops when the first future ends, and at once when the second does.
    pub fn new(
        stop: impl Future<Output = ()> + Send + 'static,
        now: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            stop: Box::pin(stop),
            now: Box::pin(now),
        }
    }

    /// The two stages, for a program that does more than run one service.
    pub fn into_parts(
        self,
    ) -> (
        impl Future<Output = ()> + Send + Unpin + 'static,
        impl Future<Output = ()> + Send + Unpin + 'static,
    ) {
        (self.stop, self.now)
    }

    /// Never stops.
    pub fn never() -> Self {
        Self::new(std::future::pending(), std::future::pending())
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}

/// What `Service::run` takes: a [`Shutdown`], or any future as one with a single stage.
pub trait IntoShutdown {
    /// The shutdown.
    fn into_shutdown(self) -> Shutdown;
}

impl IntoShutdown for Shutdown {
    fn into_shutdown(self) -> Shutdown {
        self
    }
}

impl<F: Future<Output = ()> + Send + 'static> IntoShutdown for F {
    fn into_shutdown(self) -> Shutdown {
        Shutdown::new(self, std::future::pending())
    }
}

/// Stops at the first SIGTERM or SIGINT (Ctrl-C), and at once at the second.
///
/// # Panics
/// Outside of a tokio runtime, or when the system refuses to install the handlers.
pub fn shutdown_signal() -> Shutdown {
    let (stop, first) = tokio::sync::oneshot::channel();
    let (now, second) = tokio::sync::oneshot::channel();
    let mut signals = Signals::listen();
    tokio::spawn(async move {
        signals.next().await;
        // The service may be gone by then.
        let _ = stop.send(());
        signals.next().await;
        let _ = now.send(());
    });
    let ended = |signal: tokio::sync::oneshot::Receiver<()>| async move {
        if signal.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Shutdown::new(ended(first), ended(second))
}

#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| match signal(kind) {
            Ok(signal) => signal,
            // Without handlers the process could not be stopped cleanly: better seen at start.
            Err(error) => panic!("cannot listen for signals: {error}"),
        };
        Self(
            listen(SignalKind::terminate()),
            listen(SignalKind::interrupt()),
        )
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Self {
        Self
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
