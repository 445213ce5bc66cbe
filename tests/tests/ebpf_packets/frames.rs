//! Packets made by hand, and what is right about others.

use std::net::{IpAddr, SocketAddr};

use nodekit::route::Mac;

use crate::maps::{TCP, UDP};

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// TCP flags.
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

/// A packet to make.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl Packet<'_> {
    /// Its bytes, with the Ethernet header of a packet to `mac`.
    pub(crate) fn frame(&self, mac: Mac) -> Vec<u8> {
        let mut frame = [mac.0, [2, 0, 0, 0, 0, 9]].concat();
        frame.extend(if self.from.is_ipv4() {
            [8, 0]
        } else {
            [0x86, 0xdd]
        });
        frame.extend(self.packet());
        frame
    }

    /// Its bytes from the IP header on.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut transport = self.transport();
        let sum = pseudo(self.from.ip(), self.to.ip(), self.protocol, transport.len());
        let at = if self.protocol == TCP { 16 } else { 6 };
        let sum = !folded(sum + sum_of(&transport));
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = header(self.from.ip(), self.to.ip(), self.protocol, transport.len());
        packet.extend(transport);
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.from.port(), self.to.port()].map(u16::to_be_bytes);
        let mut transport = ports.concat();
        if self.protocol == UDP {
            let length = u16::try_from(8 + self.payload.len()).unwrap();
            transport.extend(length.to_be_bytes());
            transport.extend([0, 0]);
        } else {
            transport.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0]);
            transport.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        transport.extend(self.payload);
        transport
    }
}

/// An IP header with so many bytes behind it.
pub(crate) fn header(from: IpAddr, to: IpAddr, protocol: u8, bytes: usize) -> Vec<u8> {
    let bytes = u16::try_from(bytes).unwrap();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((bytes + 20).to_be_bytes());
            header.extend([0, 7, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = !folded(sum_of(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(bytes.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// What stands in a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    /// From the transport's header on.
    pub(crate) transport: Vec<u8>,
}

impl Read {
    /// Reads what stands from the IP header on, whose checksums must be right, as must be the
    /// length.
    pub(crate) fn checked(packet: &[u8]) -> Self {
        let read = Self::quoted(packet);
        let said = if packet[0] >> 4 == 4 {
            usize::from(u16::from_be_bytes([packet[2], packet[3]]))
        } else {
            usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40
        };
        assert_eq!(said, packet.len(), "length");
        let none = read.protocol == UDP && read.transport[6..8] == [0, 0];
        let pseudo = match read.protocol {
            1 => 0,
            _ => pseudo(read.from, read.to, read.protocol, read.transport.len()),
        };
        let sum = folded(pseudo + sum_of(&read.transport));
        assert!(none || sum == 0xffff, "checksum of {read:?}");
        read
    }

    /// Reads what may be the beginning of a packet.
    pub(crate) fn quoted(packet: &[u8]) -> Self {
        if packet[0] >> 4 == 4 {
            assert_eq!(folded(sum_of(&packet[..20])), 0xffff, "header's checksum");
            let ip = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
            Self {
                from: ip(12),
                to: ip(16),
                protocol: packet[9],
                hops: packet[8],
                transport: packet[20..].to_vec(),
            }
        } else {
            let ip = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
            Self {
                from: ip(8),
                to: ip(24),
                protocol: packet[6],
                hops: packet[7],
                transport: packet[40..].to_vec(),
            }
        }
    }

    /// Its ports, if it has some.
    pub(crate) fn sockets(&self) -> (SocketAddr, SocketAddr) {
        let port = |at: usize| u16::from_be_bytes([self.transport[at], self.transport[at + 1]]);
        ((self.from, port(0)).into(), (self.to, port(2)).into())
    }
}

pub(crate) fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, bytes: usize) -> u64 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    sum_of(&octets(from)) + sum_of(&octets(to)) + u64::from(protocol) + bytes as u64
}

pub(crate) fn sum_of(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    words.map(word).sum()
}

pub(crate) fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
