//! What is known of packets that come to the node by an interface, and of the connections that they
//! belong to.

use crate::{Address, Backend, Traffic, TrafficKey};

/// An interface whose incoming packets the programs see; the key is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Interface {
    /// The node's IPv4 address for connections that leave here under the node's name, IPv4-mapped;
    /// zero without one.
    pub v4: Address,
    /// The node's IPv6 address for the same; zero without one.
    pub v6: Address,
    /// [`Interface::PODS`], [`Interface::NO_ETHERNET`].
    pub flags: u32,
}

impl Interface {
    /// Whatever comes in here comes from a pod (the local detector goes by interface).
    pub const PODS: u32 = 1;
    /// Its packets begin with the IP header.
    pub const NO_ETHERNET: u32 = 2;
}

/// The Ethernet address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct HardwareAddress {
    /// As it stands in a frame.
    pub octets: [u8; 6],
    /// Zero.
    pub zero: [u8; 2],
}

/// Somebody behind an interface, whose own interface a packet can be given to at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PeerKey {
    /// Index of the interface that routes lead to.
    pub interface: u32,
    /// The Ethernet address there.
    pub octets: [u8; 6],
    /// Zero.
    pub zero: [u8; 2],
}

/// A network whose addresses are pods', by the local detector: the key of a longest-prefix match
/// (`BPF_MAP_TYPE_LPM_TRIE`; the kernel wants the length first).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PodNetwork {
    /// Length of the prefix in bits; IPv4 counts from 96.
    pub length: u32,
    /// The network.
    pub address: Address,
}

/// Where a packet comes from that aims at a frontend which doesn't let everybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Source {
    /// [`crate::Frontend::sources`].
    pub list: u32,
    /// The address, or the network.
    pub address: Address,
}

/// A network on a list of sources: the key of a longest-prefix match, as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SourceRange {
    /// Length of the prefix in bits: those of the list, and then the network's, where IPv4 counts
    /// from 96.
    pub length: u32,
    /// The list, and the network.
    pub source: Source,
}

impl SourceRange {
    /// Bits of the list.
    pub const LIST: u32 = 32;

    /// A network of that list.
    #[must_use]
    pub const fn of(list: u32, network: &PodNetwork) -> Self {
        let address = network.address;
        Self {
            length: Self::LIST + network.length,
            source: Source { list, address },
        }
    }

    /// The network.
    #[must_use]
    pub const fn network(&self) -> PodNetwork {
        PodNetwork {
            length: self.length.saturating_sub(Self::LIST),
            address: self.source.address,
        }
    }
}

/// A packet's addresses and ports, as a packet bears them. (Aligned so that a processor that has no
/// access to what is not aligned takes few steps to copy it.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub zero: [u8; 3],
}

impl Tuple {
    /// Of nobody.
    pub const EMPTY: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        zero: [0; 3],
    };

    /// The tuple of an answer.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }
}

/// What all fragments of a datagram, or of a segment of TCP, have in common (RFC 791, section 3.2; RFC
/// 8200, section 4.5), as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct Datagram {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Its number among those of its sender: 16 bits with IPv4.
    pub identification: u32,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub zero: [u8; 3],
}

/// The ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// One direction of a connection that was translated. The other direction's key is
/// [`Track::partner`], and what that one becomes is this one's key reversed. Or the only direction of
/// one that this node sees, if it is [`Track::DIRECT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Track {
    /// When its last packet came, in nanoseconds of the monotonic clock.
    pub seen: u64,
    /// Packets of this direction.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// How many of the packets were counted for the Service port.
    pub counted_packets: u64,
    /// How many of the bytes were.
    pub counted_bytes: u64,
    /// What its packets become; if they are sent on as they came, what the endpoint's node makes of
    /// them, which says where that is.
    pub becomes: Tuple,
    /// [`Track::ANSWER`] and the other constants, or-ed; and in the uppermost 8 bits of
    /// [`Track::DIRECT`] ones through how many nodes their first packet could still go.
    pub flags: u32,
    /// [`crate::Frontend::service`], as the connection began.
    pub service: u32,
    /// Where its packets leave, since a moment in the second in which the last one came.
    pub hop: Hop,
    /// Zero.
    pub zero: u32,
}

/// The next node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Hop {
    /// Index of the interface.
    pub interface: u32,
    /// The family of the address (AF_INET or AF_INET6); 0 where it is a [`Peer`].
    pub family: u32,
    /// Its address, as it stands in a packet; or the peer.
    pub address: [u32; 4],
    /// How large a packet may be there, in bytes from the IP header on; 0: unknown.
    pub mtu: u32,
}

/// A next node that is another network namespace of this machine, at the other end of a virtual pair
/// (veth(4)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// Index of this end.
    pub end: u32,
    /// The destination and the source of a frame to it, as they stand there.
    pub frame: [u32; 3],
}

impl Hop {
    /// None.
    pub const NONE: Self = Self {
        interface: 0,
        family: 0,
        address: [0; 4],
        mtu: 0,
    };

    /// Leads to a peer instead, whose address is not needed then.
    #[inline(always)]
    pub const fn set_peer(&mut self, peer: Peer) {
        let [a, b, c] = peer.frame;
        (self.family, self.address) = (0, [a, b, c, peer.end]);
    }

    /// The peer, if it is one.
    #[inline(always)]
    #[must_use]
    pub const fn peer(&self) -> Option<Peer> {
        match self.address {
            [a, b, c, end] if self.family == 0 && end != 0 => Some(Peer {
                end,
                frame: [a, b, c],
            }),
            _ => None,
        }
    }
}

impl Track {
    /// This is the way back.
    pub const ANSWER: u32 = 1;
    /// A FIN went this way.
    pub const FINISHED: u32 = 2;
    /// A RST went this way.
    pub const RESET: u32 = 4;
    /// Its packets are sent to the endpoint's node as they came, and answers don't pass here.
    pub const DIRECT: u32 = 8;
    /// Of a [`Track::DIRECT`] one of TCP: the client went on, so that it was answered.
    pub const ANSWERED: u32 = 16;

    /// Where in the flags the hops are.
    pub const HOPS: u32 = 24;

    /// The flags of a [`Track::DIRECT`] one whose first packet can go through so many nodes.
    #[inline(always)]
    #[must_use]
    pub const fn direct(hops: u8) -> u32 {
        Self::DIRECT | (hops as u32) << Self::HOPS
    }

    /// Whether this is the way back.
    #[inline(always)]
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        self.flags & Self::ANSWER != 0
    }

    /// Whether its packets are sent on as they came.
    #[inline(always)]
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.flags & Self::DIRECT != 0
    }

    /// The key of the other direction, if there is one.
    #[inline(always)]
    #[must_use]
    pub const fn partner(&self) -> Option<Tuple> {
        if self.is_direct() {
            None
        } else {
            Some(self.becomes.reversed())
        }
    }

    /// What is yet to be counted for the Service port, and for which of its backends, if this is the
    /// track of `key`.
    #[inline(always)]
    #[must_use]
    pub const fn uncounted(&self, key: &Tuple) -> (TrafficKey, Traffic) {
        let answers = self.is_answer();
        let (address, port) = if answers {
            (key.source, key.source_port)
        } else {
            (self.becomes.destination, self.becomes.destination_port)
        };
        let backend = Backend {
            address,
            port,
            place: 0,
        };
        let packets = self.packets.saturating_sub(self.counted_packets);
        let bytes = self.bytes.saturating_sub(self.counted_bytes);
        let service = self.service;
        (
            TrafficKey { service, backend },
            Traffic::packets(packets, bytes, answers),
        )
    }
}

/// How far a TCP connection has come, by the flags of its two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has said that it is done.
    Open,
    /// One side has.
    Closing,
    /// Both have, or one has reset it.
    Closed,
}

impl Stage {
    /// By [`Track::flags`] of either direction.
    #[inline(always)]
    #[must_use]
    pub const fn of(one: u32, other: u32) -> Self {
        if (one | other) & Track::RESET != 0 || one & other & Track::FINISHED != 0 {
            Self::Closed
        } else if (one | other) & Track::FINISHED != 0 {
            Self::Closing
        } else {
            Self::Open
        }
    }
}

/// A client of a frontend with affinity whose packets are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ClientKey {
    /// Its address.
    pub address: Address,
    /// [`crate::Frontend::set`].
    pub set: u32,
}

/// What holds for all packets. The daemon writes it before it attaches the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Settings {
    /// The first port that masqueraded connections get. No socket of the node may get one of them:
    /// they lie outside `net.ipv4.ip_local_port_range`.
    pub first_port: u16,
    /// The last one.
    pub last_port: u16,
    /// How long a UDP flow that was answered is remembered when nothing comes, in seconds.
    pub udp_seconds: u32,
    /// How long one that was not answered is, in seconds.
    pub udp_unanswered_seconds: u32,
    /// Interfaces whose packets begin with the IP header, each by the bit of its index modulo 64:
    /// theirs do not meet the prefilter.
    pub no_ethernet: [u32; 2],
    /// What all nodes' Maglev tables and clients' hashes have in common, the lower half first.
    pub maglev_seed: [u32; 2],
}

impl Settings {
    /// The bit of an interface in [`Settings::no_ethernet`]: its word, and the bit as a word.
    #[inline(always)]
    #[must_use]
    pub const fn bit(interface: u32) -> (bool, u32) {
        (interface & 32 != 0, 1 << (interface & 31))
    }

    /// Whether packets of this interface, or of another one with the same bit, begin with the IP
    /// header.
    #[inline(always)]
    #[must_use]
    pub const fn may_lack_ethernet(&self, interface: u32) -> bool {
        let [low, high] = self.no_ethernet;
        let (upper, bit) = Self::bit(interface);
        (if upper { high } else { low }) & bit != 0
    }

    /// Above the kernel's default range of ports; and longer than the kernel's own timeouts.
    pub const DEFAULT: Self = Self {
        first_port: 61_000,
        last_port: 65_535,
        udp_seconds: 180,
        udp_unanswered_seconds: 30,
        no_ethernet: [0; 2],
        maglev_seed: [0; 2],
    };
}
