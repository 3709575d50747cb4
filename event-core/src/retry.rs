//! How often and when a failed delivery is tried again.

use std::{fmt, sync::Arc, time::Duration};

use crate::{error::BoxError, outcome::Outcome};

/// How often and when a failed delivery is tried again. By default 5 attempts in all, with waits from
/// 100 ms doubling to 60 s.
#[derive(Clone)]
pub struct RetryPolicy {
    attempts: u32,
    first: Duration,
    most: Duration,
    factor: u32,
    jitter: bool,
    unknown: Duration,
    decide: Option<Decide>,
}

type Decide = Arc<dyn Fn(&BoxError) -> Outcome + Send + Sync>;

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100), Duration::from_secs(60))
    }
}

impl RetryPolicy {
    /// Waits that double from the first to the most.
    pub fn exponential(first: Duration, most: Duration) -> Self {
        Self {
            attempts: 5,
            first,
            most: most.max(first),
            factor: 2,
            jitter: false,
            unknown: Duration::from_secs(24 * 60 * 60),
            decide: None,
        }
    }

    /// The same wait each time.
    pub fn fixed(wait: Duration) -> Self {
        Self {
            factor: 1,
            ..Self::exponential(wait, wait)
        }
    }

    /// No second attempt: a failure makes a dead letter. A message may still wait for a handler that knows it:
    /// see [`unknown`](Self::unknown).
    pub fn never() -> Self {
        Self::fixed(Duration::ZERO).attempts(1)
    }

    /// How many attempts there are in all, the first included; at least 1.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Spreads each wait over its second half, so that what failed together does not come back together.
    ///
    /// Only where the backend can wait for any time; others keep to their steps.
    pub fn jitter(mut self) -> Self {
        self.jitter = true;
        self
    }

    /// How long a message may wait, in all, for a handler that knows its key. 24 hours by default.
    ///
    /// During a deployment another version of the service may know it. The waits use no attempts. With no time
    /// at all it becomes a dead letter at once, and with [`never`](Self::never) nothing waits: for backends that
    /// refuse delayed retries.
    pub fn unknown(mut self, limit: Duration) -> Self {
        self.unknown = limit;
        self
    }

    /// Decides by the error of a handler that did not decide itself; what is returned stands as if the
    /// handler had returned it. `Outcome::Ack` drops the failure.
    pub fn on_error(
        mut self,
        decide: impl Fn(&BoxError) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        self.decide = Some(Arc::new(decide));
        self
    }

    /// The wait after this attempt, or nothing when it was the last.
    pub fn wait_after(&self, attempt: u32) -> Option<Duration> {
        (attempt < self.attempts).then(|| self.backoff(attempt))
    }

    /// All waits, ascending and each once, before any jitter: for backends with one queue for each.
    pub fn waits(&self) -> Vec<Duration> {
        let mut waits: Vec<_> = (1..self.attempts)
            .map(|attempt| self.step(attempt))
            .collect();
        waits.dedup();
        waits
    }

    pub(crate) fn allowed(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn decide(&self, error: &BoxError) -> Outcome {
        self.decide
            .as_ref()
            .map_or(Outcome::Retry, |decide| decide(error))
    }

    pub(crate) fn unknown_limit(&self) -> Duration {
        self.unknown
    }

    /// The wait of a message that no handler here knows: 1 s doubling to 60 s.
    pub(crate) fn unknown_wait(tries: u32) -> Duration {
        Duration::from_secs(1 << tries.min(6)).min(Duration::from_secs(60))
    }

    fn backoff(&self, attempt: u32) -> Duration {
        let step = self.step(attempt);
        if self.jitter {
            step.mul_f64(0.5 + fastrand::f64() / 2.0)
        } else {
            step
        }
    }

    fn step(&self, attempt: u32) -> Duration {
        // Saturating: a wait beyond the most is the most.
        let factor = self
            .factor
            .checked_pow(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first
            .checked_mul(factor)
            .unwrap_or(self.most)
            .min(self.most)
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("attempts", &self.attempts)
            .field("first", &self.first)
            .field("most", &self.most)
            .field("jitter", &self.jitter)
            .field("unknown", &self.unknown)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let policy = RetryPolicy::default().attempts(20);
        assert_eq!(policy.wait_after(1), Some(Duration::from_millis(100)));
        assert_eq!(policy.wait_after(4), Some(Duration::from_millis(800)));
        assert_eq!(policy.wait_after(19), Some(Duration::from_secs(60)));
        assert_eq!(policy.wait_after(20), None);
        assert_eq!(policy.waits().len(), 11);
    }

    #[test]
    fn jitter_stays_within_the_second_half() {
        let policy = RetryPolicy::fixed(Duration::from_secs(2)).jitter();
        for _ in 0..1_000 {
            let wait = policy.wait_after(1).unwrap();
            assert!(
                (Duration::from_secs(1)..=Duration::from_secs(2)).contains(&wait),
                "{wait:?}"
            );
        }
    }

    #[test]
    fn a_policy_of_one_attempt_has_no_waits() {
        assert_eq!(RetryPolicy::never().wait_after(1), None);
        assert!(RetryPolicy::never().waits().is_empty());
        assert_eq!(
            RetryPolicy::fixed(Duration::from_secs(1)).waits(),
            [Duration::from_secs(1)]
        );
    }
}
