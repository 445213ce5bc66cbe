//! Random frontends of a few Services, and a naive statement of what they do with a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use lb_model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, LocalDetector, Masquerade, Packet,
    Protocol, ServiceName, Treatment,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// The frontends of every Service.
pub(crate) type Cluster = BTreeMap<ServiceName, Vec<Frontend>>;

/// The frontends by their address, as the kernel sees them.
pub(crate) type ByAddress = BTreeMap<FrontendAddress, Frontend>;

/// Where a packet must go, by the letter of [`Treatment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Endpoints {
        candidates: BTreeSet<(IpAddr, u16)>,
        masquerade: bool,
        hairpin: BTreeSet<(IpAddr, u16)>,
        remembered: Option<NonZeroU32>,
    },
    Reject,
    Drop,
    NotOurs,
}

pub(crate) fn v4(d: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, d])
}

/// Pods are 10.1.0.1 to 10.1.0.6, the odd ones on this node.
pub(crate) fn pod(n: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, n])
}

pub(crate) const NODE: u8 = 100;

pub(crate) fn service(n: usize) -> ServiceName {
    ServiceName::new("default", &format!("service-{n}"))
}

fn endpoints(n: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<Endpoint>> {
    let all: Vec<Endpoint> = (1..=6)
        .flat_map(|n| [(n, 80), (n, 81)])
        .map(|(n, port)| Endpoint {
            ip: pod(n),
            port,
            local: n % 2 == 1,
            delegable: false,
        })
        .collect();
    subsequence(all, n)
}

fn treatment() -> impl Strategy<Value = Treatment> {
    let masquerade = select(vec![
        Masquerade::Never,
        Masquerade::OffCluster,
        Masquerade::Always,
    ]);
    prop_oneof![
        4 => (endpoints(1..=5), masquerade)
            .prop_map(|(endpoints, masquerade)| Treatment::Forward { endpoints, masquerade }),
        2 => endpoints(0..=5).prop_map(|cluster| {
            let local = cluster.iter().filter(|e| e.local).copied().collect();
            Treatment::LocalOnly { cluster, local }
        }),
        1 => Just(Treatment::Reject),
        1 => Just(Treatment::Drop),
    ]
}

fn sources() -> impl Strategy<Value = Option<Vec<ipnetwork::IpNetwork>>> {
    let all = [
        "10.1.0.0/16",
        "10.1.0.0/30",
        "10.1.0.2/32",
        "192.0.2.0/24",
        "0.0.0.0/1",
    ];
    let all: Vec<ipnetwork::IpNetwork> = all.iter().map(|s| s.parse().unwrap()).collect();
    proptest::option::weighted(0.4, subsequence(all, 0..=4))
}

/// Addresses 10.0.0.1 and .2 are ClusterIPs, .3 a balancer's.
fn address() -> impl Strategy<Value = (FrontendAddress, FrontendKind)> {
    let mut all = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for port in [80, 443] {
            for ip in 1..=3 {
                let kind = if ip == 3 {
                    FrontendKind::LoadBalancer
                } else {
                    FrontendKind::ClusterIp
                };
                all.push((
                    FrontendAddress::Vip {
                        ip: v4(ip),
                        protocol,
                        port,
                    },
                    kind,
                ));
            }
            let family = Family::V4;
            let address = FrontendAddress::NodePort {
                family,
                protocol,
                port: 30_000 + port,
            };
            all.push((address, FrontendKind::NodePort));
        }
    }
    select(all)
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let seconds = select(vec![
        None,
        None,
        NonZeroU32::new(10),
        NonZeroU32::new(10_800),
    ]);
    (address(), seconds, sources(), treatment()).prop_map(
        |((address, kind), affinity, sources, treatment)| Frontend {
            address,
            kind,
            affinity,
            allowed_sources: sources.filter(|_| kind == FrontendKind::LoadBalancer),
            treatment,
        },
    )
}

/// Up to ten frontends of three Services; no address twice.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    proptest::collection::vec((0..3_usize, frontend()), 0..10).prop_map(|frontends| {
        let mut taken = BTreeSet::new();
        let mut cluster: Cluster = (0..3).map(|n| (service(n), Vec::new())).collect();
        for (owner, frontend) in frontends {
            if taken.insert(frontend.address) {
                cluster.get_mut(&service(owner)).unwrap().push(frontend);
            }
        }
        cluster
    })
}

pub(crate) fn detector() -> impl Strategy<Value = LocalDetector> {
    select(vec![
        LocalDetector::None,
        LocalDetector::Cidr("10.1.0.0/16".parse().unwrap()),
        LocalDetector::Interface("cni0".into()),
        LocalDetector::InterfacePrefix("veth".into()),
    ])
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let source = select(vec![
        pod(1),
        pod(2),
        pod(3),
        IpAddr::from([192, 0, 2, 1]),
        v4(NODE),
    ]);
    let interface = select(vec!["cni0", "veth7", "eth0"]);
    let destination = select(vec![v4(1), v4(2), v4(3), v4(4), v4(NODE)]);
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    let port = select(vec![80, 443, 30_080, 30_443, 22]);
    (source, interface, destination, protocol, port).prop_map(
        |(source, interface, destination, protocol, port)| {
            let source_is_node = source == v4(NODE);
            Packet {
                source,
                interface: (!source_is_node).then(|| interface.to_owned()),
                destination,
                protocol,
                port,
                source_is_node,
                destination_is_node_port_address: destination == v4(NODE),
            }
        },
    )
}

pub(crate) fn by_address(cluster: &Cluster) -> ByAddress {
    let all = cluster.values().flatten();
    all.map(|frontend| (frontend.address, frontend.clone()))
        .collect()
}

/// Where `packet` must go.
pub(crate) fn expected(
    frontends: &ByAddress,
    detector: &LocalDetector,
    packet: &Packet,
) -> Expected {
    let Packet {
        destination: ip,
        protocol,
        port,
        ..
    } = *packet;
    let vip = frontends.get(&FrontendAddress::Vip { ip, protocol, port });
    let family = Family::V4;
    let node_port = packet
        .destination_is_node_port_address
        .then(|| {
            frontends.get(&FrontendAddress::NodePort {
                family,
                protocol,
                port,
            })
        })
        .flatten();
    let Some(frontend) = vip.or(node_port) else {
        let live = frontends.values().any(|frontend| {
            frontend.kind == FrontendKind::ClusterIp
                && matches!(frontend.address, FrontendAddress::Vip { ip: own, .. } if own == ip)
        });
        return if live {
            Expected::Reject
        } else {
            Expected::NotOurs
        };
    };
    if let Some(sources) = &frontend.allowed_sources
        && !sources.iter().any(|range| range.contains(packet.source))
    {
        return Expected::Drop;
    }
    let is_pod = *detector != LocalDetector::None && detector.is_pod(packet);
    match &frontend.treatment {
        Treatment::Reject => Expected::Reject,
        Treatment::Drop => Expected::Drop,
        Treatment::Forward {
            endpoints,
            masquerade,
        } => {
            let masquerade = match masquerade {
                Masquerade::Never => false,
                Masquerade::OffCluster => *detector != LocalDetector::None && !is_pod,
                Masquerade::Always => true,
            };
            to(endpoints, masquerade, frontend, packet)
        }
        Treatment::LocalOnly { cluster, .. } if is_pod || packet.source_is_node => {
            if cluster.is_empty() {
                return Expected::Reject;
            }
            to(cluster, !is_pod, frontend, packet)
        }
        Treatment::LocalOnly { local, .. } if local.is_empty() => Expected::Drop,
        Treatment::LocalOnly { local, .. } => to(local, false, frontend, packet),
    }
}

fn to(endpoints: &[Endpoint], masquerade: bool, frontend: &Frontend, packet: &Packet) -> Expected {
    let itself = endpoints
        .iter()
        .filter(|e| e.local && e.ip == packet.source);
    Expected::Endpoints {
        candidates: endpoints.iter().map(|e| (e.ip, e.port)).collect(),
        masquerade,
        hairpin: itself.map(|e| (e.ip, e.port)).collect(),
        remembered: frontend.affinity,
    }
}
