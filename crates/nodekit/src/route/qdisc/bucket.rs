//! The token bucket filter (net/sched/sch_tbf.c) and its arithmetic.

use std::fs;
use std::time::Duration;

use crate::netlink::{AttrWriter, Attrs};

/// Attributes (linux/pkt_sched.h).
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;

/// Bytes of `struct tc_tbf_qopt`: two rates of 12, then limit, buffer and mtu.
const PARMS: usize = 36;
/// `TC_LINKLAYER_ETHERNET`: a packet costs what it is long, so that no table is needed.
const ETHERNET: u8 = 1;

/// What the kernel clamps a bucket's depth to: it is kept in nanoseconds of 32 bits.
const DEEPEST: Duration = Duration::from_nanos(u32::MAX as u64);

/// Where the kernel says how long its tick is.
const PSCHED: &str = "/proc/net/psched";

/// The unit of time in which the kernel wants a bucket's depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    /// Nanoseconds of one.
    nanoseconds: u32,
}

/// Why the length of a tick is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicksError {
    /// The file could not be read.
    #[error("cannot read {PSCHED}: {0}")]
    Read(String),
    /// The file has no such numbers.
    #[error("{PSCHED} has {0:?}; accepted: four hexadecimal numbers, the first two not zero")]
    Content(String),
}

impl Ticks {
    /// This kernel's.
    ///
    /// # Errors
    /// [`TicksError`].
    pub fn of_kernel() -> Result<Self, TicksError> {
        let text = fs::read_to_string(PSCHED).map_err(|why| TicksError::Read(why.to_string()))?;
        Self::parse(&text).ok_or(TicksError::Content(text))
    }

    /// Reads `/proc/net/psched` (psched_show, net/sched/sch_api.c): so many nanoseconds of a
    /// microsecond, and of a tick.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        let mut field = || u32::from_str_radix(fields.next()?, 16).ok();
        let (microsecond, tick) = (field()?, field()?);
        let nanoseconds = tick.checked_mul(1000)?.checked_div(microsecond)?;
        (nanoseconds != 0).then_some(Self { nanoseconds })
    }
}

/// How much a link may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second.
    pub rate: u64,
    /// What may be sent at once after a pause, as the time it takes at the rate, in ticks.
    pub depth: u32,
    /// How many bytes wait at most; what comes beyond is dropped.
    pub limit: u32,
}

impl TokenBucket {
    /// A bucket of so many bytes, filled at `rate` bytes per second, with a queue in which the
    /// last packet waits `latency` longer than a full bucket lasts.
    ///
    /// The kernel keeps no more than 4.29 s worth of tokens; a larger burst is that.
    #[must_use]
    pub fn new(ticks: Ticks, rate: u64, burst: u64, latency: Duration) -> Self {
        let per_second = |bytes: u64| u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
        // Whole microseconds, as iproute2 and others reckon, so that equal limits are equal.
        let lasts = per_second(burst).min(DEEPEST.as_micros());
        let depth = lasts * 1000 / u128::from(ticks.nanoseconds);
        let in_time = |time: Duration| u128::from(rate) * time.as_micros() / 1_000_000;
        let kept = u128::from(burst).min(in_time(DEEPEST));
        Self {
            rate,
            depth: u32::try_from(depth).unwrap_or(u32::MAX),
            limit: u32::try_from(in_time(latency) + kept).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn write(&self, options: &mut AttrWriter) {
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let mut parms = [0; PARMS];
        parms[1] = ETHERNET;
        for (at, field) in [(8, rate), (24, self.limit), (28, self.depth)] {
            parms[at..at + 4].copy_from_slice(&field.to_ne_bytes());
        }
        options.bytes(TCA_TBF_PARMS, &parms);
        if rate == u32::MAX {
            options.bytes(TCA_TBF_RATE64, &self.rate.to_ne_bytes());
        }
    }

    pub(super) fn read(options: Attrs<'_>) -> Option<Self> {
        let parms = options.clone().find(TCA_TBF_PARMS)?.payload;
        let field = |at: usize| Some(u32::from_ne_bytes(*parms.get(at..)?.first_chunk()?));
        let large = options
            .find(TCA_TBF_RATE64)
            .and_then(|attr| attr.payload.first_chunk().copied());
        Some(Self {
            rate: large.map_or(u64::from(field(8)?), u64::from_ne_bytes),
            depth: field(28)?,
            limit: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attrs;

    const TICK: Ticks = Ticks { nanoseconds: 64 };
    const LATENCY: Duration = Duration::from_millis(25);

    #[test]
    fn ticks_are_what_the_kernel_says() {
        let parse = |text| Ticks::parse(text).map(|ticks| ticks.nanoseconds);
        assert_eq!(parse("000003e8 00000040 000f4240 3b9aca00\n"), Some(64));
        for text in ["", "3e8", "0 40 0 0", "3e8 0 1 1", "x y z w"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(Ticks::of_kernel().is_ok());
    }

    #[test]
    fn a_bucket_is_what_others_reckon() {
        // 10 Mbit/s and 800 kbit: 80 ms of tokens of 64 ns.
        let bucket = TokenBucket::new(TICK, 1_250_000, 100_000, LATENCY);
        assert_eq!((bucket.depth, bucket.limit), (1_250_000, 131_250));
        let slow = TokenBucket::new(TICK, 1, 1, LATENCY);
        assert_eq!((slow.depth, slow.limit), (15_625_000, 1));
    }

    #[test]
    fn a_burst_without_end_is_what_the_kernel_keeps() {
        let bucket = TokenBucket::new(TICK, 1_250_000, u64::from(u32::MAX) / 8, LATENCY);
        assert_eq!(bucket.depth, 67_108_859);
        assert_eq!(bucket.limit, 31_250 + 5_368_708);
        let huge = TokenBucket::new(TICK, u64::MAX, u64::MAX, LATENCY);
        assert_eq!((huge.rate, huge.limit), (u64::MAX, u32::MAX));
        let nothing = TokenBucket::new(TICK, 0, 5, LATENCY);
        assert_eq!(nothing.rate, 0);
    }

    #[test]
    fn what_is_written_is_read() {
        for rate in [1, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 40] {
            let bucket = TokenBucket::new(TICK, rate, 100_000, LATENCY);
            let mut options = AttrWriter::default();
            bucket.write(&mut options);
            let bytes = options.finish().unwrap();
            assert_eq!(TokenBucket::read(attrs(&bytes)), Some(bucket));
        }
        assert_eq!(TokenBucket::read(attrs(&[])), None);
    }
}
