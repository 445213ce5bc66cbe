//! By which link packets of a connection leave.

use std::os::fd::AsFd as _;
use std::process::Command;

use causeway_tests::packet_bed::{Host, ask};
use causeway_tests::proxy_bed::wait_until;
use causeway_tests::settle;
use lb_model::Family;
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, NewBridge, Route, VethEnd, VethPair};

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, node_port, node_port_service};

/// Another link between the node and a pod of it, which no route leads by yet. On the node, it is a port of
/// a bridge if that has a name.
pub(crate) fn join(node: &Node<'_>, pod: &Host, bridge: Option<&str>) {
    let mut near = Handle::open_in(&node.bed.node.netns).unwrap();
    if let Some(name) = bridge {
        let bridge = NewBridge {
            name,
            mac: None,
            mtu: None,
            vlan_filtering: None,
            up: true,
        };
        near.create_bridge(&bridge).unwrap();
    }
    let master = bridge.map(|name| near.link_by_name(name).unwrap().index);
    let pair = VethPair {
        near: VethEnd::named("other0"),
        far: VethEnd {
            netns: Some(pod.netns.as_fd()),
            ..VethEnd::named("other0")
        },
        near_up: true,
        near_master: master,
    };
    near.create_veth(&pair).unwrap();
    let mut far = Handle::open_in(&pod.netns).unwrap();
    let names = [(bridge.unwrap_or("other0"), 1), ("other0", 2)];
    for (links, (name, last)) in [&mut near, &mut far].into_iter().zip(names) {
        let link = links.link_by_name(name).unwrap().index;
        links.set_up(link).unwrap();
        for address in [
            format!("10.245.0.{last}/24"),
            format!("fd00:245::{last}/64"),
        ] {
            let address = Address::new(link, address.parse().unwrap());
            links.add_address(&address).unwrap();
        }
    }
    for netns in [&node.bed.node.netns, &pod.netns] {
        settle(netns).unwrap();
    }
}

/// The node has packets to the pod leave by the other link.
pub(crate) fn lead(node: &Node<'_>, pod: &Host, family: Family) {
    let gateway = match family {
        Family::V4 => "10.245.0.2",
        Family::V6 => "fd00:245::2",
    };
    let ip = pod.ip(family);
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let mut route = Route::to(format!("{ip}/{length}").parse().unwrap());
    route.gateway = Some(gateway.parse().unwrap());
    let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
    links.add_route(&route).unwrap();
}

pub(crate) fn nft(netns: &NetNs, arguments: &[&str]) -> String {
    let run = || Command::new("nft").args(arguments).output();
    let output = netns.run(run).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Counts what comes to the pod's servers by the other link.
fn watch(pod: &Host) {
    const RULES: &str = "table netdev watch {
        counter v4 { }
        counter v6 { }
        chain arrive {
            type filter hook ingress device other0 priority 0
            meta protocol ip tcp dport 8080 counter name v4
            meta protocol ip6 tcp dport 8080 counter name v6
        }
    }";
    nft(&pod.netns, &[RULES]);
}

fn has_come(pod: &Host, family: Family) -> bool {
    let name = format!("{family:?}").to_lowercase();
    let told = nft(&pod.netns, &["list", "counter", "netdev", "watch", &name]);
    assert!(told.contains("packets "), "{told}");
    !told.contains("packets 0 ")
}

/// The way is asked for once a second (decision 0021).
#[test]
fn a_changed_route_is_heeded_by_connections_that_are_there() {
    on_a_node(|node| {
        let pod = node.bed.pod(3);
        join(node, pod, None);
        watch(pod);
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[3]);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        for family in Family::ALL {
            let to = node_port(node.bed, family, 1);
            let mut stream = node.bed.client.connect(to).unwrap();
            for _ in 0..3 {
                assert_eq!(ask(&mut stream).unwrap().pod, 3);
            }
            assert!(!has_come(pod, family));
            lead(node, pod, family);
            wait_until("a packet by the other link", PATIENCE, || {
                assert_eq!(ask(&mut stream).unwrap().pod, 3);
                has_come(pod, family)
            })
            .unwrap();
        }
    });
}
