//! What the rules of one family depend on besides the Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_model::{Family, LocalDetector};

use super::rule::{Counter, Match};

/// Where node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On every address of this node, whenever it comes.
    EveryLocal,
    /// On these.
    These(BTreeSet<IpAddr>),
}

/// What the rules of one family depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The family.
    pub family: Family,
    /// Number of the bit of the packet's mark (0 to 31) that says "rewrite the source"
    /// (`masqueradeBit`).
    pub masquerade_bit: u8,
    /// How a source is recognised as a pod's.
    pub detector: LocalDetector,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Node ports answer on 127.0.0.0/8, too (`localhostNodePorts`); IPv4 only. The kernel must be
    /// told by `net.ipv4.conf.all.route_localnet`.
    pub localhost_node_ports: bool,
    /// Packets that connection tracking finds invalid are let through
    /// (`conntrack.tcpBeLiberal`).
    pub tcp_be_liberal: bool,
    /// The kernel has the counters that rules count with ([`super::Counter`]).
    pub counters: bool,
}

impl Settings {
    /// The masquerade mark, which is its own mask.
    pub const fn mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }

    /// Counts with `counter` where the kernel has it.
    pub(super) fn counted(&self, counter: Counter) -> Option<Match> {
        self.counters.then_some(Match::Counted(counter))
    }

    /// Whether node ports answer on loopback addresses.
    pub fn serves_localhost(&self) -> bool {
        self.localhost_node_ports && self.family == Family::V4
    }
}
