//! What came of a run of the whole shop.

use std::{fmt, time::Duration};

use crate::{outstanding::Handled, submission::Submitted};

/// What came of a run of the whole shop.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What became of the lines.
    pub submitted: Submitted,
    /// What each service did.
    pub handled: Vec<(&'static str, Handled)>,
    /// Orders that were published and that not every service has handled.
    pub outstanding: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// Whether every line became an order that all services handled.
    pub fn is_success(&self) -> bool {
        let dead_letters = self
            .handled
            .iter()
            .any(|(_, handled)| handled.dead_letters > 0);
        self.submitted.is_complete() && self.outstanding == 0 && !dead_letters
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Submitted {
            published,
            refused,
            failed,
        } = self.submitted;
        let orders = published + refused + failed;
        writeln!(
            f,
            "orders    {orders}: {published} published, {refused} refused, {failed} not published"
        )?;
        for (service, handled) in &self.handled {
            let Handled {
                done,
                retries,
                dead_letters,
            } = handled;
            let rows = done + retries + dead_letters;
            writeln!(
                f,
                "{service:<8}  {rows} rows: {done} done, {retries} retries, {dead_letters} dead letters"
            )?;
        }
        if self.outstanding > 0 {
            writeln!(f, "left      {} orders are not handled", self.outstanding)?;
        }
        let seconds = self.elapsed.as_secs_f64();
        // Of no time at all there is no rate.
        let rate = published as f64 / seconds.max(1e-6);
        write!(f, "time      {seconds:.3} s, {rate:.0} orders per second")
    }
}
