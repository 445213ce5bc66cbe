//! The layout of the maps that the kernel's side and the daemon's side share. It never decides
//! anything, and depends on nothing.
//!
//! Every type is plain integers without padding, so that equal values are equal bytes: the kernel
//! compares keys by their bytes. An address is 16 bytes; IPv4 is IPv4-mapped (`::ffff:a.b.c.d`,
//! RFC 4291, section 2.5.5.2), so that an IPv6 socket that talks IPv4 finds the same entry.
//! Numbers are in the machine's byte order.

#![no_std]

mod bytes;
mod events;
mod maglev;
mod packets;
pub mod prefilter;
mod sockets;
mod traffic;

pub use bytes::Plain;
pub use events::Event;
pub use maglev::{Row, RowKey};
pub use packets::{
    ClientKey, Datagram, HardwareAddress, Hop, Interface, Peer, PeerKey, PodNetwork, Ports,
    Settings, Source, SourceRange, Stage, Track, Tuple,
};
pub use sockets::{Connected, SHARING, SocketRules};
pub use traffic::{PortName, Traffic, TrafficKey};

/// Grows whenever a type or a map below changes its meaning, but for those of [`LASTING`]: maps of
/// another layout are not used.
pub const LAYOUT: u32 = 12;

/// Maps that established connections need, and the numbers of Service ports that they bear. They stay when others change their layout, so that each
/// group has a number of its own, which grows only when one of its own maps changes its meaning.
pub const LASTING: [(&str, u32, &[&str]); 3] = [
    (
        "connections",
        2,
        &[maps::TRACKS, maps::MARKS, maps::GENERATION],
    ),
    (
        "sockets",
        2,
        &[
            maps::SHARING,
            maps::REVERSE,
            maps::FLOWS,
            maps::CONNECTED_UDP,
            maps::CONNECTED_TCP,
        ],
    ),
    (
        "services",
        1,
        &[maps::SERVICES, maps::TRAFFIC, maps::SETTLED],
    ),
];

/// Names of the maps, also of their pins.
pub mod maps {
    /// [`crate::FrontendKey`] to [`crate::Frontend`].
    pub const FRONTENDS: &str = "frontends";
    /// [`crate::SlotKey`] to [`crate::Backend`].
    pub const BACKENDS: &str = "backends";
    /// [`crate::MemberKey`] to 1: which backends a set has whose clients are remembered, which are
    /// those with affinity and those of UDP.
    pub const MEMBERS: &str = "members";
    /// [`crate::AffinityKey`] to [`crate::Affinity`].
    pub const AFFINITY: &str = "affinity";
    /// [`crate::FlowKey`] to [`crate::Backend`]: UDP sockets that are not connected.
    pub const FLOWS: &str = "flows";
    /// [`crate::ReverseKey`] to [`crate::Original`].
    pub const REVERSE: &str = "reverse";
    /// [`crate::Counter`] as the index, to how often that happened, for each processor.
    pub const COUNTERS: &str = "counters";
    /// One entry: the cookie of the node's own network namespace (`SO_NETNS_COOKIE`).
    pub const NODE: &str = "node";
    /// Index of an interface to [`crate::Interface`].
    pub const INTERFACES: &str = "interfaces";
    /// Index of an interface whose frames are seen (XDP) to [`crate::HardwareAddress`].
    pub const WAYS_OUT: &str = "ways_out";
    /// [`crate::PeerKey`] to the index of the end of a virtual pair at which it is.
    pub const PEERS: &str = "peers";
    /// Two entries: interfaces by which packets that no Service is concerned with come that may be given to
    /// peers, each by the bit of its index modulo 64; and until when, in nanoseconds of the monotonic clock.
    pub const STRAIGHT: &str = "straight";
    /// Every address of the node, to 1.
    pub const OWN: &str = "own";
    /// [`crate::PodNetwork`] to 1.
    pub const PODS: &str = "pods";
    /// [`crate::PodNetwork`] (of Services, here) to [`crate::UNSERVED_REFUSED`],
    /// [`crate::UNSERVED_DROPPED`] or [`crate::UNSERVED_LEFT`]: what becomes of packets and calls that aim there and at no
    /// frontend. A longest-prefix match: a ClusterIP that a Service has, within the networks from
    /// which they are taken.
    pub const UNSERVED: &str = "unserved";
    /// [`crate::SourceRange`] to 1: from where packets may come that aim at a frontend with that list.
    /// A longest-prefix match.
    pub const SOURCES: &str = "sources";
    /// [`crate::Tuple`] to [`crate::Track`], both directions of every connection whose packets are
    /// translated.
    pub const TRACKS: &str = "tracks";
    /// [`crate::ClientKey`] to [`crate::Affinity`].
    pub const CLIENTS: &str = "clients";
    /// [`crate::Datagram`] to [`crate::Ports`]: what came in fragments, of which only the first one
    /// has ports.
    pub const FRAGMENTS: &str = "fragments";
    /// One entry: [`crate::Settings`].
    pub const SETTINGS: &str = "settings";
    /// [`crate::RowKey`] to [`crate::Row`]: Maglev tables.
    pub const ROWS: &str = "rows";
    /// Bits of frontends and of networks of Services: see [`crate::prefilter`].
    pub const AIMS: &str = "aims";
    /// The generation in which each cell was marked last: see [`crate::prefilter`].
    pub const MARKS: &str = "marks";
    /// One entry: the generation now.
    pub const GENERATION: &str = "generation";
    /// Cookie of a UDP socket to [`crate::Connected`].
    pub const CONNECTED_UDP: &str = "connected_udp";
    /// Cookie of a TCP socket to [`crate::Connected`].
    pub const CONNECTED_TCP: &str = "connected_tcp";
    /// A socket's cookie modulo [`crate::SHARING`] to how many sockets of these cookies have an entry in
    /// one of the two above: never fewer than there are.
    pub const SHARING: &str = "sharing";
    /// One entry: [`crate::SocketRules`].
    pub const SOCKET_RULES: &str = "socket_rules";
    /// [`crate::Frontend::service`] to [`crate::PortName`].
    pub const SERVICES: &str = "services";
    /// [`crate::TrafficKey`] to [`crate::Traffic`], for each processor; there once something went
    /// there.
    pub const TRAFFIC: &str = "traffic";
    /// [`crate::TrafficKey`] to [`crate::Traffic`] of tracks that the daemon took away: what the
    /// programs had not counted of them yet.
    pub const SETTLED: &str = "settled";
    /// One entry: until when somebody watches, in nanoseconds of the monotonic clock; 0: nobody.
    pub const WATCH: &str = "watch";
    /// A ring buffer of [`crate::Event`]: what happens while somebody watches.
    pub const EVENTS: &str = "events";
    /// One entry: how many events there was no room for, for each processor.
    pub const EVENTS_LOST: &str = "events_lost";
}

/// In [`maps::UNSERVED`]: the address is a Service's, the port is not. Refused as if it had no
/// backend.
pub const UNSERVED_REFUSED: u32 = 1;
/// In [`maps::UNSERVED`]: nobody has the address. Packets are dropped, and the node's own calls are
/// refused, since its packets meet no program.
pub const UNSERVED_DROPPED: u32 = 2;
/// In [`maps::UNSERVED`]: the address is a Service's for whose frontends there was no room. Left to the
/// stack, where the nftables data plane has them.
pub const UNSERVED_LEFT: u32 = 3;

/// An IPv4-mapped or IPv6 address.
pub type Address = [u8; 16];

/// The first 12 bytes of an IPv4-mapped address.
pub const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// What a client aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FrontendKey {
    /// Destination address.
    pub address: Address,
    /// Destination port.
    pub port: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// [`FrontendKey::INSIDE`] or [`FrontendKey::OUTSIDE`].
    pub view: u8,
}

impl FrontendKey {
    /// What sockets of this node and packets of pods find.
    pub const INSIDE: u8 = 0;
    /// What packets find that no pod sent, where the entry of the inside says that there is more:
    /// [`Frontend::OUTSIDE_DIFFERS`].
    pub const OUTSIDE: u8 = 1;
}

/// What happens there. At every moment the slots that it counts are filled, and the set is its own
/// for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Frontend {
    /// The set of backends.
    pub set: u32,
    /// How many there are, in slots 0 to `count - 1`. None: connections are refused.
    pub count: u32,
    /// How long a client stays with its backend, in seconds; 0: it doesn't.
    pub affinity_seconds: u32,
    /// [`Frontend::NODE_ONLY`] and the other constants, or-ed.
    pub flags: u32,
    /// The Maglev table by which packets' clients get a slot; 0: they get any. At every moment it
    /// is whole, and names no slot but those that are counted.
    pub table: u32,
    /// How many places the table has.
    pub places: u32,
    /// The number of the Service port, by which is counted what goes there; 0: nobody counts.
    pub service: u32,
    /// The list of networks from which packets may come ([`maps::SOURCES`]); 0: from anywhere. At
    /// every moment it is whole.
    pub sources: u32,
}

impl Frontend {
    /// Only for sockets of the node's own network namespace: a loopback address means something
    /// else in every other one.
    pub const NODE_ONLY: u32 = 1;
    /// Sockets that aim here are translated. Without this flag, and with [`Frontend::PACKETS`],
    /// what pods send here is translated or dropped packet by packet; the node's own packets meet no
    /// program, so that its calls are refused, or as [`Frontend::NODE_SOCKETS`] says.
    pub const SOCKETS: u32 = 2;
    /// Packets that come here are translated; else they are left to the stack, where the nftables
    /// data plane has the frontend.
    pub const PACKETS: u32 = 4;
    /// There is another entry of view [`FrontendKey::OUTSIDE`].
    pub const OUTSIDE_DIFFERS: u32 = 8;
    /// Connections of pods go on under the node's address.
    pub const MASQUERADE_PODS: u32 = 16;
    /// Connections of everybody else go on under the node's address.
    pub const MASQUERADE_OTHERS: u32 = 32;
    /// Packets are dropped.
    pub const DROP: u32 = 64;
    /// A node port: sockets of the node itself are not bound here.
    pub const NODE_PORT: u32 = 128;
    /// Of all sockets, only those of the node's own network namespace are translated.
    pub const NODE_SOCKETS: u32 = 256;
}

/// One place in a set of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SlotKey {
    /// The set.
    pub set: u32,
    /// The place.
    pub slot: u32,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Backend {
    /// The pod's address.
    pub address: Address,
    /// The port on the pod.
    pub port: u16,
    /// In the slots of frontends with direct return: [`Backend::HERE`], [`Backend::DELEGABLE`].
    /// Zero everywhere else.
    pub place: u16,
}

impl Backend {
    /// It is on this node, so that answers pass here: connections of others than pods go on under
    /// their own address.
    pub const HERE: u16 = 1;
    /// It is on another node, to which packets may be sent as they came: that node chooses it, too.
    pub const DELEGABLE: u16 = 2;

    /// None.
    pub const NONE: Self = Self {
        address: [0; 16],
        port: 0,
        place: 0,
    };

    /// The endpoint, wherever it is.
    #[inline(always)]
    #[must_use]
    pub const fn bare(self) -> Self {
        Self { place: 0, ..self }
    }
}

/// A backend that is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct MemberKey {
    /// The set.
    pub set: u32,
    /// The backend.
    pub backend: Backend,
}

/// A client of a Service port with affinity. Its network namespace stands for its address, which
/// a socket that connects doesn't have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct AffinityKey {
    /// `bpf_get_netns_cookie`.
    pub netns: u64,
    /// [`Frontend::set`].
    pub set: u32,
    /// Zero.
    pub zero: u32,
}

/// Where a client belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Affinity {
    /// When it last connected, in nanoseconds of the monotonic clock.
    pub seen: u64,
    /// Its backend.
    pub backend: Backend,
    /// Zero.
    pub zero: u32,
}

/// A UDP socket that is not connected, and what it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowKey {
    /// `bpf_get_socket_cookie`.
    pub socket: u64,
    /// What it sends to.
    pub frontend: FrontendKey,
    /// Zero.
    pub zero: u32,
}

/// A socket and the backend that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ReverseKey {
    /// `bpf_get_socket_cookie`.
    pub socket: u64,
    /// The backend.
    pub backend: Backend,
    /// IP protocol number.
    pub protocol: u32,
}

/// What the socket's owner believes to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Original {
    /// The frontend's address.
    pub address: Address,
    /// The frontend's port.
    pub port: u16,
    /// Zero.
    pub zero: u16,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// TCP sockets sent to a backend by `connect`.
    Connected = 0,
    /// Datagrams sent to a backend by `sendto` and its like.
    Sent = 1,
    /// Refused: there is no backend.
    Refused = 2,
    /// Let through untranslated, since a map entry was missing that had to be there. Never, unless
    /// something else changes our maps.
    Torn = 3,
    /// Translated, but the way back could not be remembered: the map was full of sockets in use.
    Forgotten = 4,
    /// Connections whose packets are translated from now on.
    Translated = 5,
    /// Packets refused, since there is no backend: with a TCP reset, or an ICMP error.
    PacketsRefused = 6,
    /// Packets that a frontend drops.
    PacketsDropped = 7,
    /// Fragments that are not the first one, and of which no first one came that is ours: left to
    /// the stack.
    Fragment = 8,
    /// IPv6 packets with extension headers, left to the stack.
    Extension = 9,
    /// Dropped: there was no free port to masquerade with.
    NoPort = 10,
    /// There is no way to where the packet shall go; a new connection is left to the stack, a
    /// packet of another one is dropped.
    NotForwarded = 11,
    /// Dropped: larger than the link to where it shall go takes; its sender is told.
    TooBig = 12,
    /// Dropped: the connection could not be remembered, since the map is full of those in use.
    Untracked = 13,
    /// Dropped: the kernel could not change the packet (it has no memory left).
    Unwritable = 14,
    /// ICMP errors about translated connections, translated as well, or sent on to the endpoint's
    /// node as they came.
    ErrorTranslated = 15,
    /// UDP sockets sent to a backend by `connect`.
    ConnectedUdp = 16,
    /// Refused to bind a socket to a node port.
    BindRefused = 17,
    /// ICMP errors about packets that are too large or refused, which were not made: there were too
    /// many.
    Unanswered = 18,
    /// Packets that were translated in the driver (XDP), and left by where they came.
    Turned = 19,
    /// Connections whose packets are sent to the endpoint's node as they came from now on.
    Direct = 20,
    /// Dropped: fragments of a datagram whose first one ended here.
    FragmentDropped = 21,
    /// Packets dropped since they come from where their Service lets nobody in
    /// (`loadBalancerSourceRanges`).
    SourceRefused = 22,
}

impl Counter {
    /// All of them, by index.
    pub const ALL: [Self; 23] = [
        Self::Connected,
        Self::Sent,
        Self::Refused,
        Self::Torn,
        Self::Forgotten,
        Self::Translated,
        Self::PacketsRefused,
        Self::PacketsDropped,
        Self::Fragment,
        Self::Extension,
        Self::NoPort,
        Self::NotForwarded,
        Self::TooBig,
        Self::Untracked,
        Self::Unwritable,
        Self::ErrorTranslated,
        Self::ConnectedUdp,
        Self::BindRefused,
        Self::Unanswered,
        Self::Turned,
        Self::Direct,
        Self::FragmentDropped,
        Self::SourceRefused,
    ];
}

/// An IPv4 address as a key has it.
#[must_use]
pub const fn mapped(ip: [u8; 4]) -> Address {
    let [a, b, c, d] = ip;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
