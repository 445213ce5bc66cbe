//! What a socket believes to talk to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use causeway_tests::packet_bed::{self, Host, Seen};
use lb_model::Family;
use lb_model::said::{Ingress, Service};

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, at, node_port, node_port_service, service};

#[test]
fn the_peer_of_a_connection_is_the_frontend() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let _proxy = node.start_for_sockets_only(&mut world);
        for family in Family::ALL {
            let to = at(family, 1);
            let peer = || {
                let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                stream.peer_addr().unwrap()
            };
            assert_eq!(node.inside(node.bed.pod(1), peer), to);
        }
    });
}

/// A socket of `host` that is not connected, with an address of its own or `any` one.
fn unconnected(node: &Node<'_>, host: &Host, any: IpAddr) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    node.inside(host, open)
}

/// What the endpoint saw, whose answer the socket of `host` sees come from `to`.
#[track_caller]
fn exchange(node: &Node<'_>, host: &Host, socket: &UdpSocket, to: SocketAddr) -> Seen {
    let ask = || {
        socket.send_to(b"?", to)?;
        packet_bed::answer_udp(socket)
    };
    let (seen, from) = node.inside(host, ask).unwrap_or_else(|error| {
        panic!("{to}: {error}");
    });
    assert_eq!(from, to);
    seen
}

#[test]
fn datagrams_come_from_the_frontend_and_stay_with_an_endpoint_until_it_leaves() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        let mut proxy = node.start_for_sockets_only(&mut world);
        let pod = node.bed.pod(1);
        for family in Family::ALL {
            let to = at(family, 1);
            let socket = unconnected(node, pod, pod.ip(family));
            let first = exchange(node, pod, &socket, to).pod;
            for _ in 0..12 {
                assert_eq!(exchange(node, pod, &socket, to).pod, first);
            }
            let other = 5 - first;
            world.endpoints(node.bed, &service(1), &[other]);
            proxy.sync(&mut world);
            node.clear_packets();
            assert_eq!(exchange(node, pod, &socket, to).pod, other);
            world.endpoints(node.bed, &service(1), &[2, 3]);
            proxy.sync(&mut world);
            node.clear_packets();
            assert_eq!(exchange(node, pod, &socket, to).pod, other, "it stays");
        }
    });
}

/// A Service with every kind of address.
fn everywhere() -> Service {
    let ingress = |ip: &str| Ingress {
        ip: ip.into(),
        ..Ingress::default()
    };
    Service {
        kind: "LoadBalancer".into(),
        external_ips: vec!["203.0.113.7".into(), "2001:db8:113::7".into()],
        ingress: vec![ingress("203.0.113.9"), ingress("2001:db8:113::9")],
        ..node_port_service(1)
    }
}

/// Where sockets find [`everywhere`]; last on the loopback, which is the node's own.
fn addresses(node: &Node<'_>, family: Family) -> [SocketAddr; 5] {
    let at_node = node_port(node.bed, family, 1);
    let there = |text: &str| text.parse().unwrap();
    let (external, balancer, loopback) = match family {
        Family::V4 => ("203.0.113.7:80", "203.0.113.9:80", "127.0.0.1:0"),
        Family::V6 => ("[2001:db8:113::7]:80", "[2001:db8:113::9]:80", "[::1]:0"),
    };
    let mut loopback: SocketAddr = there(loopback);
    loopback.set_port(at_node.port());
    let [external, balancer] = [external, balancer].map(there);
    [at(family, 1), at_node, external, balancer, loopback]
}

/// The address that a socket of both families has for one of IPv4.
fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), to.port()).into(),
        IpAddr::V6(_) => to,
    }
}

#[test]
fn one_socket_exchanges_datagrams_with_every_address_of_a_service() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &everywhere(), &[2]);
        let _proxy = node.start_for_sockets_only(&mut world);
        let [v4, v6] = Family::ALL.map(|family| addresses(node, family));
        let (any_v4, any_v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        for (host, is_node) in [(&node.bed.node, true), (node.bed.pod(1), false)] {
            for (any, to) in [(any_v4, v4), (any_v6, v6), (any_v6, v4.map(mapped))] {
                let socket = unconnected(node, host, any);
                let all = if is_node {
                    &to[..]
                } else {
                    &to[..to.len() - 1]
                };
                for to in all {
                    let seen = exchange(node, host, &socket, *to);
                    assert_eq!(seen.pod, 2, "{to}");
                    if !is_node {
                        assert_eq!(seen.client, host.ip(Family::of(seen.client)), "{to}");
                    }
                }
            }
        }
    });
}
