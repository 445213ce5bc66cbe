//! The Internet checksum's arithmetic: one's complement sums of 16-bit words (RFC 1071), and what a
//! checksum becomes when some of them change (RFC 1624, equation 3).
//!
//! Words and checksums are in the machine's byte order as they stand in memory: the sum doesn't
//! depend on the order (RFC 1071, section 2), and the kernel's helpers take it so.

/// The sum of whole 32-bit words.
#[inline(always)]
#[must_use]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u64 {
    const { assert!(N.is_multiple_of(4)) };
    let (words, _) = bytes.as_chunks::<4>();
    let mut sum = 0;
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    sum
}

/// What has to be added to a sum in which these 32-bit words were the old ones, so that it is the
/// sum with the new ones.
#[inline(always)]
#[must_use]
pub fn difference<const N: usize>(old: &[u8; N], new: &[u8; N]) -> u64 {
    const { assert!(N.is_multiple_of(4)) };
    let (words, _) = old.as_chunks::<4>();
    let mut sum = sum(new);
    for word in words {
        sum += u64::from(!u32::from_ne_bytes(*word));
    }
    sum
}

/// A sum in 16 bits, its carries added.
#[inline(always)]
#[must_use]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let [low, high, ..] = sum.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// The checksum of what sums up to this.
#[inline(always)]
#[must_use]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// What a checksum becomes when its data's sum grows by `difference`.
#[inline(always)]
#[must_use]
pub fn updated(checksum: u16, difference: u64) -> u16 {
    finish(u64::from(!checksum) + u64::from(fold(difference)))
}
