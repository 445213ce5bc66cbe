//! When the program on packets belongs at the interfaces: as long as somebody needs it, and then until
//! the connections are over that it translates.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(super) struct Presence {
    there: bool,
    /// Since when nobody needs it.
    idle: Option<Instant>,
}

impl Presence {
    /// Nobody has said yet who needs it; it may be there all the same, of an earlier daemon.
    pub(super) const fn adopt(there: bool) -> Self {
        Self { there, idle: None }
    }

    /// Whether it belongs there.
    pub(super) const fn is_due(&self) -> bool {
        self.there
    }

    /// Whether somebody needs it from now on. Who does not need it any more may do so again, so it
    /// stays for now.
    pub(super) fn set_needed(&mut self, needed: bool, now: Instant) {
        if needed {
            self.there = true;
            self.idle = None;
        } else {
            self.idle.get_or_insert(now);
        }
    }

    /// No connection is left: ends it if nobody has needed it for as long as `patience`, and gives
    /// whether that was so. A packet that came as the last Service went has long had its connection
    /// counted by then.
    pub(super) fn end(&mut self, now: Instant, patience: Duration) -> bool {
        let idle = self.idle.map(|since| now.saturating_duration_since(since));
        let ends = self.there && idle.is_some_and(|idle| idle >= patience);
        self.there &= !ends;
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn it_comes_at_once_and_goes_after_a_while() {
        let start = Instant::now();
        let mut presence = Presence::adopt(false);
        assert!(!presence.end(start, Duration::ZERO));
        presence.set_needed(false, start);
        assert!(!presence.is_due());
        presence.set_needed(true, start);
        assert!(presence.is_due());
        assert!(
            !presence.end(start + PATIENCE * 9, PATIENCE),
            "it is needed"
        );

        let last = start + PATIENCE;
        presence.set_needed(false, last);
        // Not counted from here on.
        presence.set_needed(false, last + PATIENCE / 2);
        assert!(!presence.end(last + PATIENCE / 2, PATIENCE));
        assert!(presence.is_due());
        assert!(presence.end(last + PATIENCE, PATIENCE));
        assert!(!presence.is_due());
        assert!(!presence.end(last + PATIENCE * 2, PATIENCE), "it is gone");
    }

    #[test]
    fn whoever_needs_it_again_keeps_it() {
        let start = Instant::now();
        let mut presence = Presence::adopt(true);
        assert!(presence.is_due());
        assert!(!presence.end(start + PATIENCE, PATIENCE), "nobody said so");
        presence.set_needed(false, start);
        presence.set_needed(true, start + PATIENCE);
        assert!(!presence.end(start + PATIENCE * 2, PATIENCE));
        presence.set_needed(false, start + PATIENCE * 2);
        assert!(!presence.end(start + PATIENCE * 2, PATIENCE));
        assert!(presence.is_due());
    }
}
