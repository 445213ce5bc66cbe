//! Answers of a frontend without backends, made out of the packet that asks.
//!
//! A packet from a virtual interface may bear a checksum that is yet to be finished
//! (`CHECKSUM_PARTIAL`, include/linux/skbuff.h): the kernel finishes it where the packet leaves the
//! machine, at the place where it was in the packet that asked. A program can't see whether it will.
//! So whatever stands at that place is chosen so that finishing it changes nothing.

use causeway_ebpf_abi::{Address, Tuple};

use crate::checksum::{finish, fold, sum};
use crate::packet::{Family, TCP};

/// Through how many nodes an answer may go.
const HOPS: u8 = 64;
/// Length of a TCP header without options, in bytes.
pub const TCP_HEADER: u16 = 20;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// An IPv4 header for an answer with so many bytes behind it.
#[inline(always)]
#[must_use]
pub fn v4_header(asked: &Tuple, protocol: u8, bytes: u16) -> [u8; 20] {
    let [high, low] = bytes.saturating_add(20).to_be_bytes();
    let ([.., a, b, c, d], [.., e, f, g, h]) = (asked.destination, asked.source);
    let header = |first: u8, second: u8| {
        [
            0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, protocol, first, second, a, b, c, d, e, f, g,
            h,
        ]
    };
    let [first, second] = finish(sum(&header(0, 0))).to_ne_bytes();
    header(first, second)
}

/// The first 8 bytes of an IPv6 header for such an answer; the addresses follow.
#[inline(always)]
#[must_use]
pub const fn v6_header(protocol: u8, bytes: u16) -> [u8; 8] {
    let [high, low] = bytes.to_be_bytes();
    [0x60, 0, 0, 0, high, low, protocol, HOPS]
}

/// The protocol number of ICMP.
#[inline(always)]
#[must_use]
pub const fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => ICMP,
        Family::V6 => ICMP6,
    }
}

/// The sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1) of a packet, or of an
/// answer to it.
#[inline(always)]
pub(crate) fn pseudo_header(asked: &Tuple, family: Family, protocol: u8, bytes: u16) -> u64 {
    let last = |address: &Address| {
        let [.., a, b, c, d] = *address;
        sum(&[a, b, c, d])
    };
    let addresses = match family {
        Family::V4 => last(&asked.source) + last(&asked.destination),
        Family::V6 => sum(&asked.source) + sum(&asked.destination),
    };
    addresses + u64::from(bytes.to_be()) + u64::from(u16::from(protocol).to_be())
}

/// The TCP header that resets the connection whose first packet has this sequence number (RFC 9293,
/// section 3.5.2).
///
/// Where the checksum stands is the sum of the pseudo header, as for a packet that is yet to be
/// finished; and the window, which means nothing in a reset, is such that this is the checksum.
#[inline(always)]
#[must_use]
pub fn reset(asked: &Tuple, family: Family, sequence: u32) -> [u8; 20] {
    const RST_ACK: u8 = 4 | 16;
    let ([a, b], [c, d]) = (
        asked.destination_port.to_be_bytes(),
        asked.source_port.to_be_bytes(),
    );
    let [e, f, g, h] = sequence.wrapping_add(1).to_be_bytes();
    let header = |[w, x]: [u8; 2], [y, z]: [u8; 2]| {
        [
            a, b, c, d, 0, 0, 0, 0, e, f, g, h, 0x50, RST_ACK, w, x, y, z, 0, 0,
        ]
    };
    let pseudo = fold(pseudo_header(asked, family, TCP, TCP_HEADER));
    let others = sum(&header([0; 2], [0; 2])) + 2 * u64::from(pseudo);
    header(finish(others).to_ne_bytes(), pseudo.to_ne_bytes())
}

/// The header of an ICMP error "port unreachable" (RFC 792; RFC 4443, section 3.1) about a packet
/// of which it quotes so many bytes with this sum.
///
/// Its last two bytes, which mean nothing, are where UDP has its checksum: the sum of the pseudo
/// header, which is none with IPv4, stays as it is when it is finished.
#[inline(always)]
#[must_use]
pub fn unreachable(asked: &Tuple, family: Family, quoted: u64, bytes: u16) -> [u8; 8] {
    let (kind, code, pseudo) = match family {
        Family::V4 => (3, 3, 0),
        Family::V6 => {
            let bytes = bytes.saturating_add(8);
            (1, 4, fold(pseudo_header(asked, family, ICMP6, bytes)))
        }
    };
    let [y, z] = pseudo.to_ne_bytes();
    let header = |[a, b]: [u8; 2]| [kind, code, a, b, 0, 0, y, z];
    let all = sum(&header([0; 2])) + u64::from(pseudo) + quoted;
    header(finish(all).to_ne_bytes())
}

/// The header of an ICMP error that says how large a packet may be (RFC 1191, section 4; RFC 4443,
/// section 3.2), about one of which it quotes so many bytes with this sum.
#[inline(always)]
#[must_use]
pub fn too_big(asked: &Tuple, family: Family, mtu: u32, quoted: u64, bytes: u16) -> [u8; 8] {
    let (kind, code, pseudo) = match family {
        Family::V4 => (3, 4, 0),
        Family::V6 => {
            let bytes = bytes.saturating_add(8);
            (2, 0, pseudo_header(asked, family, ICMP6, bytes))
        }
    };
    let [w, x, y, z] = mtu.to_be_bytes();
    let header = |[a, b]: [u8; 2]| [kind, code, a, b, w, x, y, z];
    header(finish(sum(&header([0; 2])) + pseudo + quoted).to_ne_bytes())
}

/// The checksum that a quoted TCP or UDP header gets whose other words have this sum, and after which
/// nothing comes: finishing it changes nothing, for it is what is missing to the sum of the others and
/// itself.
#[inline(always)]
#[must_use]
pub fn finished_quote(others: u64) -> u16 {
    let twice = u32::from(finish(others));
    // In this arithmetic 65,535 is nothing, so an odd number can be halved, too.
    let half = if twice % 2 == 0 {
        twice / 2
    } else {
        (twice + 0xffff) / 2
    };
    // Both are at most 65,535.
    (half & 0xffff) as u16
}
