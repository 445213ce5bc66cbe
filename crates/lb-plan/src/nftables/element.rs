//! Sets, maps and their elements.

use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use lb_model::FrontendAddress;

use super::class::Class;

/// The sets and maps of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// (address, protocol, port) to the class's chain.
    Frontends,
    /// (protocol, port) to the class's chain.
    NodePorts,
    /// The addresses on which node ports are served.
    NodePortAddresses,
    /// ClusterIPs with at least one frontend: their other ports are rejected.
    ClusterIps,
    /// (range of addresses, any protocol) from which ClusterIPs are taken: what nobody has of them
    /// is dropped.
    ServiceCidrs,
    /// (address, protocol, port, slot) to (address, port) of an endpoint.
    Endpoints,
    /// (protocol, port, slot) to (address, port) of an endpoint.
    NodePortEndpoints,
    /// (address, protocol, port, source range) that may enter a restricted frontend.
    SourceRanges,
    /// (client, address, protocol, port) to (address, port) of the endpoint that the client stays
    /// with. Filled by the kernel, emptied by time.
    Affinity,
    /// (address, protocol, port) to the chain that remembers clients, for frontends with affinity.
    AffinityLearn,
    /// (protocol, port) to the chain that remembers clients, for node ports with affinity.
    AffinityLearnPorts,
    /// (address, address) of every endpoint on this node.
    Hairpin,
}

impl Set {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 12] = [
        Self::Frontends,
        Self::NodePorts,
        Self::NodePortAddresses,
        Self::ClusterIps,
        Self::ServiceCidrs,
        Self::Endpoints,
        Self::NodePortEndpoints,
        Self::SourceRanges,
        Self::Affinity,
        Self::AffinityLearn,
        Self::AffinityLearnPorts,
        Self::Hairpin,
    ];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "frontends",
            Self::NodePorts => "nodeports",
            Self::NodePortAddresses => "nodeport-addresses",
            Self::ClusterIps => "cluster-ips",
            Self::ServiceCidrs => "service-cidrs",
            Self::Endpoints => "endpoints",
            Self::NodePortEndpoints => "nodeport-endpoints",
            Self::SourceRanges => "source-ranges",
            Self::Affinity => "affinity",
            Self::AffinityLearn => "affinity-learn",
            Self::AffinityLearnPorts => "affinity-learn-ports",
            Self::Hairpin => "hairpin",
        }
    }

    /// Whether its elements carry data.
    pub const fn is_map(self) -> bool {
        matches!(
            self,
            Self::Frontends
                | Self::NodePorts
                | Self::Endpoints
                | Self::NodePortEndpoints
                | Self::Affinity
                | Self::AffinityLearn
                | Self::AffinityLearnPorts
        )
    }
}

/// Where a connection is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Address of the pod.
    pub ip: IpAddr,
    /// Port on the pod.
    pub port: u16,
}

/// One element of a set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// Of [`Set::Frontends`] or [`Set::NodePorts`].
    Frontend {
        /// The key.
        address: FrontendAddress,
        /// Where it goes.
        class: Class,
    },
    /// Of [`Set::Endpoints`] or [`Set::NodePortEndpoints`].
    Endpoint {
        /// The frontend's part of the key.
        address: FrontendAddress,
        /// Number of the endpoint: from 0, or from [`super::LOCAL_SLOTS`] for the local choice.
        slot: u16,
        /// The endpoint.
        target: Target,
    },
    /// Of [`Set::AffinityLearn`] or [`Set::AffinityLearnPorts`].
    Learn {
        /// The key.
        address: FrontendAddress,
        /// Seconds that a client is remembered: goes to that chain.
        seconds: NonZeroU32,
    },
    /// Of [`Set::SourceRanges`].
    SourceRange {
        /// The frontend's part of the key, a [`FrontendAddress::Vip`].
        address: FrontendAddress,
        /// Who may enter.
        source: IpNetwork,
    },
    /// Of [`Set::NodePortAddresses`].
    NodePortAddress(IpAddr),
    /// Of [`Set::ClusterIps`].
    ClusterIp(IpAddr),
    /// Of [`Set::ServiceCidrs`].
    ServiceCidr(IpNetwork),
    /// Of [`Set::Hairpin`], twice in its key.
    Hairpin(IpAddr),
}

impl Element {
    /// The set or map that it belongs to.
    pub const fn set(&self) -> Set {
        match self {
            Self::Frontend { address, .. } => match address {
                FrontendAddress::Vip { .. } => Set::Frontends,
                FrontendAddress::NodePort { .. } => Set::NodePorts,
            },
            Self::Endpoint { address, .. } => match address {
                FrontendAddress::Vip { .. } => Set::Endpoints,
                FrontendAddress::NodePort { .. } => Set::NodePortEndpoints,
            },
            Self::Learn { address, .. } => match address {
                FrontendAddress::Vip { .. } => Set::AffinityLearn,
                FrontendAddress::NodePort { .. } => Set::AffinityLearnPorts,
            },
            Self::SourceRange { .. } => Set::SourceRanges,
            Self::NodePortAddress(_) => Set::NodePortAddresses,
            Self::ClusterIp(_) => Set::ClusterIps,
            Self::ServiceCidr(_) => Set::ServiceCidrs,
            Self::Hairpin(_) => Set::Hairpin,
        }
    }
}
