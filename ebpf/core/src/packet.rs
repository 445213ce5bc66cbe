//! What a packet says of itself, as far as its ports.

use causeway_ebpf_abi::{Address, Counter, Tuple, mapped};

/// IP protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Length of an IPv4 header without options, in bytes.
pub const V4_HEADER: u32 = 20;
/// Length of an IPv6 header, in bytes.
pub const V6_HEADER: u32 = 40;
/// Length of an ICMP header, in bytes: what it quotes comes after it.
pub const ICMP_HEADER: u32 = 8;

/// A packet's bytes.
pub trait Packet {
    /// `N` bytes, `offset` bytes behind the beginning of the IP header; none where it is shorter.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// Internet protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a packet is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Other,
    /// Something that we would like to translate, and can't.
    Left(Counter),
    /// A packet of TCP or UDP.
    Flow(Flow),
    /// An ICMP error about one.
    Error(Report),
}

/// A packet of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its addresses and ports.
    pub tuple: Tuple,
    /// Its version.
    pub family: Family,
    /// Where its TCP or UDP header is, in bytes from the IP header on.
    pub transport: u32,
    /// Its length in bytes from the IP header on, as that says.
    pub length: u16,
    /// Its header's checksum as it stands there; 0 for IPv6, which has none.
    pub checksum: u16,
    /// Through how many nodes it may still go.
    pub hops: u8,
    /// [`Flow::SYN`] and its like; 0 for UDP.
    pub flags: u8,
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

    /// Whether this packet begins a connection.
    #[inline(always)]
    #[must_use]
    pub const fn begins(&self) -> bool {
        let kind = self.flags & (Self::FIN | Self::SYN | Self::RST | Self::ACK);
        self.tuple.protocol != TCP || kind == Self::SYN
    }
}

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who reports it.
    pub source: Address,
    /// To whom.
    pub destination: Address,
    /// Where the ICMP header is, in bytes from the IP header on.
    pub transport: u32,
    /// Its header's checksum as it stands there; 0 for IPv6.
    pub checksum: u16,
    /// Through how many nodes it may still go.
    pub hops: u8,
    /// The protocol number of ICMP.
    pub protocol: u8,
    /// The packet that it is about; where its ports are is said in bytes from the IP header of the
    /// report on.
    pub about: Flow,
}

/// Reads a packet's headers.
#[inline(always)]
pub fn parse(packet: &impl Packet, family: Family) -> Found {
    let header = match family {
        Family::V4 => v4(packet, 0),
        Family::V6 => v6(packet, 0),
    };
    match header {
        Ok(header) => match header.protocol {
            TCP | UDP => match ports(packet, &header) {
                Some(flow) => Found::Flow(flow),
                None => Found::Other,
            },
            ICMP | ICMP6 => report(packet, &header).map_or(Found::Other, Found::Error),
            _ => Found::Other,
        },
        Err(found) => found,
    }
}

/// What both versions' headers say.
struct Header {
    family: Family,
    source: Address,
    destination: Address,
    protocol: u8,
    hops: u8,
    length: u16,
    checksum: u16,
    transport: u32,
}

#[inline(always)]
fn v4(packet: &impl Packet, at: u32) -> Result<Header, Found> {
    let Some(bytes) = packet.read::<20>(at) else {
        return Err(Found::Other);
    };
    let [
        version,
        _,
        length @ ..,
        _,
        _,
        fragment,
        place,
        hops,
        protocol,
        check,
        sum,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ] = bytes;
    let words = u32::from(version & 0x0f);
    if version >> 4 != 4 || words < 5 {
        return Err(Found::Other);
    }
    // More fragments follow, or this one is not the first (RFC 791, section 3.1).
    if fragment & 0x3f != 0 || place != 0 {
        return Err(Found::Left(Counter::Fragment));
    }
    Ok(Header {
        family: Family::V4,
        source: mapped([a, b, c, d]),
        destination: mapped([e, f, g, h]),
        protocol,
        hops,
        length: u16::from_be_bytes(length),
        checksum: u16::from_ne_bytes([check, sum]),
        transport: at + words * 4,
    })
}

#[inline(always)]
fn v6(packet: &impl Packet, at: u32) -> Result<Header, Found> {
    let Some(bytes) = packet.read::<40>(at) else {
        return Err(Found::Other);
    };
    let [version, _, _, _, high, low, protocol, hops, addresses @ ..] = bytes;
    if version >> 4 != 6 {
        return Err(Found::Other);
    }
    // Hop-by-hop, routing, fragment, encapsulating security, authentication, destination options
    // (RFC 8200, section 4.1).
    if matches!(protocol, 0 | 43 | 44 | 50 | 51 | 60) {
        return Err(Found::Left(Counter::Extension));
    }
    let ([source, destination], _) = addresses.as_chunks::<16>() else {
        return Err(Found::Other);
    };
    Ok(Header {
        family: Family::V6,
        source: *source,
        destination: *destination,
        protocol,
        hops,
        length: u16::from_be_bytes([high, low]).saturating_add(40),
        checksum: 0,
        transport: at + V6_HEADER,
    })
}

#[inline(always)]
fn ports(packet: &impl Packet, header: &Header) -> Option<Flow> {
    let (ports, flags): ([u8; 4], u8) = if header.protocol == TCP {
        let [a, b, c, d, .., flags] = packet.read::<14>(header.transport)?;
        ([a, b, c, d], flags)
    } else {
        let [a, b, c, d, ..] = packet.read::<8>(header.transport)?;
        ([a, b, c, d], 0)
    };
    Some(flow(header, ports, flags))
}

#[inline(always)]
fn flow(header: &Header, [a, b, c, d]: [u8; 4], flags: u8) -> Flow {
    Flow {
        tuple: Tuple {
            source: header.source,
            destination: header.destination,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            protocol: header.protocol,
            zero: [0; 3],
        },
        family: header.family,
        transport: header.transport,
        length: header.length,
        checksum: header.checksum,
        hops: header.hops,
        flags,
    }
}

#[inline(always)]
fn report(packet: &impl Packet, header: &Header) -> Option<Report> {
    let [kind, ..] = packet.read::<8>(header.transport)?;
    let at = header.transport + ICMP_HEADER;
    let about = match (header.family, header.protocol, kind) {
        // Destination unreachable, time exceeded, parameter problem (RFC 792).
        (Family::V4, ICMP, 3 | 11 | 12) => v4(packet, at).ok()?,
        // And packet too big (RFC 4443, section 3).
        (Family::V6, ICMP6, 1..=4) => v6(packet, at).ok()?,
        _ => return None,
    };
    if !matches!(about.protocol, TCP | UDP) {
        return None;
    }
    // More than eight bytes of the transport's header need not be there (RFC 792).
    let [a, b, c, d, ..] = packet.read::<8>(about.transport)?;
    Some(Report {
        source: header.source,
        destination: header.destination,
        transport: header.transport,
        checksum: header.checksum,
        hops: header.hops,
        protocol: header.protocol,
        about: flow(&about, [a, b, c, d], 0),
    })
}
