//! Clients from outside that are spread by Maglev tables.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::{Dump, EbpfBackend, Options};
use causeway_tests::packet_bed::ask_udp;
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use lb_plan::bpf::Maglev;

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, node_port, node_port_service};

fn options(node: &Node<'_>) -> Options {
    Options {
        maglev: Some(Maglev::default()),
        ..node.cell.options()
    }
}

fn world(node: &Node<'_>, pods: &[usize]) -> World {
    let mut world = World::empty();
    world.serve(node.bed, &node_port_service(1), pods);
    world
}

/// Which pod answers each of these ports of the client.
fn pods(node: &Node<'_>, ports: std::ops::Range<u16>) -> Vec<usize> {
    let client = &node.bed.client;
    let both = Family::ALL.map(|family| node_port(node.bed, family, 1));
    let asks = both
        .iter()
        .flat_map(|to| ports.clone().map(move |port| (to, port)));
    asks.map(|(to, port)| {
        let open = || UdpSocket::bind((client.towards(*to), port)).unwrap();
        let socket = client.netns.run(open).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ask_udp(&socket).unwrap().pod
    })
    .collect()
}

/// Which they are on a node that has never seen any of them.
fn on_another_node(
    node: &Node<'_>,
    endpoints: &[usize],
    ports: std::ops::Range<u16>,
) -> Vec<usize> {
    let mut world = world(node, endpoints);
    let mut proxy = node.start_with(&world, &options(node));
    proxy.sync(&mut world);
    let pods = pods(node, ports);
    drop(proxy);
    let cleanup = || EbpfBackend::cleanup(&options(node)).unwrap();
    node.bed.node.netns.run(cleanup).unwrap();
    // The kernel detaches in the background.
    let free = || node.programs_at_packets() == 0;
    wait_until("interfaces free", PATIENCE, free).unwrap();
    pods
}

#[test]
fn every_node_gives_a_client_the_same_endpoint() {
    const PORTS: std::ops::Range<u16> = 20_000..20_040;
    on_a_node(|node| {
        let first = on_another_node(node, &[1, 2, 3], PORTS);
        assert_eq!(BTreeSet::from_iter(&first).len(), 3, "{first:?}");
        assert_eq!(on_another_node(node, &[3, 1, 2], PORTS), first);
        // Whose endpoint did not leave stays with it, but for a few.
        let fewer = on_another_node(node, &[1, 3], PORTS);
        let both = first.iter().zip(&fewer);
        let moved = both.filter(|(before, after)| **before != 2 && before != after);
        assert!(moved.count() <= 1, "{first:?} {fewer:?}");
    });
}

#[test]
fn a_restart_and_a_change_leave_clients_where_they_were() {
    on_a_node(|node| {
        let expected = on_another_node(node, &[1, 2, 3], 20_000..20_020);
        let mut world = world(node, &[1, 2, 3]);
        let mut proxy = node.start_with(&world, &options(node));
        proxy.sync(&mut world);
        world.endpoints(node.bed, &node_port_service(1), &[1, 2]);
        proxy.sync(&mut world);
        world.endpoints(node.bed, &node_port_service(1), &[1, 2, 3]);
        proxy.sync(&mut world);
        drop(proxy);
        let mut proxy = node.start_with(&world, &options(node));
        proxy.sync(&mut world);
        assert_eq!(pods(node, 20_000..20_020), expected);
    });
}

/// Those without a table are said by the metric and `ebpf dump`, and have endpoints all the same.
#[test]
fn frontends_beyond_the_limit_are_counted_and_shown() {
    on_a_node(|node| {
        // One node port in each family, of TCP and of UDP.
        let maglev = Maglev {
            limit: 3,
            ..Maglev::default()
        };
        let options = Options {
            maglev: Some(maglev),
            ..node.cell.options()
        };
        let mut world = world(node, &[1, 2]);
        let mut proxy = node.start_with(&world, &options);
        let report = proxy.sync(&mut world);
        assert!(report.complete(), "{report:?}");
        let spread = || proxy.backend.ebpf_counts().unwrap().spread();
        assert_eq!(spread(), Some([3, 1]));
        let dump = Dump::read(&options.pins).unwrap().to_string();
        let outside = |choice| {
            let of = |line: &&str| line.contains(&format!(" {choice} "));
            dump.lines().filter(of).count()
        };
        assert_eq!(outside("maglev"), 3, "{dump}");
        assert_eq!(pods(node, 20_000..20_004).len(), 8);

        world.endpoints(node.bed, &node_port_service(1), &[]);
        proxy.sync(&mut world);
        let spread = proxy.backend.ebpf_counts().unwrap().spread();
        assert_eq!(spread, Some([0, 0]));
    });
}
