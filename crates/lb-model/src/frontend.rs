//! What a frontend does with a packet: decided once here, rendered by every data plane.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnetwork::IpNetwork;

/// IP family: each has its own tables, sets and maps, and its own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which they are programmed.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Transport protocol of a Service port (core/v1 `Protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The number in the IP header (`include/uapi/linux/in.h`).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// `namespace/name` of a Service. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name of Service `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One pod's address and port behind a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of the pod.
    pub ip: IpAddr,
    /// Target port on the pod.
    pub port: u16,
    /// On this node: it can talk to itself through a frontend (hairpin), and then needs masquerade.
    pub local: bool,
    /// On another node of the cluster, which its slice names; and no hints lead that node to other
    /// endpoints than this one has, so that a choice may be left to it.
    pub delegable: bool,
}

/// What a client aims at. Unique on a node: two Services never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendAddress {
    /// A ClusterIP, external IP or load-balancer IP.
    Vip {
        /// The destination address.
        ip: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// The destination port.
        port: u16,
    },
    /// A port on every node-port address of this node.
    NodePort {
        /// The family that it serves.
        family: Family,
        /// The transport protocol.
        protocol: Protocol,
        /// The port on the node.
        port: u16,
    },
}

impl FrontendAddress {
    /// The family that this frontend serves.
    pub const fn family(&self) -> Family {
        match self {
            Self::Vip { ip, .. } => Family::of(*ip),
            Self::NodePort { family, .. } => *family,
        }
    }

    /// The transport protocol.
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Vip { protocol, .. } | Self::NodePort { protocol, .. } => *protocol,
        }
    }

    /// The port that the client aims at.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Vip { port, .. } | Self::NodePort { port, .. } => *port,
        }
    }
}

/// Where a frontend's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort`.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip` with `ipMode: VIP`.
    LoadBalancer,
}

/// When the source address is rewritten to the node's (hairpin is decided apart, per connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Masquerade {
    /// Never.
    Never,
    /// When the local detector says that the source is no pod of this node or cluster.
    OffCluster,
    /// Always.
    Always,
}

/// What happens to a new connection that aims at a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// One of `endpoints` (never empty), each equally likely, whatever the source.
    Forward {
        /// The candidates, sorted, without duplicates.
        endpoints: Vec<Endpoint>,
        /// Whether the source is rewritten.
        masquerade: Masquerade,
    },
    /// externalTrafficPolicy Local. A pod (by the local detector) goes to `cluster`, unmasqueraded;
    /// the node itself goes to `cluster`, masqueraded; anybody else to `local`, with the source
    /// kept, or is dropped when `local` is empty. `cluster` may be empty, too (then: reject).
    LocalOnly {
        /// Candidates for pods and for the node itself.
        cluster: Vec<Endpoint>,
        /// Candidates on this node, for everybody else.
        local: Vec<Endpoint>,
    },
    /// No endpoint anywhere: an ICMP port unreachable, so that the client knows at once.
    Reject,
    /// Policy Local, endpoints elsewhere only: silently dropped, so that a balancer retries.
    Drop,
}

/// One frontend and all that is decided about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What the client aims at.
    pub address: FrontendAddress,
    /// Where the address comes from.
    pub kind: FrontendKind,
    /// Session affinity by client IP: seconds that a client stays with its endpoint.
    pub affinity: Option<NonZeroU32>,
    /// Only these sources may enter; the rest is dropped (`loadBalancerSourceRanges`, own family
    /// only, sorted, none inside another). `None`: everybody; empty: nobody, because no range was
    /// readable. Only ever set on [`FrontendKind::LoadBalancer`].
    pub allowed_sources: Option<Vec<IpNetwork>>,
    /// What happens to the connection.
    pub treatment: Treatment,
}

/// One port of a Service and its frontends in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `spec.ports[].name`, which may be empty.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// `internalTrafficPolicy: Local`: the endpoints behind the ClusterIP are this node's.
    pub internal_local: bool,
    /// Never empty.
    pub frontends: Vec<Frontend>,
}

/// How a packet's source is recognised as a pod's (`detectLocalMode`), resolved for one family.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LocalDetector {
    /// Cannot tell: nothing counts as off-cluster, and no pod is short-circuited.
    #[default]
    None,
    /// Source address inside one of these (modes ClusterCIDR and NodeCIDR).
    Cidr(IpNetwork),
    /// Came in through the interface of this name (mode BridgeInterface).
    Interface(String),
    /// Came in through an interface whose name starts so (mode InterfaceNamePrefix).
    InterfacePrefix(String),
}
