//! How many ICMP errors are made: nobody who sends packets under others' names shall have them
//! answered without end.

/// Nanoseconds between one error and the next: 1,000 a second, as `net.ipv4.icmp_msgs_per_sec` long
/// had it by default (Documentation/networking/ip-sysctl.rst).
const INTERVAL: u64 = 1_000_000;
/// How many go at once after a silence (`net.ipv4.icmp_msgs_burst`).
const BURST: u64 = 50;

/// What one processor may still say. Zero is one that has said nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    /// When all that was said would have been, one after the other.
    paid: u64,
}

impl Limit {
    /// Whether one more may be said at `now`, in nanoseconds of the monotonic clock; that is then
    /// said.
    #[inline(always)]
    pub fn take(&mut self, now: u64) -> bool {
        let paid = self.paid.max(now) + INTERVAL;
        let may = paid - now <= BURST * INTERVAL;
        if may {
            self.paid = paid;
        }
        may
    }
}
