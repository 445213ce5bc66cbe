//! The oracle: where must this packet go?
//!
//! It agrees with kube-proxy 1.36 (nftables mode), in this order:
//!
//! 1. A destination that is a frontend's address, protocol and port is that frontend's.
//! 2. Otherwise a destination that is one of the node's node-port addresses is the NodePort
//!    frontend's of that family, protocol and port.
//! 3. Otherwise a destination that is the ClusterIP of a live Service is rejected: the port is
//!    undefined.
//! 4. Otherwise a destination in a ServiceCIDR is dropped: nobody has that ClusterIP.
//! 5. Anything else is not ours.
//!
//! A frontend with source ranges drops what comes from elsewhere, even if it would reject.

use std::net::IpAddr;

use crate::frontend::{
    Endpoint, Family, Frontend, FrontendAddress, LocalDetector, Masquerade, Protocol, Treatment,
};
use crate::model::Model;

/// The first packet of a connection, as the node sees it before any translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Interface it came in through; `None` when the node itself sends it.
    pub interface: Option<String>,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// The source is an address of this node (`fib saddr type local`).
    pub source_is_node: bool,
    /// The destination is one of this node's node-port addresses.
    pub destination_is_node_port_address: bool,
}

/// Where a packet must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one of these endpoints, each equally likely.
    Endpoints {
        /// The candidates, sorted.
        candidates: Vec<Endpoint>,
        /// Whether the source is rewritten (hairpin apart: see [`Route::masqueraded_to`]).
        masquerade: bool,
    },
    /// ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
    /// Not a frontend of ours: passes untouched.
    NotOurs,
}

impl Route {
    /// Whether the connection from `source` is masqueraded when `endpoint` is the one chosen.
    ///
    /// Besides the frontend's own decision this is hairpin: an endpoint on this node that reaches
    /// itself through a frontend would answer itself directly, past the translation.
    pub fn masqueraded_to(&self, endpoint: &Endpoint, source: IpAddr) -> bool {
        match self {
            Self::Endpoints { masquerade, .. } => {
                *masquerade || (endpoint.local && endpoint.ip == source)
            }
            Self::Reject | Self::Drop | Self::NotOurs => false,
        }
    }
}

impl Packet {
    /// The frontends that it may mean: the first that exists is meant.
    pub(crate) fn aims_at(&self) -> impl Iterator<Item = FrontendAddress> {
        let Self {
            destination: ip,
            protocol,
            port,
            ..
        } = *self;
        let node_port = FrontendAddress::NodePort {
            family: Family::of(ip),
            protocol,
            port,
        };
        let here = self.destination_is_node_port_address;
        [FrontendAddress::Vip { ip, protocol, port }]
            .into_iter()
            .chain(here.then_some(node_port))
    }
}

impl LocalDetector {
    /// Whether `packet` comes from a pod, as far as this detector can tell.
    pub fn is_pod(&self, packet: &Packet) -> bool {
        let interface = packet.interface.as_deref();
        match self {
            Self::None => false,
            Self::Cidr(cidr) => cidr.contains(packet.source),
            Self::Interface(name) => interface == Some(name),
            Self::InterfacePrefix(prefix) => interface.is_some_and(|name| name.starts_with(prefix)),
        }
    }
}

impl Model {
    /// Where `packet` must go.
    pub fn route_packet(&self, packet: &Packet) -> Route {
        if Family::of(packet.source) != Family::of(packet.destination) {
            return Route::NotOurs;
        }
        match packet.aims_at().find_map(|address| self.frontend(&address)) {
            Some(frontend) => {
                let detector = self.local_detector(frontend.address.family());
                route(frontend, &detector, packet)
            }
            None if self.is_live_cluster_ip(packet.destination) => Route::Reject,
            None if self.is_service_address(packet.destination) => Route::Drop,
            None => Route::NotOurs,
        }
    }
}

impl Model {
    fn is_service_address(&self, ip: IpAddr) -> bool {
        let cidrs = self.service_cidrs(Family::of(ip));
        cidrs.iter().any(|cidr| cidr.contains(ip))
    }
}

fn route(frontend: Frontend, detector: &LocalDetector, packet: &Packet) -> Route {
    if let Some(allowed) = &frontend.allowed_sources
        && !allowed.iter().any(|range| range.contains(packet.source))
    {
        return Route::Drop;
    }
    let pod = detector.is_pod(packet);
    match frontend.treatment {
        Treatment::Forward {
            endpoints,
            masquerade,
        } => {
            let masquerade = match masquerade {
                Masquerade::Never => false,
                Masquerade::OffCluster => *detector != LocalDetector::None && !pod,
                Masquerade::Always => true,
            };
            Route::Endpoints {
                candidates: endpoints,
                masquerade,
            }
        }
        Treatment::LocalOnly { cluster, .. } if pod || packet.source_is_node => {
            if cluster.is_empty() {
                return Route::Reject;
            }
            Route::Endpoints {
                candidates: cluster,
                masquerade: !pod,
            }
        }
        Treatment::LocalOnly { local, .. } if local.is_empty() => Route::Drop,
        Treatment::LocalOnly { local, .. } => Route::Endpoints {
            candidates: local,
            masquerade: false,
        },
        Treatment::Reject => Route::Reject,
        Treatment::Drop => Route::Drop,
    }
}
