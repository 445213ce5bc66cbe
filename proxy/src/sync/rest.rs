//! How long the daemon rests after a pass, in which changes are gathered.

use std::time::Duration;

/// Passes have at most a fifth of a processor while changes do not end.
const OF_WHAT_IT_TOOK: u32 = 4;
/// Longer ones wait no longer for this: a change is wanted in the kernel within 10 ms.
const LONGEST: Duration = Duration::from_millis(10);

/// The time from the end of a pass that `took` so long to the start of the next one: what was asked for
/// (`minSyncPeriod`), and a multiple of what the pass took. So two changes that come together, as a new
/// Service and its endpoints, do not wait for each other, and a burst goes in a few larger passes.
pub(super) fn after(took: Duration, min_period: Duration) -> Duration {
    min_period.max((took.saturating_mul(OF_WHAT_IT_TOOK)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_rest_is_as_long_as_passes_are() {
        let none_asked_for = Duration::ZERO;
        assert_eq!(after(Duration::ZERO, none_asked_for), Duration::ZERO);
        assert_eq!(after(Duration::from_micros(500), none_asked_for), millis(2));
        assert_eq!(after(millis(2), none_asked_for), millis(8));
        assert_eq!(after(millis(3), none_asked_for), millis(10));
        assert_eq!(after(Duration::MAX, none_asked_for), millis(10));
    }

    #[test]
    fn what_was_asked_for_is_the_least() {
        assert_eq!(after(Duration::ZERO, millis(1000)), millis(1000));
        assert_eq!(after(millis(1), millis(1)), millis(4));
        assert_eq!(after(millis(300), millis(20)), millis(20));
    }
}
