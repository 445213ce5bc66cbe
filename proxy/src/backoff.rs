//! How long to wait before trying again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Waits that double from the first to the longest, each shortened by up to a quarter at random,
/// so that a thousand nodes do not come back together. Never ends.
#[derive(Clone, Debug)]
pub struct Doubling {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Doubling {
    /// From `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        let random = RandomState::new().build_hasher().finish() % 1024;
        let shortening = wait.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 4096.0);
        Some(wait - shortening)
    }
}

impl kube::runtime::utils::Backoff for Doubling {
    fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let waits: Vec<_> = Doubling::new(Duration::from_millis(100), Duration::from_millis(350))
            .take(5)
            .collect();
        for (wait, full) in waits.iter().zip([100, 200, 350, 350, 350]) {
            let full = Duration::from_millis(full);
            assert!(
                *wait <= full && *wait >= full.mul_f64(0.75),
                "{wait:?} of {full:?}"
            );
        }
    }
}
