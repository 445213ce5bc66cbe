//! What a packet says of itself, as far as its ports.

use causeway_ebpf_abi::{Address, Tuple};

/// IP protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// What an IPv6 header says where that of a fragment comes next (RFC 8200, section 4.5).
pub const FRAGMENT: u8 = 44;

/// Length of an IPv4 header without options, in bytes.
pub const V4_HEADER: u32 = 20;
/// Length of an IPv6 header, in bytes.
pub const V6_HEADER: u32 = 40;
/// Length of a fragment's header in IPv6, in bytes.
const FRAGMENT_HEADER: u32 = 8;
/// Length of an ICMP header, in bytes: what it quotes comes after it.
pub const ICMP_HEADER: u32 = 8;

/// A packet's bytes.
pub trait Packet {
    /// `N` words as they stand there, `offset` bytes behind the beginning of the IP header; none
    /// where it is shorter. (Words, since the kernel's machine takes bytes one by one.)
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// Bytes, to a place that is there already; whether it did.
    fn read_to<const N: usize>(&self, offset: u32, place: &mut [u8; N]) -> bool;
}

/// Internet protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// What a packet is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Other,
    /// A fragment of TCP or UDP that is not the first one: its ports are not known.
    Fragment,
    /// It has IPv6 extension headers, and not that of a fragment alone.
    Extension,
    /// A packet of TCP or UDP, or the first fragment of one.
    Flow,
    /// A packet of ICMP, which may quote one.
    Icmp,
}

/// Which part it is of what its sender sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it; also a fragment that is the only one (RFC 6946).
    Whole = 0,
    /// The first fragment, which has the transport's header.
    First = 1,
    /// Another fragment.
    Later = 2,
}

impl Part {
    /// Of a packet that is so far from the beginning, and after which more follow, or not.
    #[inline(always)]
    const fn at(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

/// What is read of a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Its addresses and ports; ICMP and later fragments have no ports.
    pub tuple: Tuple,
    /// Where the header of TCP, UDP or ICMP is, in bytes from the IP header (of the packet itself,
    /// and not of what it quotes) on.
    pub transport: u32,
    /// Of which datagram it is a fragment, if it is one.
    pub identification: u32,
    /// Its length in bytes from the IP header on, as that says.
    pub length: u16,
    /// Its header's checksum as it stands there; 0 for IPv6, which has none.
    pub checksum: u16,
    /// Through how many nodes it may still go.
    pub hops: u8,
    /// [`Flow::SYN`] and its like; 0 where it is not TCP.
    pub flags: u8,
    /// What the IP header says that comes next: the protocol, or [`FRAGMENT`].
    pub next: u8,
    /// Its version.
    pub family: Family,
    /// Which part it is.
    pub part: Part,
}

impl Flow {
    /// The last packet of a sender (RFC 9293, section 3.1).
    pub const FIN: u8 = 1;
    /// The first packet of a sender.
    pub const SYN: u8 = 2;
    /// The end of a connection.
    pub const RST: u8 = 4;
    /// An answer.
    pub const ACK: u8 = 16;

    /// Where a packet is read to.
    pub const EMPTY: Self = Self {
        tuple: Tuple::EMPTY,
        transport: 0,
        identification: 0,
        length: 0,
        checksum: 0,
        hops: 0,
        flags: 0,
        next: 0,
        family: Family::V4,
        part: Part::Whole,
    };

    /// Whether this packet begins a connection.
    #[inline(always)]
    #[must_use]
    pub const fn begins(&self) -> bool {
        self.has_ports() && (self.tuple.protocol != TCP || Self::is_first(self.flags))
    }

    /// Whether the transport's header is in it.
    #[inline(always)]
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        !matches!(self.part, Part::Later)
    }

    /// Whether these flags are those of the first packet of a TCP connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_first(flags: u8) -> bool {
        flags & (Self::FIN | Self::SYN | Self::RST | Self::ACK) == Self::SYN
    }
}

/// Reads a packet's headers to a place that was [`Flow::EMPTY`] before the first one.
#[inline(always)]
pub fn parse(packet: &impl Packet, family: Family, flow: &mut Flow) -> Found {
    let found = header(packet, family, 0, flow);
    if found != Found::Flow {
        return found;
    }
    match flow.tuple.protocol {
        TCP | UDP if !flow.has_ports() => {
            flow.flags = 0;
            Found::Fragment
        }
        TCP => {
            let Some([ports, _, _, fourth]) = packet.words(flow.transport) else {
                return Found::Other;
            };
            let [_, flags, _, _] = fourth.to_ne_bytes();
            flow.flags = flags;
            set_ports(flow, ports);
            Found::Flow
        }
        UDP => {
            let Some([ports, _]) = packet.words(flow.transport) else {
                return Found::Other;
            };
            flow.flags = 0;
            set_ports(flow, ports);
            Found::Flow
        }
        ICMP | ICMP6 if flow.part == Part::Whole => Found::Icmp,
        _ => Found::Other,
    }
}

/// Whether a packet of ICMP is an error about one of TCP or UDP, which is read then.
#[inline(always)]
pub fn quoted(packet: &impl Packet, error: &Flow, about: &mut Flow) -> bool {
    let Some([first, _]) = packet.words(error.transport) else {
        return false;
    };
    let [kind, ..] = first.to_ne_bytes();
    let is_error = match (error.family, error.tuple.protocol) {
        // Destination unreachable, time exceeded, parameter problem (RFC 792).
        (Family::V4, ICMP) => matches!(kind, 3 | 11 | 12),
        // And packet too big (RFC 4443, section 3).
        (Family::V6, ICMP6) => matches!(kind, 1..=4),
        _ => false,
    };
    let at = error.transport + ICMP_HEADER;
    if !is_error || header(packet, error.family, at, about) != Found::Flow || !about.has_ports() {
        return false;
    }
    // More than eight bytes of the transport's header need not be there (RFC 792).
    let Some([ports, _]) = packet.words(about.transport) else {
        return false;
    };
    about.flags = 0;
    set_ports(about, ports);
    matches!(about.tuple.protocol, TCP | UDP)
}

#[inline(always)]
const fn set_ports(flow: &mut Flow, ports: u32) {
    let [a, b, c, d] = ports.to_ne_bytes();
    flow.tuple.source_port = u16::from_be_bytes([a, b]);
    flow.tuple.destination_port = u16::from_be_bytes([c, d]);
}

/// Reads an IP header: all but flags and ports.
#[inline(always)]
fn header(packet: &impl Packet, family: Family, at: u32, flow: &mut Flow) -> Found {
    flow.family = family;
    match family {
        Family::V4 => v4(packet, at, flow),
        Family::V6 => v6(packet, at, flow),
    }
}

#[inline(always)]
fn v4(packet: &impl Packet, at: u32, flow: &mut Flow) -> Found {
    let Some([first, second, third, source, destination]) = packet.words(at) else {
        return Found::Other;
    };
    let [version, _, length @ ..] = first.to_ne_bytes();
    let [high, low, fragment, place] = second.to_ne_bytes();
    let [hops, protocol, checksum @ ..] = third.to_ne_bytes();
    let words = u32::from(version & 0x0f);
    if version >> 4 != 4 || words < 5 {
        return Found::Other;
    }
    // More fragments follow, or this one is not the first (RFC 791, section 3.1).
    let offset = u16::from_be_bytes([fragment & 0x1f, place]);
    flow.part = Part::at(offset, fragment & 0x20 != 0);
    flow.identification = u16::from_be_bytes([high, low]).into();
    flow.tuple.source = mapped(source);
    flow.tuple.destination = mapped(destination);
    flow.tuple.protocol = protocol;
    flow.next = protocol;
    flow.hops = hops;
    flow.length = u16::from_be_bytes(length);
    flow.checksum = u16::from_ne_bytes(checksum);
    flow.transport = at + words * 4;
    Found::Flow
}

/// An IPv4 address, which stands so in a packet, IPv4-mapped; as one number, and not byte by byte.
#[inline(always)]
const fn mapped(word: u32) -> Address {
    ((0xffff << 32) | u32::from_be(word) as u128).to_be_bytes()
}

#[inline(always)]
fn v6(packet: &impl Packet, at: u32, flow: &mut Flow) -> Found {
    let Some([first, second]) = packet.words(at) else {
        return Found::Other;
    };
    let [version, ..] = first.to_ne_bytes();
    let [high, low, next, hops] = second.to_ne_bytes();
    if version >> 4 != 6 {
        return Found::Other;
    }
    let mut protocol = next;
    flow.part = Part::Whole;
    flow.transport = at + V6_HEADER;
    if next == FRAGMENT {
        let Some([first, identification]) = packet.words(flow.transport) else {
            return Found::Other;
        };
        let [behind, _, high, low] = first.to_ne_bytes();
        let place = u16::from_be_bytes([high, low]);
        protocol = behind;
        flow.part = Part::at(place & !7, place & 1 != 0);
        flow.identification = u32::from_be(identification);
        flow.transport += FRAGMENT_HEADER;
    }
    // Hop-by-hop, routing, a fragment's, encapsulating security, authentication, destination options
    // (RFC 8200, section 4.1).
    if matches!(protocol, 0 | 43 | FRAGMENT | 50 | 51 | 60) {
        return Found::Extension;
    }
    if !packet.read_to(at + 8, &mut flow.tuple.source)
        || !packet.read_to(at + 24, &mut flow.tuple.destination)
    {
        return Found::Other;
    }
    flow.tuple.protocol = protocol;
    flow.next = next;
    flow.hops = hops;
    flow.length = u16::from_be_bytes([high, low]).saturating_add(40);
    flow.checksum = 0;
    Found::Flow
}
