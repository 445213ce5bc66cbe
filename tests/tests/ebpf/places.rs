//! Whose sockets are translated, and what they may aim at.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use causeway_tests::packet_bed::{self, Host, Seen};
use lb_model::Family;
use nodekit::Errno;

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, at, node_port, node_port_service, service};

/// For an answer that must not come: a late one goes unnoticed, which no busy machine can turn
/// into a failure.
const SILENCE: Duration = Duration::from_millis(200);

fn external_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([203, 0, 113, 7]),
        Family::V6 => "2001:db8:113::7".parse().unwrap(),
    }
}

fn loopback(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
        Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
    }
}

/// A Service with every kind of address before pods 2 and 3.
fn world(node: &Node<'_>) -> World {
    let mut world = World::empty();
    let mut service = node_port_service(1);
    service.external_ips = Family::ALL
        .map(|family| external_ip(family).to_string())
        .to_vec();
    world.serve(node.bed, &service, &[2, 3]);
    world
}

/// Where [`world`]'s Service is.
fn everywhere(node: &Node<'_>, family: Family) -> [SocketAddr; 3] {
    [
        at(family, 1),
        node_port(node.bed, family, 1),
        (external_ip(family), 80).into(),
    ]
}

/// Pods 2 and 3 answer `host`, and see its own address if it is a pod's.
#[track_caller]
fn reaches(node: &Node<'_>, host: &Host, to: SocketAddr, own: Option<IpAddr>) {
    let seen = node.tcp(host, to);
    let seen = seen.unwrap_or_else(|error| panic!("{to}: {error}"));
    assert!([2, 3].contains(&seen.pod), "{to}: {seen:?}");
    assert!(own.is_none_or(|own| own == seen.client), "{to}: {seen:?}");
}

/// A connection by a process that is not on this node's cgroup, which must not come about.
fn outside(host: &Host, to: SocketAddr) -> Result<Seen> {
    host.netns.run(|| packet_bed::tcp(to, SILENCE)).unwrap()
}

#[test]
fn sockets_are_translated_where_no_packet_is() {
    on_a_node(|node| {
        let _proxy = node.start_for_sockets_only(&mut world(node));
        let pod = node.bed.pod(1);
        for family in Family::ALL {
            for to in everywhere(node, family) {
                reaches(node, pod, to, Some(pod.ip(family)));
                reaches(node, &node.bed.node, to, None);
            }
        }
    });
}

#[test]
fn an_ipv6_socket_finds_the_ipv4_frontend() {
    on_a_node(|node| {
        let _proxy = node.start_for_sockets_only(&mut world(node));
        let IpAddr::V4(vip) = at(Family::V4, 1).ip() else {
            unreachable!();
        };
        let mapped = SocketAddr::from((vip.to_ipv6_mapped(), 80));
        let pod = node.bed.pod(1);
        reaches(node, pod, mapped, Some(pod.ip(Family::V4)));
        let peer = || {
            let stream = std::net::TcpStream::connect_timeout(&mapped, PATIENCE).unwrap();
            stream.peer_addr().unwrap()
        };
        assert_eq!(node.inside(pod, peer), mapped);
    });
}

#[test]
fn a_process_outside_the_cgroup_is_not_translated() {
    on_a_node(|node| {
        let _proxy = node.start_for_sockets_only(&mut world(node));
        for family in Family::ALL {
            for to in everywhere(node, family) {
                for host in [node.bed.pod(1), &node.bed.node] {
                    assert!(outside(host, to).is_err(), "{to}");
                }
            }
        }
    });
}

#[test]
fn the_nodes_loopback_serves_node_ports_and_a_pods_is_its_own() {
    on_a_node(|node| {
        let _proxy = node.start_for_sockets_only(&mut world(node));
        for family in Family::ALL {
            let to = loopback(family, node_port(node.bed, family, 1).port());
            reaches(node, &node.bed.node, to, None);
            let pod = node.bed.pod(1);
            let nobody = node.tcp(pod, to).unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused);
            let listener = pod.netns.run(|| TcpListener::bind(to)).unwrap().unwrap();
            let own = || std::net::TcpStream::connect_timeout(&to, PATIENCE);
            let stream = node.inside(pod, own).unwrap();
            let (_, client) = listener.accept().unwrap();
            assert_eq!(client, stream.local_addr().unwrap());
        }
    });
}

/// A packet to a ClusterIP would end at the uplink, which prohibits it: another error.
#[test]
fn without_endpoints_the_call_itself_is_refused() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[]);
        let _proxy = node.start_for_sockets_only(&mut world);
        for family in Family::ALL {
            let to = at(family, 1);
            for host in [node.bed.pod(1), &node.bed.node] {
                let refused = Some(Errno::ECONNREFUSED as i32);
                let error = node.tcp(host, to).unwrap_err();
                assert_eq!(error.raw_os_error(), refused, "{to}: {error}");
                let send = || {
                    UdpSocket::bind((host.towards(to), 0))
                        .unwrap()
                        .send_to(b"?", to)
                };
                let error = node.inside(host, send).unwrap_err();
                assert_eq!(error.raw_os_error(), refused, "{to}: {error}");
                let unseen = outside(host, to).unwrap_err();
                assert_ne!(unseen.raw_os_error(), refused, "{to}");
            }
        }
    });
}
