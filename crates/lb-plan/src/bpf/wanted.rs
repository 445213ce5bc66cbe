//! What a frontend of the model is in the maps, and whether that is all of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_ebpf_abi::{self as maps, Address, Backend, FrontendKey, PodNetwork, mapped};
use lb_model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Masquerade, Protocol, Treatment,
};

use super::networks::network;

/// What a frontend's entries depend on besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Addresses of this node on which node ports are served.
    pub own: BTreeSet<IpAddr>,
    /// Loopback addresses, for sockets of the node's own network namespace.
    pub loopback: BTreeSet<IpAddr>,
    /// Every address of this node: an endpoint there sends its answers by no interface.
    pub here: BTreeSet<IpAddr>,
    /// Families of which it can be told who is a pod.
    pub detects: BTreeSet<Family>,
    /// Packets are translated at every interface; else at none.
    pub packets: bool,
    /// A UDP socket that connects is translated, too; else the packets that the node itself sends by
    /// such a socket meet no program.
    pub connected_udp: bool,
    /// ClusterIPs are for packets, too; else for sockets of this node only.
    pub external_cluster_ips: bool,
    /// Answers of endpoints on other nodes go from there to the client, where that may be.
    pub direct: bool,
}

impl Node {
    /// Whether packets that aim at `frontend` are for the maps.
    fn serves_packets(&self, frontend: &Frontend) -> bool {
        self.external_cluster_ips || frontend.kind != FrontendKind::ClusterIp
    }

    /// Whether one of them is at this very node: its answers come in by no interface.
    fn is_among<'a>(&self, mut endpoints: impl Iterator<Item = &'a Endpoint>) -> bool {
        endpoints.any(|endpoint| self.here.contains(&endpoint.ip))
    }
}

/// What the maps shall have at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The address.
    pub key: FrontendKey,
    /// Sorted, without duplicates. None: refuse, or drop as the flags say.
    pub backends: Vec<Backend>,
    /// Seconds; 0 without affinity.
    pub affinity_seconds: u32,
    /// Those of [`causeway_ebpf_abi::Frontend`].
    pub flags: u32,
    /// Clients from outside come here, and none of them stays with its backend: they are spread by a
    /// table, where there are tables.
    pub spread: bool,
    /// The number of the Service port.
    pub service: u32,
    /// The networks from which packets may come; `None`: from anywhere.
    pub sources: Option<BTreeSet<PodNetwork>>,
}

impl Wanted {
    /// Whether somebody is remembered with a backend, so that it must be known which the set has:
    /// clients with affinity, and UDP sockets that are not connected.
    pub(super) fn remembers(&self) -> bool {
        self.affinity_seconds != 0 || self.key.protocol == super::UDP
    }
}

/// Whether the maps can do all that `frontend` asks for, so that no other data plane needs to have
/// it. What is left to another one:
///
/// - SCTP;
/// - endpoints that are this node itself, where packets are served: their answers come in by no
///   interface;
/// - what only packets show, where they are not served: silence, at a ClusterIP that is for sockets
///   only.
pub fn is_taken(frontend: &Frontend, node: &Node) -> bool {
    let by_calls = frontend.address.protocol() != Protocol::Udp || node.connected_udp;
    let taken = |sides: Sides<'_>| match node.serves_packets(frontend) {
        true => sides.packets(node),
        false => !sides.by_packets,
    };
    by_calls && sides(frontend).is_some_and(taken)
}

/// Whether packets that aim at `frontend` are translated where there is a program at the interfaces.
/// Whether there is one makes no difference: it is asked to know who needs it.
pub fn needs_hooks(frontend: &Frontend, node: &Node) -> bool {
    let possible = |sides: Sides<'_>| !node.is_among(sides.all());
    node.serves_packets(frontend) && sides(frontend).is_some_and(possible)
}

/// Who may be told what.
struct Sides<'a> {
    /// What becomes of pods' calls shows by their packets alone: their sources, and silence.
    by_packets: bool,
    /// Sockets of this node, pods, and, unless `outside` says otherwise, everybody.
    inside: &'a [Endpoint],
    outside: Option<&'a [Endpoint]>,
    masquerade: Masquerade,
}

impl Sides<'_> {
    fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.inside.iter().chain(self.outside.into_iter().flatten())
    }

    /// Whether packets can be translated, too.
    fn packets(&self, node: &Node) -> bool {
        node.packets && !node.is_among(self.all())
    }

    fn masquerade(&self, detects: bool) -> u32 {
        match self.masquerade {
            Masquerade::Never => 0,
            Masquerade::OffCluster if detects => maps::Frontend::MASQUERADE_OTHERS,
            Masquerade::OffCluster => 0,
            Masquerade::Always => {
                maps::Frontend::MASQUERADE_OTHERS | maps::Frontend::MASQUERADE_PODS
            }
        }
    }
}

/// `None`: nothing of it is for the maps.
fn sides(frontend: &Frontend) -> Option<Sides<'_>> {
    if frontend.address.protocol() == Protocol::Sctp {
        return None;
    }
    let all = |inside, masquerade| Sides {
        by_packets: frontend.allowed_sources.is_some(),
        inside,
        outside: None,
        masquerade,
    };
    Some(match &frontend.treatment {
        Treatment::Forward {
            endpoints,
            masquerade,
        } => all(endpoints, *masquerade),
        Treatment::LocalOnly { cluster, local } => Sides {
            outside: Some(local),
            ..all(cluster, Masquerade::Never)
        },
        Treatment::Reject => all(&[], Masquerade::Never),
        Treatment::Drop => Sides {
            by_packets: true,
            ..all(&[], Masquerade::Never)
        },
    })
}

/// Whether the node itself may come to an address that does not let everybody in. The ranges of the
/// model have that very address where they have the node's.
fn admits_node(frontend: &Frontend) -> bool {
    let FrontendAddress::Vip { ip, .. } = frontend.address else {
        return false;
    };
    let mut ranges = frontend.allowed_sources.iter().flatten();
    ranges.any(|range| range.contains(ip))
}

/// Flags of what sockets and pods find.
fn inside_flags(frontend: &Frontend, sides: &Sides<'_>, node: &Node, packets: bool) -> u32 {
    let mut flags = match sides.by_packets {
        false => maps::Frontend::SOCKETS,
        true if admits_node(frontend) => maps::Frontend::NODE_SOCKETS,
        true => 0,
    };
    if packets {
        let detects = node.detects.contains(&frontend.address.family());
        flags |= maps::Frontend::PACKETS | sides.masquerade(detects);
        if sides.outside.is_some() {
            flags |= maps::Frontend::OUTSIDE_DIFFERS;
        }
        if frontend.treatment == Treatment::Drop {
            flags |= maps::Frontend::DROP;
        }
    }
    flags
}

/// What the maps shall have for a frontend of the Service port of that number. Where only its packets tell what becomes of them, that
/// is entries without any flags: so that nobody takes it for an address without a frontend.
///
/// A socket's owner is a pod of this node or the node itself, so that a frontend of policy Local
/// leads it to all endpoints, as it does kube-proxy's pods. What others find there comes first, so
/// that it is written before anybody is told to look for it.
pub fn wanted(frontend: &Frontend, node: &Node, service: u32) -> Vec<Wanted> {
    let Some(sides) = sides(frontend) else {
        return left(frontend, node, service);
    };
    let packets = node.serves_packets(frontend) && sides.packets(node);
    if sides.by_packets && !packets {
        return left(frontend, node, service);
    }
    let flags = inside_flags(frontend, &sides, node, packets);
    let outside = sides.outside.filter(|_| packets);
    let spread = packets && frontend.kind != FrontendKind::ClusterIp && frontend.affinity.is_none();
    // Nodes have other addresses each, so that no other one knows a node port of this one's.
    let direct = node.direct && spread && frontend.kind != FrontendKind::NodePort;
    let sources = frontend.allowed_sources.as_ref();
    let sources = sources.map(|ranges| ranges.iter().copied().map(network).collect());
    let at = |ip, view, endpoints: &[Endpoint], flags| Wanted {
        key: key(frontend, ip, view),
        backends: backends(endpoints, direct),
        affinity_seconds: frontend.affinity.map_or(0, Into::into),
        flags,
        spread: false,
        service,
        sources: sources.clone(),
    };
    let both = |ip: IpAddr| {
        let outside = outside.map(|local| {
            let silence = if local.is_empty() {
                maps::Frontend::DROP
            } else {
                0
            };
            let flags = maps::Frontend::PACKETS | silence;
            Wanted {
                spread,
                ..at(ip, FrontendKey::OUTSIDE, local, flags)
            }
        });
        let inside = Wanted {
            spread: spread && outside.is_none(),
            ..at(ip, FrontendKey::INSIDE, sides.inside, flags)
        };
        outside.into_iter().chain([inside])
    };
    match frontend.address {
        FrontendAddress::Vip { ip, .. } => both(ip).collect(),
        FrontendAddress::NodePort { family, .. } => {
            let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
            let own = node.own.iter().filter(of_family).flat_map(|ip| both(*ip));
            let own = own.map(|mut wanted| {
                if wanted.key.view == FrontendKey::INSIDE {
                    wanted.flags |= maps::Frontend::NODE_PORT;
                }
                wanted
            });
            let loopback = node.loopback.iter().filter(of_family).map(|ip| {
                let flags = maps::Frontend::SOCKETS | maps::Frontend::NODE_ONLY;
                at(*ip, FrontendKey::INSIDE, sides.inside, flags)
            });
            own.chain(loopback).collect()
        }
    }
}

fn left(frontend: &Frontend, node: &Node, service: u32) -> Vec<Wanted> {
    let at = |ip, flags| Wanted {
        key: key(frontend, ip, FrontendKey::INSIDE),
        backends: Vec::new(),
        affinity_seconds: 0,
        flags,
        spread: false,
        service,
        sources: None,
    };
    match frontend.address {
        address if address.protocol() == Protocol::Sctp => Vec::new(),
        FrontendAddress::Vip { ip, .. } => vec![at(ip, 0)],
        FrontendAddress::NodePort { family, .. } => {
            let own = node.own.iter().filter(|ip| Family::of(**ip) == family);
            own.map(|ip| at(*ip, maps::Frontend::NODE_PORT)).collect()
        }
    }
}

fn key(frontend: &Frontend, ip: IpAddr, view: u8) -> FrontendKey {
    FrontendKey {
        address: address(ip),
        port: frontend.address.port(),
        protocol: frontend.address.protocol().number(),
        view,
    }
}

/// With direct return, each with its place.
fn backends(endpoints: &[Endpoint], direct: bool) -> Vec<Backend> {
    let backends = endpoints.iter().map(|endpoint| Backend {
        address: address(endpoint.ip),
        port: endpoint.port,
        place: match endpoint {
            Endpoint { local: true, .. } if direct => Backend::HERE,
            Endpoint {
                delegable: true, ..
            } if direct => Backend::DELEGABLE,
            _ => 0,
        },
    });
    let mut backends: Vec<_> = backends.collect();
    backends.sort_unstable();
    backends.dedup_by_key(|backend| backend.bare());
    backends
}

/// An address as keys have it.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests;
