//! When a connection whose packets are translated is over.

use std::time::Duration;

use causeway_ebpf_abi::{Stage, Track};

use super::UDP;

/// How long a connection is remembered when nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// TCP: it was reset, or both sides said that they are done.
    pub closed: Duration,
    /// TCP: one side said that it is done.
    pub closing: Duration,
    /// TCP: nobody has answered yet.
    pub opening: Duration,
    /// TCP otherwise (`conntrack.tcpEstablishedTimeout`).
    pub established: Duration,
    /// UDP: it was answered.
    pub udp: Duration,
    /// UDP: it was not.
    pub udp_unanswered: Duration,
}

impl Default for Lifetimes {
    /// The kernel's own (`nf_conntrack_proto_tcp.c`, `nf_conntrack_proto_udp.c`), with shorter ones
    /// for what is over.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            closed: seconds(10),
            closing: seconds(120),
            opening: seconds(60),
            established: seconds(24 * 3600),
            udp: seconds(180),
            udp_unanswered: seconds(30),
        }
    }
}

impl Lifetimes {
    /// Whether the connection of `one` direction is over at `now`, in nanoseconds of the monotonic
    /// clock. Without the `other` direction it is of no use, unless that is just being written, or
    /// passes elsewhere.
    pub fn is_over(&self, protocol: u8, one: &Track, other: Option<&Track>, now: u64) -> bool {
        self.left(protocol, one, other, now).is_none()
    }

    /// How much longer it is remembered if nothing comes; `None`: it is over.
    pub fn left(
        &self,
        protocol: u8,
        one: &Track,
        other: Option<&Track>,
        now: u64,
    ) -> Option<Duration> {
        let seen = one.seen.max(other.map_or(0, |other| other.seen));
        let idle = Duration::from_nanos(now.saturating_sub(seen));
        let lasts = if other.is_none() && !one.is_direct() {
            self.closed
        } else {
            let stage = Stage::of(one.flags, other.map_or(0, |other| other.flags));
            self.by_state(protocol, stage, is_answered(protocol, one, other))
        };
        lasts.checked_sub(idle)
    }

    const fn by_state(&self, protocol: u8, stage: Stage, answered: bool) -> Duration {
        if protocol == UDP {
            return if answered {
                self.udp
            } else {
                self.udp_unanswered
            };
        }
        match stage {
            Stage::Closed => self.closed,
            Stage::Closing => self.closing,
            Stage::Open if answered => self.established,
            Stage::Open => self.opening,
        }
    }
}

/// Whether both sides of a connection have sent something. One whose answers don't pass here was
/// answered if its client went on.
pub fn is_answered(protocol: u8, one: &Track, other: Option<&Track>) -> bool {
    match other {
        Some(other) => one.packets > 0 && other.packets > 0,
        None if protocol == UDP => one.packets > 1,
        None => one.flags & Track::ANSWERED != 0,
    }
}

#[cfg(test)]
mod tests {
    use causeway_ebpf_abi::{Hop, Tuple};

    use super::*;

    const TCP: u8 = 6;
    const SECOND: u64 = 1_000_000_000;

    fn track(packets: u64, flags: u32, seen: u64) -> Track {
        Track {
            seen: seen * SECOND,
            packets,
            bytes: 0,
            counted_packets: 0,
            counted_bytes: 0,
            becomes: Tuple::EMPTY,
            flags,
            service: 0,
            hop: Hop::NONE,
            zero: 0,
        }
    }

    #[test]
    fn each_state_has_its_time() {
        let lifetimes = Lifetimes::default();
        let (fin, rst) = (Track::FINISHED, Track::RESET);
        for (protocol, one, other, seconds) in [
            (TCP, (3, fin), (3, fin), 10),
            (TCP, (3, rst), (3, 0), 10),
            (TCP, (3, 0), (3, rst), 10),
            (TCP, (3, fin), (3, 0), 120),
            (TCP, (1, 0), (0, 0), 60),
            (TCP, (3, 0), (3, 0), 24 * 3600),
            (UDP, (3, 0), (3, 0), 180),
            (UDP, (3, 0), (0, 0), 30),
        ] {
            // The later direction counts.
            let (one, other) = (track(one.0, one.1, 500), track(other.0, other.1, 100));
            let over = |after| lifetimes.is_over(protocol, &one, Some(&other), after * SECOND);
            let left = lifetimes.left(protocol, &one, Some(&other), 501 * SECOND);
            assert_eq!(left, Some(Duration::from_secs(seconds - 1)));
            assert!(!over(500 + seconds), "{protocol}, {seconds}");
            assert!(over(501 + seconds), "{protocol}, {seconds}");
            let other_way = lifetimes.is_over(protocol, &other, Some(&one), 501 * SECOND);
            assert!(!other_way, "{protocol}, {seconds}");
        }
    }

    #[test]
    fn one_whose_answers_pass_elsewhere_goes_by_what_its_client_does() {
        let lifetimes = Lifetimes::default();
        let went_on = Track::direct(64) | Track::ANSWERED;
        for (protocol, packets, flags, seconds) in [
            (TCP, 3, Track::direct(64), 60),
            (TCP, 3, went_on, 24 * 3600),
            (TCP, 3, went_on | Track::FINISHED, 120),
            (TCP, 3, went_on | Track::RESET, 10),
            (UDP, 1, Track::direct(64), 30),
            (UDP, 2, Track::direct(64), 180),
        ] {
            let one = track(packets, flags, 500);
            let over = |after| lifetimes.is_over(protocol, &one, None, after * SECOND);
            assert!(!over(500 + seconds), "{protocol}, {seconds}");
            assert!(over(501 + seconds), "{protocol}, {seconds}");
        }
    }

    #[test]
    fn one_direction_alone_may_be_just_being_written() {
        let lifetimes = Lifetimes::default();
        let alone = track(1, 0, 500);
        assert!(!lifetimes.is_over(TCP, &alone, None, 505 * SECOND));
        assert!(lifetimes.is_over(TCP, &alone, None, 511 * SECOND));
    }
}
