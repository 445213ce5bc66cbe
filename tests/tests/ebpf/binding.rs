//! Ports that are Services'.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::Options;
use causeway_tests::packet_bed::Host;
use lb_model::Family;

use crate::node::{Node, on_a_node};
use crate::world::{World, node_port, node_port_service};

/// Binds sockets of TCP and UDP; both do or both don't.
fn bind(node: &Node<'_>, host: &Host, at: SocketAddr) -> Result<()> {
    let bind = || (TcpListener::bind(at).map(drop), UdpSocket::bind(at));
    let (tcp, udp) = node.inside(host, bind);
    let udp = udp.map(drop);
    assert_eq!(tcp.is_ok(), udp.is_ok(), "{at}: {tcp:?} {udp:?}");
    tcp.and(udp)
}

#[track_caller]
fn refused(node: &Node<'_>, host: &Host, at: SocketAddr) {
    let bound = bind(node, host, at).map_err(|error| error.kind());
    assert_eq!(bound, Err(ErrorKind::AddrInUse), "{at}");
}

/// Where a socket on the node would take a node port away.
fn taken(node: &Node<'_>) -> Vec<SocketAddr> {
    let port = node_port(node.bed, Family::V4, 1).port();
    let IpAddr::V4(own) = node.bed.node.ip(Family::V4) else {
        unreachable!();
    };
    let ips = [
        own.into(),
        own.to_ipv6_mapped().into(),
        node.bed.node.ip(Family::V6),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    ips.map(|ip: IpAddr| (ip, port).into()).to_vec()
}

#[test]
fn a_node_port_is_not_to_be_had_on_the_node_and_free_everywhere_else() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2]);
        let mut proxy = node.start(&world);
        for at in taken(node) {
            bind(node, &node.bed.node, at).unwrap();
        }
        proxy.sync(&mut world);
        let pod = node.bed.pod(1);
        for at in taken(node) {
            refused(node, &node.bed.node, at);
            let other = SocketAddr::new(at.ip(), at.port() + 1);
            bind(node, &node.bed.node, other).unwrap();
            if at.ip().is_unspecified() || at.ip().is_loopback() {
                bind(node, pod, at).unwrap();
            }
        }
        // An address of the node that serves no node ports.
        let beside = SocketAddr::from(([10, 244, 1, 1], taken(node)[0].port()));
        bind(node, &node.bed.node, beside).unwrap();
        // The kernel's own choice.
        bind(node, &node.bed.node, (Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let counts = proxy.backend.ebpf_counts().unwrap();
        let mut drops = counts.drops();
        let refusals = drops.find(|one| one.what == "bind_to_node_port").unwrap();
        assert_eq!(
            refusals.count,
            2 * u64::try_from(taken(node).len()).unwrap()
        );

        world.gone(&node_port_service(1));
        proxy.sync(&mut world);
        for at in taken(node) {
            bind(node, &node.bed.node, at).unwrap();
        }
    });
}

#[test]
fn ports_are_guarded_while_no_daemon_runs_and_not_where_nobody_wants_it() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2]);
        node.start(&world).sync(&mut world);
        refused(node, &node.bed.node, taken(node)[0]);
        let options = Options {
            guard_node_ports: false,
            ..node.cell.options()
        };
        let _proxy = node.start_with(&world, &options);
        for at in taken(node) {
            bind(node, &node.bed.node, at).unwrap();
        }
    });
}
