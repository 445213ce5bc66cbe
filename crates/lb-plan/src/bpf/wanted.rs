//! What a frontend of the model is in the maps.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_ebpf_abi::{self as maps, Address, Backend, FrontendKey, mapped};
use lb_model::{Endpoint, Family, Frontend, FrontendAddress, Protocol, Treatment};

/// Where node ports are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// Addresses of this node.
    pub own: BTreeSet<IpAddr>,
    /// Loopback addresses, for sockets of the node's own network namespace.
    pub loopback: BTreeSet<IpAddr>,
}

/// What the maps shall have at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The address.
    pub key: FrontendKey,
    /// Sorted, without duplicates. None: refuse.
    pub backends: Vec<Backend>,
    /// Seconds; 0 without affinity.
    pub affinity_seconds: u32,
    /// Those of [`causeway_ebpf_abi::Frontend`].
    pub flags: u32,
}

impl Wanted {
    /// Whether somebody is remembered with a backend, so that it must be known which the set has:
    /// clients with affinity, and UDP sockets that are not connected.
    pub(super) fn remembers(&self) -> bool {
        self.affinity_seconds != 0 || self.key.protocol == super::UDP
    }
}

/// What the maps shall have for a frontend; nothing where its packets must be seen, because what
/// becomes of them depends on their source, or because there are no sockets to translate.
///
/// A socket's owner is a pod of this node or the node itself, so that a frontend of policy Local
/// leads it to all endpoints, as it does kube-proxy's pods.
pub fn wanted(frontend: &Frontend, node: &NodeAddresses) -> Vec<Wanted> {
    let protocol = frontend.address.protocol();
    if protocol == Protocol::Sctp || frontend.allowed_sources.is_some() {
        return Vec::new();
    }
    let endpoints: &[Endpoint] = match &frontend.treatment {
        Treatment::Forward { endpoints, .. } => endpoints,
        Treatment::LocalOnly { cluster, .. } => cluster,
        Treatment::Reject => &[],
        // Silence is the packets' business.
        Treatment::Drop => return Vec::new(),
    };
    let mut backends: Vec<_> = endpoints.iter().map(backend).collect();
    backends.sort_unstable();
    backends.dedup();
    let at = |ip: IpAddr, flags| Wanted {
        key: FrontendKey {
            address: address(ip),
            port: frontend.address.port(),
            protocol: protocol.number(),
            view: FrontendKey::INSIDE,
        },
        backends: backends.clone(),
        affinity_seconds: frontend.affinity.map_or(0, Into::into),
        flags: maps::Frontend::SOCKETS | flags,
    };
    match frontend.address {
        FrontendAddress::Vip { ip, .. } => vec![at(ip, 0)],
        FrontendAddress::NodePort { family, .. } => {
            let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
            let own = node.own.iter().filter(of_family).map(|ip| at(*ip, 0));
            let loopback = node.loopback.iter().filter(of_family);
            own.chain(loopback.map(|ip| at(*ip, maps::Frontend::NODE_ONLY)))
                .collect()
        }
    }
}

fn backend(endpoint: &Endpoint) -> Backend {
    Backend {
        address: address(endpoint.ip),
        port: endpoint.port,
        zero: 0,
    }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}
