//! Whether a packet may concern us at all: see [`causeway_ebpf_abi::prefilter`]. The words are those
//! of a packet from its IP header on, as they stand there.

use causeway_ebpf_abi::FrontendKey;
use causeway_ebpf_abi::prefilter::{Block, Folded, aim, is_fresh, mark, network};

use crate::packet::{Flow, TCP, UDP};

/// What the prefilter asks.
pub trait Prefilter {
    /// The generation that marks are made in now; 0: not known.
    fn generation(&self) -> u32;
    /// When a cell was marked last.
    fn mark(&self, cell: u32) -> u32;
    /// A word of bits of frontends and networks.
    fn aims(&self, word: u32) -> u64;
}

/// Words of an IPv4 packet that are looked at: as far as the flags of TCP.
pub const V4_WORDS: usize = 9;
/// The same of an IPv6 packet.
pub const V6_WORDS: usize = 14;

/// Whether an IPv4 packet may be one to translate, to refuse, to drop or to count.
#[inline(always)]
pub fn may_concern_v4(tables: &impl Prefilter, words: &[u32; V4_WORDS]) -> bool {
    let [first, second, third, source, destination, transport @ ..] = *words;
    let ([first, ..], [_, _, fragment, place]) = (first.to_ne_bytes(), second.to_ne_bytes());
    let [_, protocol, _, _] = third.to_ne_bytes();
    // Options, and fragments, take the longer way.
    if first != 0x45 || fragment & 0x3f != 0 || place != 0 {
        return true;
    }
    let (from, to) = (Folded::v4(source), Folded::v4(destination));
    match Transport::of(protocol, transport) {
        Transport::Begins(ports) => {
            may_aim(tables, to, ports, protocol)
                || has(tables, network(Block::v4(destination)))
                || is_marked(tables, from, to, ports, protocol)
        }
        Transport::GoesOn(ports) => is_marked(tables, from, to, ports, protocol),
        Transport::Other => true,
    }
}

/// Whether an IPv6 packet may be one to translate, to refuse, to drop or to count.
#[inline(always)]
pub fn may_concern_v6(tables: &impl Prefilter, words: &[u32; V6_WORDS]) -> bool {
    let [_, second, a, b, c, d, e, f, g, h, transport @ ..] = *words;
    let [_, _, protocol, _] = second.to_ne_bytes();
    let (from, to) = (Folded::v6([a, b, c, d]), Folded::v6([e, f, g, h]));
    match Transport::of(protocol, transport) {
        Transport::Begins(ports) => {
            may_aim(tables, to, ports, protocol)
                || has(tables, network(Block::v6(e, f)))
                || is_marked(tables, from, to, ports, protocol)
        }
        Transport::GoesOn(ports) => is_marked(tables, from, to, ports, protocol),
        // Extension headers among them, which are counted.
        Transport::Other => true,
    }
}

/// Whether a call may aim at a frontend, or at a network of Services.
#[inline(always)]
pub fn may_be_aimed(tables: &impl Prefilter, at: &FrontendKey) -> bool {
    has(tables, aim(Folded::of(&at.address), at.port, at.protocol))
        || has(tables, network(Block::of(&at.address)))
}

/// What a packet may be, with its ports as they stand there.
enum Transport {
    /// The first one of something.
    Begins(u32),
    /// Not the first one.
    GoesOn(u32),
    /// Neither TCP nor UDP.
    Other,
}

impl Transport {
    #[inline(always)]
    const fn of(protocol: u8, [ports, _, _, fourth]: [u32; 4]) -> Self {
        let [_, flags, _, _] = fourth.to_ne_bytes();
        match protocol {
            UDP => Self::Begins(ports),
            TCP if Flow::is_first(flags) => Self::Begins(ports),
            TCP => Self::GoesOn(ports),
            _ => Self::Other,
        }
    }
}

#[inline(always)]
fn may_aim(tables: &impl Prefilter, to: Folded, ports: u32, protocol: u8) -> bool {
    let [_, _, high, low] = ports.to_ne_bytes();
    has(tables, aim(to, u16::from_be_bytes([high, low]), protocol))
}

#[inline(always)]
fn has(tables: &impl Prefilter, (word, bit): (u32, u64)) -> bool {
    tables.aims(word) & bit != 0
}

#[inline(always)]
fn is_marked(tables: &impl Prefilter, from: Folded, to: Folded, ports: u32, protocol: u8) -> bool {
    let cell = mark(Folded::pair(from, to), ports, protocol);
    is_fresh(tables.mark(cell), tables.generation())
}
