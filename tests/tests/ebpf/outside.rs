//! Clients outside, whose packets are translated at the interface, and what is left to nftables.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::EbpfBackend;
use causeway_tests::packet_bed::{Bed, ask};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use lb_model::said::{Event, Service, SliceEndpoint};
use nodekit::conntrack::{self, ConntrackSocket};
use nodekit::netns::NetNs;
use nodekit::route::{Handle, VethEnd, VethPair};

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{Proxy, World, at, node_port, node_port_service};

fn everywhere(bed: &Bed) -> [SocketAddr; 4] {
    let [v4, v6] = Family::ALL.map(|family| [at(family, 1), node_port(bed, family, 1)]);
    [v4[0], v4[1], v6[0], v6[1]]
}

fn world(bed: &Bed) -> World {
    let mut world = World::empty();
    world.serve(bed, &node_port_service(1), &[2, 3]);
    world
}

/// What nftables has on the node.
pub(crate) fn ruleset(node: &Node<'_>) -> String {
    let list = || Command::new("nft").args(["list", "ruleset"]).output();
    let output = node.bed.node.netns.run(list).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How many connections the kernel tracks on the node.
fn tracked(node: &Node<'_>) -> usize {
    let list = || {
        let mut socket = ConntrackSocket::open().unwrap();
        let mut count = |family| socket.list(family, None, |_| true).unwrap().len();
        count(conntrack::Family::Ip) + count(conntrack::Family::Ip6)
    };
    node.bed.node.netns.run(list).unwrap()
}

#[test]
fn ordinary_services_need_neither_nftables_nor_conntrack() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        for to in everywhere(node.bed) {
            for _ in 0..5 {
                assert!([2, 3].contains(&node.bed.client.tcp(to).unwrap().pod));
                assert!([2, 3].contains(&node.bed.client.udp(to).unwrap().pod));
            }
        }
        assert_eq!(ruleset(node), "");
        assert_eq!(tracked(node), 0);
        proxy.sync(&mut world);
        assert_eq!(ruleset(node), "");
    });
}

/// The Service of [`world`] with a load balancer's address.
pub(crate) fn balanced() -> Service {
    let mut service = node_port_service(1);
    service.kind = "LoadBalancer".into();
    service.ingress = vec![lb_model::said::Ingress {
        ip: "203.0.113.9".into(),
        ..lb_model::said::Ingress::default()
    }];
    service
}

/// Serves `service` by these pods, and in IPv4 by the node itself as well: that is left to nftables.
pub(crate) fn serve_by_node_too(world: &mut World, bed: &Bed, service: &Service, pods: &[usize]) {
    world.serve(bed, service, pods);
    let mut slice = world.slice(bed, service, Family::V4, pods);
    slice.endpoints.push(SliceEndpoint {
        addresses: vec!["192.0.2.1".into()],
        node_name: "node-0".into(),
        ..SliceEndpoint::default()
    });
    world.say(Event::Slice(slice));
}

/// A connection to one of the pods: at the node itself nobody listens.
fn connect_to_a_pod(node: &Node<'_>, to: SocketAddr) -> TcpStream {
    let mut tries = (0..100).filter_map(|_| node.bed.client.connect(to).ok());
    // Two of three endpoints are pods.
    tries.next().unwrap()
}

#[test]
fn nftables_comes_for_what_is_left_and_goes_and_connections_stay() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let client = &node.bed.client;
        let balancer: SocketAddr = "203.0.113.9:80".parse().unwrap();
        let mut before = client.connect(at(Family::V4, 1)).unwrap();
        let pod = ask(&mut before).unwrap().pod;

        serve_by_node_too(&mut world, node.bed, &balanced(), &[2, 3]);
        proxy.sync(&mut world);
        assert!(ruleset(node).contains("table ip causeway"));
        let mut by_tables = connect_to_a_pod(node, balancer);
        let other = ask(&mut by_tables).unwrap().pod;
        assert_ne!(tracked(node), 0);
        assert_eq!(ask(&mut before).unwrap().pod, pod);

        world.serve(node.bed, &balanced(), &[2, 3]);
        proxy.sync(&mut world);
        // The tables stay as long as a connection needs them.
        assert_eq!(ask(&mut by_tables).unwrap().pod, other);
        assert_eq!(ask(&mut before).unwrap().pod, pod);
        drop(by_tables);
        let forget = || {
            let mut socket = ConntrackSocket::open().unwrap();
            for entry in socket.list(conntrack::Family::Ip, None, |_| true).unwrap() {
                socket.delete(&entry).unwrap();
            }
        };
        node.bed.node.netns.run(forget).unwrap();
        check(node, &mut proxy);
        assert_eq!(ruleset(node), "");
        assert_eq!(ask(&mut before).unwrap().pod, pod);
    });
}

fn check(node: &Node<'_>, proxy: &mut Proxy<'_, EbpfBackend>) {
    let check = || proxy.backend.check().unwrap();
    assert!(!node.bed.node.netns.run(check).unwrap());
}

#[test]
fn connections_from_outside_outlive_the_daemon() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        let mut proxy = node.start(&before);
        proxy.sync(&mut before);
        let mut streams = everywhere(node.bed).map(|to| node.bed.client.connect(to).unwrap());
        let pods = streams.each_mut().map(|stream| ask(stream).unwrap().pod);
        let mut still = || streams.each_mut().map(|stream| ask(stream).unwrap().pod);
        drop(proxy);
        assert_eq!(still(), pods);
        let mut after = world(node.bed);
        let mut proxy = node.start(&after);
        assert_eq!(proxy.sync(&mut after).operations(), 0);
        assert_eq!(still(), pods);
        for to in everywhere(node.bed) {
            assert!(node.bed.client.tcp(to).is_ok());
        }
    });
}

#[test]
fn the_program_comes_to_a_new_interface_and_its_pin_goes_with_it() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let pins = || {
            let links = fs::read_dir(node.cell.options().pins.join("links")).unwrap();
            let names = links.map(|link| link.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with("packets-")).count()
        };
        let (before, programs) = (pins(), node.programs_at_packets());
        assert_eq!(before, programs);
        let far = NetNs::anonymous().unwrap();
        let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
        let pair = VethPair {
            near: VethEnd::named("new0"),
            far: VethEnd {
                netns: Some(std::os::fd::AsFd::as_fd(&far)),
                ..VethEnd::named("eth0")
            },
            near_up: false,
            near_master: None,
        };
        links.create_veth(&pair).unwrap();
        let more = || node.programs_at_packets() == programs + 1 && pins() == before + 1;
        wait_until("program at the new interface", PATIENCE, more).unwrap();
        links.delete_link_by_name("new0").unwrap();
        wait_until("pin gone", PATIENCE, || pins() == before).unwrap();
    });
}
