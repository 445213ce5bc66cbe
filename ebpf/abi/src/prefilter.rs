//! The prefilter: what every packet is asked first, so that one that nothing here has to do with is
//! told after a few steps. It may say yes too often, and never no where yes is right.
//!
//! Two tables are asked. In [`crate::maps::AIMS`] one bit stands for each frontend and each network
//! of Services; the daemon sets it before there is the entry. In [`crate::maps::MARKS`] one cell
//! stands for each direction of a connection, and of all others between the same two at the same
//! port; who adds the connection marks it before. Cells are not unmarked, since the map of connections forgets some by itself: the daemon counts
//! generations, marks anew what there is in each of them, and what was marked too long ago counts
//! for nothing.

use crate::{Address, Tuple};

/// Words of [`crate::maps::AIMS`], each of 64 bits.
pub const AIM_WORDS: u32 = 4096;
/// Cells of [`crate::maps::MARKS`].
pub const MARKS: u32 = 131_072;
/// A mark counts in the generation in which it was made, and in so many more.
pub const GENERATIONS: u32 = 3;
/// The first generation, so that a cell that was never marked is too old. Before it is said, every
/// packet may concern us.
pub const FIRST_GENERATION: u32 = GENERATIONS + 1;

const AIM_BITS: u32 = (AIM_WORDS * 64).trailing_zeros();
const MARK_BITS: u32 = MARKS.trailing_zeros();

/// The third word of an IPv4-mapped address.
const MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Whether a mark counts.
#[inline(always)]
#[must_use]
pub const fn is_fresh(mark: u32, generation: u32) -> bool {
    generation.wrapping_sub(mark) <= GENERATIONS
}

/// One or two addresses as one number: 32-bit words as they stand in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded(u64);

impl Folded {
    /// An IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4(word: u32) -> Self {
        Self(word as u64)
    }

    /// An IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn v6([a, b, c, d]: [u32; 4]) -> Self {
        let (high, low) = ((a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64);
        Self(high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low)
    }

    /// An address of either family.
    #[inline(always)]
    #[must_use]
    pub fn of(address: &Address) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(address.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        match words {
            [0, 0, MAPPED_WORD, v4] => Self::v4(v4),
            _ => Self::v6(words),
        }
    }

    /// A source and a destination.
    #[inline(always)]
    #[must_use]
    pub const fn pair(source: Self, destination: Self) -> Self {
        Self(source.0.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ destination.0)
    }
}

/// Where the mark of a packet's direction is: of its addresses, and of its ports as they stand there the
/// lower one, which is the server's as a rule. So all connections of a client to a server share a mark,
/// and whoever asks for one after the other finds it in the processor's cache.
#[inline(always)]
#[must_use]
pub const fn mark(pair: Folded, ports: u32, protocol: u8) -> u32 {
    let [a, b, c, d] = ports.to_ne_bytes();
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let lower = if source < destination {
        source
    } else {
        destination
    };
    mix(pair, lower as u32, protocol) >> (32 - MARK_BITS)
}

/// [`mark`] of a connection's direction.
#[inline(always)]
#[must_use]
pub fn mark_of(tuple: &Tuple) -> u32 {
    let pair = Folded::pair(Folded::of(&tuple.source), Folded::of(&tuple.destination));
    let ([a, b], [c, d]) = (
        tuple.source_port.to_be_bytes(),
        tuple.destination_port.to_be_bytes(),
    );
    mark(pair, u32::from_ne_bytes([a, b, c, d]), tuple.protocol)
}

/// Where the bit of a frontend is: the word, and the bit as a word.
#[inline(always)]
#[must_use]
pub const fn aim(destination: Folded, port: u16, protocol: u8) -> (u32, u64) {
    let bit = mix(destination, port as u32, protocol) >> (32 - AIM_BITS);
    (bit / 64, 1 << (bit % 64))
}

/// Where the bit of the networks is in which an address is: those of one /16 of IPv4 share one, as
/// do those of one /64 of IPv6. (A frontend has no protocol 0.)
#[inline(always)]
#[must_use]
pub const fn network(destination: Block) -> (u32, u64) {
    aim(Folded(destination.0), 0, 0)
}

/// The /16 of an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(u64);

impl Block {
    /// Length of one of IPv4, in bits.
    pub const V4: u32 = 16;
    /// Length of one of IPv6, in bits.
    pub const V6: u32 = 64;

    /// Of an IPv4 address, as it stands in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn v4(word: u32) -> Self {
        Self((word & u32::from_ne_bytes([0xff, 0xff, 0, 0])) as u64)
    }

    /// Of an IPv6 address: its first words, as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn v6(a: u32, b: u32) -> Self {
        // Another one than any of IPv4.
        Self(((a as u64) << 32 | b as u64) | 1 << 63)
    }

    /// Of an address of either family.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: &Address) -> Self {
        let [a, b, c, d, e, f, g, h, .., i, j, k, l] = *address;
        match *address {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => {
                Self::v4(u32::from_ne_bytes([i, j, k, l]))
            }
            _ => Self::v6(
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
            ),
        }
    }
}

/// Multiplications that spread every bit over the upper half, from which positions are taken.
#[inline(always)]
const fn mix(addresses: Folded, ports: u32, protocol: u8) -> u32 {
    let first = addresses.0.wrapping_mul(0xff51_afd7_ed55_8ccd);
    let rest = (protocol as u64) << 32 | ports as u64;
    let second = (first ^ first >> 32 ^ rest).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (second >> 32) as u32
}
