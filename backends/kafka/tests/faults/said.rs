//! What the backend says in its events, for tests that it is said at all.

use std::{
    io,
    sync::{Mutex, Once, PoisonError},
};

use tracing_subscriber::fmt;

static SAID: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Book;

impl io::Write for Book {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has warnings and errors written down from now on.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let book = fmt().with_writer(|| Book).with_ansi(false);
        // All threads of the backend's are to be heard, which only the one for all hears.
        book.with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .init();
    });
}

/// The lines with both of these texts.
pub(crate) fn lines(one: &str, other: &str) -> Vec<String> {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&said);
    let found = text
        .lines()
        .filter(|line| line.contains(one) && line.contains(other));
    found.map(str::to_owned).collect()
}
