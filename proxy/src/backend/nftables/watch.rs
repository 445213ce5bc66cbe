//! Whether somebody else changed something, by the rule set's generation: the kernel counts it up
//! with every transaction of anyone in the network namespace.

use std::time::{Duration, Instant};

/// Reading all elements again takes one part in so many of the time at most,
pub(super) const SHARE: u32 = 20;
/// unless it takes no longer than this.
const QUICK: Duration = Duration::from_secs(1);

/// What is known about the others.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The generation in which our tables held what they should, and since which only we changed
    /// something.
    intact: Option<u32>,
    /// When the elements may be read again.
    rest: Option<Instant>,
}

impl Watch {
    /// Whether nothing can have happened up to `generation`.
    pub(super) fn knows(&self, generation: u32) -> bool {
        self.intact == Some(generation)
    }

    /// A pass of ours committed so many transactions between two generations.
    pub(super) fn passed(&mut self, before: Option<u32>, commits: u32, after: Option<u32>) {
        let ours = before.map(|before| before.wrapping_add(commits));
        if self.intact.is_none() || self.intact != before || after.is_none() || ours != after {
            self.intact = None;
        } else {
            self.intact = after;
        }
    }

    /// Whether the elements may be read now.
    pub(super) fn may_read(&self) -> bool {
        self.rest.is_none_or(|until| until <= Instant::now())
    }

    /// Everything was read since `started`, when the rule set was in `generation`.
    pub(super) fn read(&mut self, started: Instant, generation: u32, intact: bool) {
        let took: Duration = started.elapsed();
        self.rest = (took > QUICK).then(|| started + took * SHARE);
        self.intact = intact.then_some(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(generation: u32) -> Watch {
        let mut watch = Watch::default();
        watch.read(Instant::now(), generation, true);
        watch
    }

    #[test]
    fn our_own_transactions_are_nobody_elses() {
        let mut watch = watch(7);
        watch.passed(Some(7), 2, Some(9));
        assert!(watch.knows(9) && !watch.knows(10));
        // Somebody came between.
        watch.passed(Some(9), 1, Some(11));
        assert!(!watch.knows(11));
        // What we do afterwards does not make that undone.
        watch.passed(Some(11), 1, Some(12));
        assert!(!watch.knows(12));
    }

    #[test]
    fn who_came_before_a_pass_is_not_forgotten() {
        let mut watch = watch(7);
        watch.passed(Some(8), 1, Some(9));
        assert!(!watch.knows(9));
    }

    #[test]
    fn a_long_reading_is_followed_by_a_long_rest() {
        let mut watch = Watch::default();
        assert!(watch.may_read());
        watch.read(Instant::now() - Duration::from_secs(3), 1, true);
        assert!(!watch.may_read());
        watch.read(Instant::now(), 1, true);
        assert!(watch.may_read());
    }
}
