//! What has to be written into a packet's headers.

use causeway_ebpf_abi::{Address, Tuple};

use crate::checksum::{difference, fold, updated};
use crate::packet::{Family, Flow, UDP};
use crate::words;

/// A packet's own header, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses<'a> {
    old: [&'a Address; 2],
    new: [&'a Address; 2],
    hops: u8,
    next: u8,
    checksum: u16,
}

impl<'a> Addresses<'a> {
    /// Of a packet that gets these addresses.
    #[inline(always)]
    #[must_use]
    pub const fn of(flow: &'a Flow, source: &'a Address, destination: &'a Address) -> Self {
        Self {
            old: [&flow.tuple.source, &flow.tuple.destination],
            new: [source, destination],
            hops: flow.hops,
            next: flow.next,
            checksum: flow.checksum,
        }
    }

    /// Of an ICMP error about a packet whose answer becomes another one. It goes to whom such an
    /// answer goes; who sends it is told as it is, unless it is the one whose address nobody knows.
    #[inline(always)]
    #[must_use]
    pub fn of_error(error: &'a Flow, about: &Flow, answer: &'a Tuple) -> Self {
        let source = if error.tuple.source == about.tuple.destination {
            &answer.source
        } else {
            &error.tuple.source
        };
        Self::of(error, source, &answer.destination)
    }

    /// By how much the sum of the addresses grows, which is by how much that of the pseudo header
    /// does.
    #[inline(always)]
    #[must_use]
    pub fn difference(&self, family: Family) -> u16 {
        fold(addresses_difference(family, self.old, self.new))
    }

    /// The last three words of an IPv4 header, as they stand there: it has gone through one more node.
    #[inline(always)]
    #[must_use]
    pub fn v4(&self) -> [u32; 3] {
        let hops = self.hops.wrapping_sub(1);
        let new = addresses_difference(Family::V4, self.old, self.new);
        let (before, after) = ([self.hops, self.next], [hops, self.next]);
        let checksum = updated(self.checksum, new + words_difference(before, after));
        let [high, low] = checksum.to_ne_bytes();
        let [source, destination] = self.new.map(v4_word);
        let first = u32::from_ne_bytes([hops, self.next, high, low]);
        [first, source, destination]
    }

    /// The new source and destination, for an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn v6(&self) -> [&'a Address; 2] {
        self.new
    }

    /// The next header and the hop limit of an IPv6 header, and by how much its sum grows by them:
    /// it has gone through one more node.
    #[inline(always)]
    #[must_use]
    pub fn v6_hops(&self) -> ([u8; 2], u16) {
        let (before, after) = (
            [self.next, self.hops],
            [self.next, self.hops.wrapping_sub(1)],
        );
        (after, fold(words_difference(before, after)))
    }
}

/// The ports as they stand in a packet.
#[inline(always)]
#[must_use]
pub const fn ports(tuple: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (
        tuple.source_port.to_be_bytes(),
        tuple.destination_port.to_be_bytes(),
    );
    [a, b, c, d]
}

/// By how much the sum of the ports grows.
#[inline(always)]
#[must_use]
pub fn ports_difference(old: &Tuple, new: &Tuple) -> u16 {
    fold(difference(&ports(old), &ports(new)))
}

/// What a finished checksum of TCP or UDP becomes when the sums of addresses and of ports grow so.
#[inline(always)]
#[must_use]
pub fn transport_checksum(protocol: u8, before: u16, addresses: u16, ports: u16) -> u16 {
    let after = updated(before, u64::from(addresses) + u64::from(ports));
    // Of UDP, zero means that there is none (RFC 768).
    match (protocol, before, after) {
        (UDP, 0, _) => 0,
        (UDP, _, 0) => 0xffff,
        _ => after,
    }
}

/// What is written into the packet that an ICMP error quotes, which becomes `quoted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The checksum of its IPv4 header.
    pub checksum: u16,
    /// By how much the sum of an IPv6 packet's addresses and ports grows. (What an IPv4 packet's
    /// addresses are changed by, its header's checksum takes back.)
    pub difference: u16,
}

impl Quote {
    /// Of the packet that an error is about.
    #[inline(always)]
    #[must_use]
    pub fn of(about: &Flow, quoted: &Tuple) -> Self {
        let old = [&about.tuple.source, &about.tuple.destination];
        let new = [&quoted.source, &quoted.destination];
        let addresses = addresses_difference(about.family, old, new);
        let ports = difference(&ports(&about.tuple), &ports(quoted));
        Self {
            checksum: updated(about.checksum, addresses),
            difference: match about.family {
                Family::V4 => fold(ports),
                Family::V6 => fold(addresses + ports),
            },
        }
    }
}

#[inline(always)]
fn addresses_difference(family: Family, old: [&Address; 2], new: [&Address; 2]) -> u64 {
    let ([from, to], [source, destination]) = (old, new);
    match family {
        Family::V4 => {
            let [from, to, source, destination] = [from, to, source, destination].map(v4_word);
            u64::from(source) + u64::from(!from) + u64::from(destination) + u64::from(!to)
        }
        Family::V6 => difference(from, source) + difference(to, destination),
    }
}

/// An IPv4 address as it stands in a packet: one word, since bytes are taken one by one.
#[inline(always)]
fn v4_word(address: &Address) -> u32 {
    let [.., last] = words(address);
    last
}

/// The difference that one 16-bit word makes.
#[inline(always)]
fn words_difference(old: [u8; 2], new: [u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(new)) + u64::from(!u16::from_ne_bytes(old))
}
