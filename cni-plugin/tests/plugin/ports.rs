//! Ports of the host that lead to pods: who gets where by them, and as whom.

mod bed;
mod claims;
mod life;
mod rules;

use std::net::IpAddr;

use nodekit::route::{Handle, Route};
use nodekit::sysctl::{self, Key};
use serde_json::json;

use crate::masquerade::{NETWORKS, outside};
use crate::node::{Node, PATIENCE, SILENCE, address};
use bed::{PORT, Served, both_protocols, bridge_calls, client, elements, network, nft};

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn outside_reaches_a_host_port_as_itself() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let served = Served::new("a");
    let config = network(&node, &both_protocols(), &json!({"ipMasq": true}));
    node.call("ADD", &served.pod, &config).result();
    for (to, own) in [
        ("192.0.2.1:8080", "192.0.2.9"),
        ("[2001:db8::1]:8080", "2001:db8::9"),
    ] {
        assert_eq!(served.by_tcp(&outside, to), ip(own));
        let client = client(&outside, to.starts_with('1'));
        assert_eq!(served.by_udp(&client, to), ip(own));
    }
    assert!(served.is_closed(&outside, "192.0.2.1:8081"));
    // Only the node's own addresses: what passes through it to that port is left alone.
    assert!(served.is_closed(&outside, "10.1.0.77:8080"));
    assert_eq!(served.by_tcp(&outside, "10.1.0.2:80"), ip("192.0.2.9"));
    node.call_with("DEL", "a", "", &config.to_string(), &[])
        .result();
    assert!(served.is_closed(&outside, "192.0.2.1:8080"));
    assert_eq!((node.reserved().len(), node.masqueraded().len()), (0, 0));
    assert_eq!(elements(&node), []);
}

#[test]
fn the_node_reaches_a_host_port_by_each_of_its_addresses() {
    let node = Node::new();
    let _outside = outside(&node, NETWORKS);
    bridge_calls(&node, false);
    let served = Served::new("a");
    let config = network(&node, &both_protocols(), &json!({}));
    node.call("ADD", &served.pod, &config).result();
    // The pods see an address that they can answer to.
    for to in ["192.0.2.1", "10.1.0.1", "127.0.0.1", "127.5.5.5"] {
        let to = format!("{to}:8080");
        let seen = served.by_tcp(&node.netns, &to);
        let own = ["10.1.0.1", "192.0.2.1"].map(|own| ip(own).unwrap());
        assert!(
            seen.is_some_and(|seen| own.contains(&seen)),
            "{to} {seen:?}"
        );
        let client = client(&node.netns, true);
        assert!(served.by_udp(&client, &to).is_some(), "{to}");
    }
    for to in ["[2001:db8::1]:8080", "[fd01::1]:8080", "[::1]:8080"] {
        assert!(served.by_tcp(&node.netns, to).is_some(), "{to}");
        let client = client(&node.netns, false);
        assert!(served.by_udp(&client, to).is_some(), "{to}");
    }
    assert_eq!(
        served.by_tcp(&node.netns, "[::1]:8080"),
        ip("fd01::1"),
        "masqueraded"
    );
}

#[test]
fn localhost_works_where_the_bridge_hands_frames_to_ip() {
    let node = Node::new();
    bridge_calls(&node, true);
    let served = Served::new("a");
    let config = network(&node, &both_protocols(), &json!({}));
    node.call("ADD", &served.pod, &config).result();
    for to in ["127.0.0.1:8080", "10.1.0.1:8080", "[fd01::1]:8080"] {
        assert!(served.by_tcp(&node.netns, to).is_some(), "{to}");
    }
    // The bridge turns the answer's destination back into ::1 before IPv6 sees it, and IPv6 drops
    // what a link other than `lo` brings for ::1.
    assert!(served.is_closed(&node.netns, "[::1]:8080"));
}

#[test]
fn pods_reach_host_ports_their_own_too() {
    for calls in [true, false] {
        let node = Node::new();
        let _outside = outside(&node, NETWORKS);
        bridge_calls(&node, calls);
        let (served, other) = (Served::new("a"), Served::new("b"));
        let more = json!({"ipMasq": true});
        let config = network(&node, &both_protocols(), &more);
        node.call("ADD", &served.pod, &config).result();
        let without = network(&node, &json!([]), &more);
        node.call("ADD", &other.pod, &without).result();
        for from in [&served.pod.netns, &other.pod.netns] {
            for to in [
                "192.0.2.1:8080",
                "10.1.0.1:8080",
                "[2001:db8::1]:8080",
                "[fd01::1]:8080",
            ] {
                assert!(served.by_tcp(from, to).is_some(), "{to} {calls}");
            }
            let client = client(from, true);
            assert!(served.by_udp(&client, "192.0.2.1:8080").is_some());
        }
    }
}

#[test]
fn a_host_port_of_one_address_is_closed_on_the_others() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let (a, b, c) = (Served::new("a"), Served::new("b"), Served::new("c"));
    for (served, host_ip) in [(&a, "192.0.2.1"), (&b, "10.1.0.1"), (&c, "2001:db8::1")] {
        let port = json!([{"hostPort": 8080, "containerPort": PORT, "hostIP": host_ip}]);
        let config = network(&node, &port, &json!({}));
        node.call("ADD", &served.pod, &config).result();
    }
    assert!(a.by_tcp(&outside, "192.0.2.1:8080").is_some());
    assert!(c.by_tcp(&outside, "[2001:db8::1]:8080").is_some());
    assert!(b.by_tcp(&node.netns, "10.1.0.1:8080").is_some());
    for other in ["127.0.0.1:8080", "[fd01::1]:8080"] {
        for served in [&a, &b, &c] {
            assert!(served.is_closed(&node.netns, other), "{other}");
        }
    }
    // Three elements of the port and one of the pod each.
    assert_eq!(elements(&node).len(), 12);
}

#[test]
fn an_unspecified_address_is_all_of_its_family() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let (a, b) = (Served::new("a"), Served::new("b"));
    for (served, host_ip) in [(&a, "0.0.0.0"), (&b, "::")] {
        let port = json!([{"HostPort": 8080, "ContainerPort": PORT, "HostIP": host_ip}]);
        let config = network(&node, &port, &json!({}));
        node.call("ADD", &served.pod, &config).result();
    }
    assert!(a.by_tcp(&outside, "192.0.2.1:8080").is_some());
    assert!(a.by_tcp(&node.netns, "127.0.0.1:8080").is_some());
    assert!(b.by_tcp(&outside, "[2001:db8::1]:8080").is_some());
}

#[test]
fn all_or_nobody_is_masqueraded_when_told() {
    for (more, seen) in [
        (json!({"masqAll": true}), "10.1.0.1"),
        (json!({"masqAll": true, "snat": false}), "192.0.2.9"),
        (json!({"snat": false}), "192.0.2.9"),
    ] {
        let node = Node::new();
        let outside = outside(&node, NETWORKS);
        let served = Served::new("a");
        let config = network(&node, &both_protocols(), &more);
        node.call("ADD", &served.pod, &config).result();
        assert_eq!(
            served.by_tcp(&outside, "192.0.2.1:8080"),
            ip(seen),
            "{more}"
        );
        // Who needs no host port is never masqueraded for it.
        assert_eq!(served.by_tcp(&outside, "10.1.0.2:80"), ip("192.0.2.9"));
        let localnet = || {
            let key = Key::ipv4_conf("br0", "route_localnet").unwrap();
            sysctl::read(&key).unwrap()
        };
        let expected = if more["snat"] == false { "0" } else { "1" };
        assert_eq!(node.netns.run(localnet).unwrap().trim(), expected);
    }
}

/// A Service's data plane may lead to a pod with host ports as well, and its clients are seen.
#[test]
fn what_others_translate_is_not_masqueraded() {
    let node = Node::new();
    bridge_calls(&node, true);
    let (served, other) = (Served::new("a"), Served::new("b"));
    let config = network(&node, &both_protocols(), &json!({}));
    node.call("ADD", &served.pod, &config).result();
    let without = network(&node, &json!([]), &json!({}));
    let result = node.call("ADD", &other.pod, &without).result();
    nft(
        &node,
        &["table ip service {
            chain before { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 81 dnat to 10.1.0.2:80; }
        }"],
    );
    let from = &other.pod.netns;
    assert_eq!(
        served.by_tcp(from, "10.96.0.1:81"),
        Some(address(&result, 0))
    );
    assert_eq!(served.by_tcp(from, "10.1.0.1:8080"), ip("10.1.0.1"));
}

#[test]
fn conditions_say_whom_a_host_port_is_for() {
    for condition in [
        json!(["!", "-s", "192.0.2.0/24"]),
        json!(["ip saddr != 192.0.2.0/24"]),
        json!(["!", "-i", "up+"]),
        json!(["iifname", "!=", "\"up0\""]),
    ] {
        let node = Node::new();
        let outside = outside(&node, NETWORKS);
        let served = Served::new("a");
        let more = json!({"conditionsV4": condition});
        let config = network(&node, &both_protocols(), &more);
        node.call("ADD", &served.pod, &config).result();
        assert!(served.is_closed(&outside, "192.0.2.1:8080"), "{condition}");
        assert!(
            served.by_tcp(&node.netns, "10.1.0.1:8080").is_some(),
            "{condition}"
        );
        assert!(served.by_tcp(&outside, "[2001:db8::1]:8080").is_some());
    }
}

#[test]
fn a_mark_says_that_a_connection_is_masqueraded() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let served = Served::new("a");
    let config = network(&node, &both_protocols(), &json!({"markMasqBit": 4}));
    node.call("ADD", &served.pod, &config).result();
    assert_eq!(served.by_tcp(&outside, "192.0.2.1:8080"), ip("192.0.2.9"));
    nft(
        &node,
        &["table ip probe {
            chain before { type filter hook prerouting priority mangle; ip saddr 192.0.2.9 meta mark set 0x30; }
            chain after { type filter hook postrouting priority 150; meta mark & 0x10 == 0x10 counter; }
        }"],
    );
    assert_eq!(served.by_tcp(&outside, "192.0.2.1:8080"), ip("10.1.0.1"));
    // What is masqueraded for its own reasons carries the mark from there on.
    nft(&node, &["flush chain ip probe before"]);
    nft(
        &node,
        &["flush chain ip probe after; add rule ip probe after meta mark & 0x10 == 0x10 counter"],
    );
    assert!(served.by_tcp(&node.netns, "127.0.0.1:8080").is_some());
    let counted = nft(&node, &["list chain ip probe after"]);
    assert!(counted.contains("counter packets 1 "), "{counted}");
}

/// `route_localnet` alone would let pods reach what listens on the node's 127.0.0.1.
#[test]
fn the_nodes_loopback_services_stay_its_own() {
    let node = Node::new();
    let served = Served::new("a");
    let config = network(&node, &both_protocols(), &json!({}));
    node.call("ADD", &served.pod, &config).result();
    let listener = node
        .netns
        .run(|| std::net::UdpSocket::bind("127.0.0.1:5353").unwrap())
        .unwrap();
    let reached = |patience| {
        listener.set_read_timeout(Some(patience)).unwrap();
        listener.recv_from(&mut [0; 8]).is_ok()
    };
    let attack = || {
        let key = Key::ipv4_conf("eth0", "route_localnet").unwrap();
        sysctl::ensure(&key, "1").unwrap();
        let to = Route {
            gateway: ip("10.1.0.1"),
            ..Route::to("127.0.0.1/32".parse().unwrap())
        };
        Handle::open().unwrap().replace_route(&to).unwrap();
        let socket = std::net::UdpSocket::bind("10.1.0.2:0").unwrap();
        socket.send_to(b"x", "127.0.0.1:5353").unwrap();
    };
    served.pod.netns.run(attack).unwrap();
    assert!(!reached(SILENCE));
    nft(&node, &["flush chain ip causeway-cni loopback-guard-br0"]);
    served.pod.netns.run(attack).unwrap();
    assert!(
        reached(PATIENCE),
        "the attack is none even without the guard"
    );
}

#[test]
fn sctp_is_an_element_like_the_others() {
    let node = Node::new();
    let served = Served::new("a");
    let port = json!([{"hostPort": 132, "containerPort": 133, "protocol": "SCTP"}]);
    let config = network(&node, &port, &json!({}));
    let result = node.call("ADD", &served.pod, &config).result();
    let said = nft(&node, &["list table ip causeway-cni"]);
    let pod = address(&result, 0);
    assert!(
        said.contains(&format!("sctp . 132 comment \"a eth0 net\" : {pod} . 133")),
        "{said}"
    );
    assert!(
        said.contains("sctp . 132 comment \"a eth0 net veth"),
        "{said}"
    );
}
