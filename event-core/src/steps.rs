//! The waits that retries are rounded up to on brokers that need a queue or a topic for each, for people who write
//! backends.

use std::time::Duration;

/// The waits that retries are rounded up to, ascending, in milliseconds.
///
/// Fixed, because some brokers cannot list what they have: what a queue has left over is found under names made of
/// these alone when it is deleted.
pub const RETRY_STEPS: [u64; 27] = {
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    [
        100,
        200,
        400,
        800,
        1_600,
        3_200,
        6_400,
        12_800,
        25_600,
        MINUTE,
        2 * MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        20 * MINUTE,
        40 * MINUTE,
        HOUR,
        2 * HOUR,
        4 * HOUR,
        8 * HOUR,
        16 * HOUR,
        DAY,
        2 * DAY,
        4 * DAY,
        8 * DAY,
        16 * DAY,
        32 * DAY,
        // The longest that a queue of RabbitMQ can have is a little more than 49 days.
        48 * DAY,
    ]
};

/// The step of [`RETRY_STEPS`] that a wait is rounded up to: nothing for no wait at all.
pub fn retry_step(delay: Duration) -> Option<u64> {
    if delay.is_zero() {
        return None;
    }
    let millis = u64::try_from(delay.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    let longest = RETRY_STEPS[RETRY_STEPS.len() - 1];
    Some(
        RETRY_STEPS
            .into_iter()
            .find(|step| *step >= millis)
            .unwrap_or(longest),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_to_a_step() {
        let step = |millis| retry_step(Duration::from_millis(millis));
        assert_eq!(step(0), None);
        assert_eq!(step(1), Some(100));
        assert_eq!(step(100), Some(100));
        assert_eq!(step(101), Some(200));
        assert_eq!(step(60_000), Some(60_000));
        assert_eq!(step(u64::MAX), Some(48 * 24 * 3_600_000));
        assert_eq!(retry_step(Duration::from_nanos(1)), Some(100));
    }

    #[test]
    fn the_steps_ascend_and_fit_into_a_ttl() {
        assert!(RETRY_STEPS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(RETRY_STEPS.iter().all(|step| u32::try_from(*step).is_ok()));
    }
}
