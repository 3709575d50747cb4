//! The broker's clock, as far as it is known here.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::shared::lock;

/// The broker's clock: what it said last, and how long ago that was.
///
/// Its answers are a moment old when they are heard, so this clock is late by that much and never early. Neither a
/// wrong clock of this machine nor one that is set while it runs changes anything.
#[derive(Debug, Default)]
pub(crate) struct BrokerClock(Mutex<Option<(Instant, i64)>>);

impl BrokerClock {
    /// The broker stamped something with this time, in milliseconds since 1970, and says so now.
    pub(crate) fn heard(&self, millis: i64) {
        *lock(&self.0) = Some((Instant::now(), millis));
    }

    /// The broker stamped something with this time at some moment before: its clock shows at least this.
    pub(crate) fn is_past(&self, millis: i64) {
        let mut heard = lock(&self.0);
        if heard.is_none_or(|(at, then)| then + millis_since(at) < millis) {
            *heard = Some((Instant::now(), millis));
        }
    }

    /// When the broker's clock will show this time, on the clock of this process that nobody sets; nothing while the
    /// broker has not been heard, which it is soon after every connection was made.
    pub(crate) fn reaches(&self, millis: i64) -> Option<Instant> {
        let (heard, then) = (*lock(&self.0))?;
        let ahead = u64::try_from(millis.saturating_sub(then)).unwrap_or(0);
        Some(heard + Duration::from_millis(ahead))
    }
}

fn millis_since(at: Instant) -> i64 {
    i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_says_counts() {
        let clock = BrokerClock::default();
        assert!(clock.reaches(0).is_none());
        let before = Instant::now();
        clock.heard(5_000);
        let in_a_minute = clock.reaches(65_000).unwrap();
        assert!(in_a_minute >= before + Duration::from_secs(60));
        assert!(in_a_minute <= Instant::now() + Duration::from_secs(60));
        assert!(clock.reaches(4_000).unwrap() <= Instant::now());
        clock.is_past(3_000);
        assert_eq!(clock.reaches(65_000), Some(in_a_minute));
        clock.is_past(65_000);
        assert!(clock.reaches(65_000).unwrap() <= Instant::now());
    }
}
