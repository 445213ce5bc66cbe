//! What an outside machine sees of pods.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Route, RouteKind, VethEnd, VethPair};
use nodekit::sysctl::{self, Key};
use serde_json::json;

use crate::node::{Node, PATIENCE, Pod, address, seen_from};

/// A machine beside the node, which knows its way to the pods' subnets.
pub(crate) fn outside(node: &Node, networks: [(&str, &str, &str); 2]) -> NetNs {
    let outside = NetNs::anonymous().unwrap();
    node.netns
        .run(|| {
            let pair = VethPair {
                near: VethEnd::named("up0"),
                far: VethEnd {
                    netns: Some(outside.as_fd()),
                    ..VethEnd::named("up0")
                },
                near_up: false,
                near_master: None,
            };
            Handle::open().unwrap().create_veth(&pair).unwrap();
        })
        .unwrap();
    let configure = |own: &str| {
        let mut route = Handle::open().unwrap();
        let link = route.link_by_name("up0").unwrap().index;
        // The machines have long been there: their link-local addresses are settled.
        let settled = Key::ipv6_conf("up0", "accept_dad").unwrap();
        sysctl::ensure(&settled, "0").unwrap();
        route.set_up(link).unwrap();
        let own: IpNetwork = own.parse().unwrap();
        route.add_address(&Address::new(link, own)).unwrap();
    };
    for (near, far, pods) in networks {
        node.netns.run(|| configure(near)).unwrap();
        outside
            .run(|| {
                configure(far);
                let via: IpNetwork = near.parse().unwrap();
                let back = Route {
                    gateway: Some(via.ip()),
                    ..Route::to(pods.parse().unwrap())
                };
                Handle::open().unwrap().add_route(&back).unwrap();
            })
            .unwrap();
        for (netns, own) in [(&node.netns, near), (&outside, far)] {
            settle(netns, own.parse::<IpNetwork>().unwrap().ip());
        }
    }
    outside
}

/// The kernel makes the route to an IPv6 address of its own in the background.
fn settle(netns: &NetNs, own: IpAddr) {
    let mut handle = Handle::open_in(netns).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !handle
        .route_to(own)
        .is_ok_and(|route| route.kind == RouteKind::Local)
    {
        assert!(Instant::now() < deadline, "no route to {own}");
        thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) const NETWORKS: [(&str, &str, &str); 2] = [
    ("192.0.2.1/24", "192.0.2.9/24", "10.1.0.0/24"),
    ("2001:db8::1/64", "2001:db8::9/64", "fd01::/64"),
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn outside_sees_the_node_and_pods_see_each_other() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}));
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let result_a = node.call("ADD", &a, &config).result();
    let result_b = node.call("ADD", &b, &config).result();
    for (index, target, own) in [
        (0, "192.0.2.9", "192.0.2.1"),
        (1, "2001:db8::9", "2001:db8::1"),
    ] {
        assert_eq!(seen_from(&a.netns, &outside, ip(target)), Some(ip(own)));
        let inside = seen_from(&a.netns, &b.netns, address(&result_b, index));
        assert_eq!(inside, Some(address(&result_a, index)));
    }
    // What is gone is not masqueraded any more, and what stays is.
    node.call_with("DEL", "b", "", &config.to_string(), &[])
        .result();
    assert_eq!(node.masqueraded().len(), 2);
    assert_eq!(
        seen_from(&a.netns, &outside, ip("192.0.2.9")),
        Some(ip("192.0.2.1"))
    );
}

#[test]
fn without_masquerading_outside_sees_the_pod() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": false}));
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    let seen = seen_from(&pod.netns, &outside, ip("192.0.2.9"));
    assert_eq!(seen, Some(address(&result, 0)));
    assert_eq!(node.masqueraded(), []);
}

#[test]
fn named_destinations_see_the_pod() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let more = json!({"ipMasq": true, "nonMasqueradeCIDRs": ["192.0.2.0/25", "2001:db8::/32"]});
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &more);
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    for (index, target) in [(0, "192.0.2.9"), (1, "2001:db8::9")] {
        let seen = seen_from(&pod.netns, &outside, ip(target));
        assert_eq!(seen, Some(address(&result, index)));
    }
}

#[test]
fn an_address_whose_element_was_left_behind_goes_to_its_new_owner() {
    let node = Node::new();
    let mut config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": true}));
    config["runtimeConfig"] = json!({"ips": ["10.1.0.5"]});
    let old = Pod::new("old");
    node.call("ADD", &old, &config).result();
    // As if the node had been reset but for its kernel's tables.
    std::fs::remove_file(node.folder.path().join("net/10.1.0.5")).unwrap();
    node.call("ADD", &Pod::new("new"), &config).result();
    let owners: Vec<_> = node
        .masqueraded()
        .into_iter()
        .map(|e| e.comment.unwrap())
        .collect();
    assert_eq!(owners, ["new eth0 net"]);
    // A late DEL of the old one must not take the new one's.
    node.call("DEL", &old, &config).result();
    assert_eq!(node.masqueraded().len(), 1);
    assert_eq!(node.reserved(), ["10.1.0.5"]);
}
