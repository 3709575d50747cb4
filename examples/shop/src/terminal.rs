//! Standard error: messages, logs, and a progress bar that gives way to both.

use std::{
    fmt,
    io::{self, Write},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What people see while the shop works. Clones share one progress bar, which is hidden at first.
#[derive(Clone, Debug)]
pub struct Terminal {
    bar: ProgressBar,
}

/// From this length of a file on, in bytes, a progress bar is worth looking at: some 2,000 orders.
const LONG: u64 = 256 << 10;

impl Terminal {
    /// Shows a progress bar, if standard error is a terminal and there is much to read. How much there is,
    /// is not known of what comes through a pipe.
    pub fn start(&self, bytes: Option<u64>) {
        let template = match bytes {
            Some(bytes) if bytes < LONG => return,
            Some(bytes) => {
                self.bar.set_length(bytes);
                "{wide_bar} {percent:>3} %  {msg}  {eta} left"
            }
            None => "{spinner} {msg}  {elapsed}",
        };
        // The templates above are legal; with any other the bar would only look different.
        let style = ProgressStyle::with_template(template);
        self.bar
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
    }

    /// Moves the progress bar.
    pub fn advance(&self, bytes: u64, orders: u64) {
        self.bar.set_message(format!("{orders} orders"));
        self.bar.inc(bytes);
    }

    /// Takes the progress bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line.
    pub fn report(&self, line: impl fmt::Display) {
        // Nobody listens when this fails, and there is nowhere else to say it.
        let _ = self.beside_bar(|| writeln!(io::stderr().lock(), "{line}"));
    }

    /// Does something that prints, while the progress bar is out of the way.
    pub fn beside_bar<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }
}

/// What is logged. Never fails: the logger would print that, and there is nowhere to print it.
impl Write for Terminal {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = self.beside_bar(|| io::stderr().lock().write_all(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
