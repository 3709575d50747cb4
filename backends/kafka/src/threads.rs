//! Threads for what waits: Kafka's client does in many of its calls.

use std::thread::{self, JoinHandle};

use event_core::{Error, ErrorKind, Result};

/// Starts a thread.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot start a thread").with_source(error)
    })
}

/// Drops clients on a thread of their own: each waits for threads of its own.
pub(crate) fn end(clients: impl Send + 'static) {
    // Without a thread they are dropped here.
    let _ = spawn("switchboard-end", move || drop(clients));
}
