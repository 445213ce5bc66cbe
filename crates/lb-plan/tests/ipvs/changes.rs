//! What one change asks for, and in which order.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use lb_model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, LocalDetector, Masquerade, Packet,
    Protocol, ServiceName, Treatment,
};
use lb_plan::ipvs::{Applied, Key, render};
use lb_plan::nftables::{Target, Verdict};

use crate::node::{Cluster, Node};

const VIP: &str = "10.96.0.10";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node() -> Node {
    let own = BTreeSet::from([ip("192.0.2.1"), ip("198.51.100.1")]);
    Node::new(Family::V4, LocalDetector::None, &own)
}

fn endpoints(last: &[u8]) -> Treatment {
    let endpoints = last.iter().map(|last| Endpoint {
        ip: IpAddr::from([10, 244, 0, *last]),
        port: 6379,
        local: *last == 1,
        delegable: false,
    });
    Treatment::Forward {
        endpoints: endpoints.collect(),
        masquerade: Masquerade::Never,
    }
}

fn frontend(protocol: Protocol, treatment: Treatment) -> Frontend {
    Frontend {
        address: FrontendAddress::Vip {
            ip: ip(VIP),
            protocol,
            port: 6379,
        },
        kind: FrontendKind::ClusterIp,
        affinity: None,
        allowed_sources: None,
        treatment,
    }
}

fn cluster(frontends: impl Into<Vec<Frontend>>) -> Cluster {
    Cluster::from([(ServiceName::new("default", "redis"), frontends.into())])
}

fn tcp(last: &[u8]) -> Cluster {
    cluster([frontend(Protocol::Tcp, endpoints(last))])
}

/// A connection to the Service.
fn packet() -> Packet {
    Packet {
        source: ip("10.244.9.9"),
        interface: Some("eth0".to_owned()),
        destination: ip(VIP),
        protocol: Protocol::Tcp,
        port: 6379,
        source_is_node: false,
        destination_is_node_port_address: false,
    }
}

fn busy(node: &mut Node, last: u8) {
    let key = Key {
        ip: ip(VIP),
        protocol: Protocol::Tcp,
        port: 6379,
    };
    let target = Target {
        ip: IpAddr::from([10, 244, 0, last]),
        port: 6379,
    };
    node.busy.insert((key, target));
}

#[test]
fn a_service_comes_and_goes() {
    let mut node = node();
    let with_affinity = Frontend {
        affinity: NonZeroU32::new(10_800),
        ..frontend(Protocol::Tcp, endpoints(&[1, 2]))
    };
    let node_port = Frontend {
        address: FrontendAddress::NodePort {
            family: Family::V4,
            protocol: Protocol::Sctp,
            port: 30_000,
        },
        kind: FrontendKind::NodePort,
        ..frontend(Protocol::Sctp, endpoints(&[2]))
    };
    let done = node.go_to(&cluster([with_affinity, node_port]), |_| {});
    assert_eq!(
        render(&done),
        "-A -t 10.96.0.10:6379 -s rr -p 10800\n\
         -a -t 10.96.0.10:6379 -r 10.244.0.1:6379 -m -w 1\n\
         -a -t 10.96.0.10:6379 -r 10.244.0.2:6379 -m -w 1\n\
         -A --sctp-service 192.0.2.1:30000 -s rr\n\
         -a --sctp-service 192.0.2.1:30000 -r 10.244.0.2:6379 -m -w 1\n\
         -A --sctp-service 198.51.100.1:30000 -s rr\n\
         -a --sctp-service 198.51.100.1:30000 -r 10.244.0.2:6379 -m -w 1\n\
         address add 10.96.0.10 dev kube-ipvs0\n"
    );
    let done = node.go_to(&cluster([]), |_| {});
    assert_eq!(
        render(&done),
        "-e -t 10.96.0.10:6379 -r 10.244.0.1:6379 -m -w 0\n\
         -e -t 10.96.0.10:6379 -r 10.244.0.2:6379 -m -w 0\n\
         -D --sctp-service 192.0.2.1:30000\n\
         -D --sctp-service 198.51.100.1:30000\n\
         -D -t 10.96.0.10:6379\n\
         address delete 10.96.0.10 dev kube-ipvs0\n"
    );
    assert!(node.applied.is_empty());
}

#[test]
fn an_endpoint_drains_while_it_has_connections() {
    let mut node = node();
    node.go_to(&tcp(&[1, 2]), |_| {});
    busy(&mut node, 1);
    let done = node.go_to(&tcp(&[2, 3]), |_| {});
    assert_eq!(
        render(&done),
        "-a -t 10.96.0.10:6379 -r 10.244.0.3:6379 -m -w 1\n\
         -e -t 10.96.0.10:6379 -r 10.244.0.1:6379 -m -w 0\n"
    );
    // It is taken back, and leaves again.
    let done = node.go_to(&tcp(&[1, 2, 3]), |_| {});
    assert_eq!(
        render(&done),
        "-e -t 10.96.0.10:6379 -r 10.244.0.1:6379 -m -w 1\n"
    );
    node.go_to(&tcp(&[2, 3]), |_| {});
    // A restarted proxy knows who drains.
    node.applied = Applied::adopt(node.ipvs.found());
    assert_eq!(node.go_to(&tcp(&[2, 3]), |_| {}), []);
    node.busy.clear();
    let done = node.go_to(&Cluster::new(), |_| {});
    assert_eq!(render(&done), "-d -t 10.96.0.10:6379 -r 10.244.0.1:6379\n");
}

#[test]
fn a_service_without_endpoints_refuses_while_connections_go_on() {
    let mut node = node();
    node.go_to(&tcp(&[1]), |_| {});
    busy(&mut node, 1);
    let none = cluster([frontend(Protocol::Tcp, Treatment::Reject)]);
    let done = node.go_to(&none, |_| {});
    assert_eq!(
        render(&done),
        "-e -t 10.96.0.10:6379 -r 10.244.0.1:6379 -m -w 0\n"
    );
    assert_eq!(node.walk(&packet()), Verdict::Reject);
    assert!(
        node.ipvs.bound().contains(&ip(VIP)),
        "its packets still come in"
    );
    node.busy.clear();
    let done = node.go_to(&Cluster::new(), |_| {});
    assert_eq!(
        render(&done),
        "-D -t 10.96.0.10:6379\n\
         address delete 10.96.0.10 dev kube-ipvs0\n"
    );
}

#[test]
fn udp_flows_are_left_to_no_endpoint_that_went() {
    let mut node = node();
    let udp = |last: &[u8]| cluster([frontend(Protocol::Udp, endpoints(last))]);
    node.go_to(&udp(&[1, 2]), |_| {});
    // It serves those that it has.
    node.serving = BTreeSet::from([ip("10.244.0.1")]);
    node.busy.insert((
        Key {
            ip: ip(VIP),
            protocol: Protocol::Udp,
            port: 6379,
        },
        Target {
            ip: ip("10.244.0.1"),
            port: 6379,
        },
    ));
    let done = node.go_to(&udp(&[2]), |_| {});
    assert_eq!(
        render(&done),
        "-e -u 10.96.0.10:6379 -r 10.244.0.1:6379 -m -w 0\n"
    );
    node.serving.clear();
    let done = node.go_to(&udp(&[2]), |_| {});
    assert_eq!(render(&done), "-d -u 10.96.0.10:6379 -r 10.244.0.1:6379\n");
}

/// Between any two steps a new connection reaches an endpoint of before or of after.
#[test]
fn no_connection_is_refused_on_the_way() {
    let mut node = node();
    node.go_to(&tcp(&[1]), |_| {});
    let reaches = |node: &Node| match node.walk(&packet()) {
        Verdict::Translated { targets, .. } => assert!(!targets.is_empty()),
        other => panic!("{other:?}"),
    };
    node.go_to(&tcp(&[2]), reaches);
    // To what IPVS can't do, and back.
    let local = Treatment::LocalOnly {
        cluster: Vec::new(),
        local: vec![Endpoint {
            ip: ip("10.244.0.1"),
            port: 6379,
            local: true,
            delegable: false,
        }],
    };
    let external = |treatment| {
        cluster([Frontend {
            kind: FrontendKind::ExternalIp,
            ..frontend(Protocol::Tcp, treatment)
        }])
    };
    node.go_to(&external(local.clone()), reaches);
    node.go_to(&external(endpoints(&[1, 2])), reaches);
    node.go_to(&external(local), reaches);
    assert!(node.applied.is_empty(), "IPVS has nothing to do");
}

/// What could not be changed in the rules goes on as it was, and keeps nobody else's from going.
#[test]
fn a_service_is_let_go_of_when_its_rules_are() {
    let mut node = node();
    let other = ServiceName::new("default", "other");
    let at = |ip: &str| Frontend {
        address: FrontendAddress::Vip {
            ip: self::ip(ip),
            protocol: Protocol::Tcp,
            port: 6379,
        },
        ..frontend(Protocol::Tcp, endpoints(&[1]))
    };
    let mut both = tcp(&[1]);
    both.insert(other.clone(), vec![at("10.96.0.11")]);
    node.go_to(&both, |_| {});
    let (redis, _) = both.pop_last().unwrap();
    node.held.insert(redis.clone());
    let gone = Cluster::from([(redis, Vec::new()), (other, Vec::new())]);
    let done = node.go_to(&gone, |_| {});
    assert_eq!(
        render(&done),
        "-e -t 10.96.0.11:6379 -r 10.244.0.1:6379 -m -w 0\n\
         -D -t 10.96.0.11:6379\n\
         address delete 10.96.0.11 dev kube-ipvs0\n"
    );
    assert!(matches!(node.walk(&packet()), Verdict::Translated { .. }));
    node.held.clear();
    node.go_to(&gone, |_| {});
    assert!(node.applied.is_empty());
}

/// An external IP may be an address of the node, which it stays.
#[test]
fn the_nodes_own_addresses_are_left_alone() {
    let mut node = node();
    let external = |ip| {
        cluster([Frontend {
            address: FrontendAddress::Vip {
                ip,
                protocol: Protocol::Tcp,
                port: 6379,
            },
            kind: FrontendKind::ExternalIp,
            ..frontend(Protocol::Tcp, endpoints(&[1]))
        }])
    };
    let done = node.go_to(&external(ip("192.0.2.1")), |_| {});
    assert_eq!(
        render(&done),
        "-A -t 192.0.2.1:6379 -s rr\n\
         -a -t 192.0.2.1:6379 -r 10.244.0.1:6379 -m -w 1\n"
    );
    let other_port = Packet {
        destination: ip("192.0.2.1"),
        port: 22,
        ..packet()
    };
    assert_eq!(node.walk(&other_port), Verdict::Untouched);
    // Of an address that the node has for the Service only, no other port answers.
    node.go_to(&external(ip("203.0.113.7")), |_| {});
    let other_port = Packet {
        destination: ip("203.0.113.7"),
        ..other_port
    };
    assert_eq!(node.walk(&other_port), Verdict::Reject);
}
