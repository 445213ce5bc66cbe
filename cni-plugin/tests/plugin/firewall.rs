//! Ingress policies, shown by packets between bridges, on one bridge, and from outside.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nodekit::netns::NetNs;
use nodekit::nft::{Family, NftSocket};
use nodekit::route::{Address, EVERYTHING_V4, Handle, Route, VethEnd, VethPair};
use nodekit::sysctl;
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, Pod, SILENCE, address};

/// A pod on one of the node's bridges, with the result that a chained plugin gets.
pub(crate) struct Attached {
    pub(crate) pod: Pod,
    pub(crate) result: Value,
    network: &'static str,
}

/// The networks, with their bridges: `a` on br-a, `b` on br-b.
pub(crate) fn attach(node: &Node, id: &str, network: &'static str) -> Attached {
    let number = if network == "a" { 1 } else { 2 };
    let subnets = [format!("10.{number}.0.0/24"), format!("fd0{number}::/64")];
    let more = json!({"type": "bridge", "name": network, "bridge": format!("br-{network}")});
    let config = node.config(&[&subnets[0], &subnets[1]], &more);
    let pod = Pod::new(id);
    let result = ours(node).call("ADD", &pod, &config).result();
    Attached {
        pod,
        result,
        network,
    }
}

/// The same node, with our plugin whatever the other one has.
fn ours(node: &Node) -> Node {
    Node {
        netns: node.netns.try_clone().unwrap(),
        ..Node::new()
    }
}

impl Attached {
    pub(crate) fn config(&self, settings: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": self.network, "type": "firewall",
            "prevResult": self.result,
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    /// Adds the policy; the result before must be passed on.
    fn protect(&self, node: &Node, policy: &str) -> Value {
        let config = self.config(&json!({"ingressPolicy": policy}));
        let result = node.call("ADD", &self.pod, &config).result();
        assert_eq!(result, self.result);
        node.call("CHECK", &self.pod, &config).result();
        config
    }

    fn address(&self, index: usize) -> IpAddr {
        address(&self.result, index)
    }
}

/// Whether a datagram gets there and its answer back. Where that's expected there is patience.
pub(crate) fn answers(from: &NetNs, to: &NetNs, destination: IpAddr, expected: bool) -> bool {
    let any = if destination.is_ipv4() {
        "0.0.0.0"
    } else {
        "::"
    };
    let bound = |netns: &NetNs| {
        let socket = netns.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
        let glimpse = Duration::from_millis(30);
        socket.set_read_timeout(Some(glimpse)).unwrap();
        socket
    };
    let (asks, replies) = (bound(from), bound(to));
    let port = replies.local_addr().unwrap().port();
    let deadline = Instant::now() + if expected { PATIENCE } else { SILENCE };
    while Instant::now() < deadline {
        // Unreachable for now is what the loop is for.
        let _ = asks.send_to(b"x", (destination, port));
        if let Ok((_, source)) = replies.recv_from(&mut [0; 8]) {
            replies.send_to(b"y", source).unwrap();
        }
        if asks.recv_from(&mut [0; 8]).is_ok() {
            return true;
        }
    }
    false
}

fn assert_reaches(from: &Attached, to: &Attached, expected: bool, said: &str) {
    for index in [0, 1] {
        let there = answers(&from.pod.netns, &to.pod.netns, to.address(index), expected);
        let (from, to) = (&from.pod.id, &to.pod.id);
        assert_eq!(there, expected, "{said}: {from} to {to}, address {index}");
    }
}

/// How many elements there are of any pod, by family.
fn elements(node: &Node) -> [usize; 3] {
    let count = |family| {
        let mut nft = NftSocket::open().unwrap();
        let sets = ["protected-pods", "isolated-pods", "isolated-ports"];
        let of = |nft: &mut NftSocket, set| nft.elements(family, "causeway-cni", set);
        sets.map(|set| of(&mut nft, set).unwrap_or_default().len())
            .iter()
            .sum()
    };
    let all = || [Family::Ip, Family::Ip6, Family::Bridge].map(count);
    node.netns.run(all).unwrap()
}

/// A namespace outside of the node: 192.0.2.2, with the node as its way to the pods.
pub(crate) fn world(node: &Node) -> NetNs {
    let world = NetNs::anonymous().unwrap();
    let mut handle = Handle::open_in(&node.netns).unwrap();
    let far = VethEnd {
        netns: Some(world.as_fd()),
        ..VethEnd::named("eth0")
    };
    let pair = VethPair {
        near: VethEnd::named("uplink"),
        far,
        near_up: true,
        near_master: None,
    };
    handle.create_veth(&pair).unwrap();
    let mut inside = Handle::open_in(&world).unwrap();
    for (handle, name, address) in [
        (&mut handle, "uplink", "192.0.2.1/24"),
        (&mut inside, "eth0", "192.0.2.2/24"),
    ] {
        let link = handle.link_by_name(name).unwrap().index;
        let address = Address::new(link, address.parse().unwrap());
        handle.add_address(&address).unwrap();
        handle.set_up(link).unwrap();
    }
    let by_node = Route {
        gateway: Some("192.0.2.1".parse().unwrap()),
        ..Route::to(EVERYTHING_V4.into())
    };
    inside.add_route(&by_node).unwrap();
    world
}

#[test]
fn same_bridge_keeps_other_bridges_out_as_the_reference_does() {
    let mut reference = Node::new();
    reference.program = Path::new("/usr/lib/cni/firewall").into();
    for (node, said) in [(Node::new(), "ours"), (reference, "the reference")] {
        let [a, a2] = ["a", "a2"].map(|id| attach(&node, id, "a"));
        let b = attach(&node, "b", "b");
        let world = world(&node);
        let there = IpAddr::from([192, 0, 2, 2]);
        for (from, to) in [(&a, &b), (&b, &a), (&a, &a2)] {
            assert_reaches(from, to, true, said);
        }
        let configs = [&a, &a2, &b].map(|pod| pod.protect(&node, "same-bridge"));
        assert_reaches(&a, &a2, true, said);
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert_reaches(from, to, false, said);
        }
        // Policies are about bridges among each other, not about the world.
        let (out, into) = (&a.pod.netns, a.address(0));
        assert!(answers(out, &world, there, true), "{said}");
        assert!(answers(&world, out, into, true), "{said}");
        assert!(answers(&node.netns, out, into, true), "{said}");
        for (pod, config) in [&a, &a2, &b].into_iter().zip(&configs) {
            node.call("DEL", &pod.pod, config).result();
        }
        assert_eq!(elements(&node), [0; 3]);
        if said == "ours" {
            assert_reaches(&a, &b, true, "after DEL");
        }
    }
}

#[test]
fn answers_pass_and_pods_without_a_policy_are_open() {
    let node = Node::new();
    let a = attach(&node, "a", "a");
    let [b, unprotected] = ["b", "unprotected"].map(|id| attach(&node, id, "b"));
    a.protect(&node, "same-bridge");
    b.protect(&node, "same-bridge");
    // The other bridge is known for its protected pod; its other one may answer, and not ask.
    assert_reaches(&a, &unprotected, true, "what has no policy");
    assert_reaches(&unprotected, &a, false, "what has one");
}

#[test]
fn isolated_pods_are_alone_on_their_bridge() {
    for filtered in ["0", "1"] {
        let node = Node::new();
        let [a, a2, later] = ["a", "a2", "later"].map(|id| attach(&node, id, "a"));
        let b = attach(&node, "b", "b");
        let world = world(&node);
        // Whether frames that a bridge forwards are shown to the rules for routed packets.
        let set = || {
            for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                let key = format!("net/bridge/{key}").parse().unwrap();
                sysctl::write(&key, filtered).unwrap();
            }
        };
        node.netns.run(set).unwrap();
        assert_reaches(&a, &a2, true, filtered);
        for pod in [&a, &a2] {
            pod.protect(&node, "isolated");
        }
        b.protect(&node, "same-bridge");
        for (from, to) in [(&a, &a2), (&a2, &a), (&b, &a), (&later, &a), (&a, &later)] {
            assert_reaches(from, to, false, filtered);
        }
        let (out, into) = (&a.pod.netns, a.address(0));
        assert!(answers(out, &world, IpAddr::from([192, 0, 2, 2]), true));
        assert!(answers(&world, out, into, true));
        assert!(answers(&node.netns, out, into, true));
        // Through the node instead of straight over the bridge it's the same.
        let to = a2.address(0);
        let gateway = a.result["ips"][0]["gateway"].as_str().unwrap();
        let by_node = Route {
            gateway: Some(gateway.parse().unwrap()),
            ..Route::to(format!("{to}/32").parse().unwrap())
        };
        Handle::open_in(out).unwrap().add_route(&by_node).unwrap();
        assert!(!answers(out, &a2.pod.netns, to, false), "{filtered}");
    }
}

#[test]
fn open_is_nothing_at_all() {
    let node = Node::new();
    let a = attach(&node, "a", "a");
    for settings in [
        json!({}),
        json!({"ingressPolicy": "open"}),
        json!({"ingressPolicy": "", "backend": "nftables"}),
    ] {
        let config = a.config(&settings);
        assert_eq!(node.call("ADD", &a.pod, &config).result(), a.result);
        node.call("CHECK", &a.pod, &config).result();
        let tables = || NftSocket::open().unwrap().sets(Family::Ip, "causeway-cni");
        assert!(node.netns.run(tables).unwrap().is_err());
        node.call("DEL", &a.pod, &config).result();
    }
}

#[test]
fn nothing_is_left_whatever_is_known() {
    let node = Node::new();
    let [a, a2] = ["a", "a2"].map(|id| attach(&node, id, "a"));
    let config = a.config(&json!({"ingressPolicy": "isolated"}));
    a2.protect(&node, "same-bridge");
    let mut bare = config.clone();
    bare["prevResult"] = Value::Null;
    let mut reconfigured = config.clone();
    reconfigured["ingressPolicy"] = "open".into();
    for last in [&config, &bare, &reconfigured] {
        a.protect(&node, "isolated");
        assert_eq!(elements(&node), [3, 3, 1]);
        for _ in 0..2 {
            node.call_with("DEL", "a", "", &last.to_string(), &[])
                .result();
            assert_eq!(elements(&node), [1, 1, 0], "{last}");
        }
    }
    a.protect(&node, "isolated");
    let gc = |kept: Value| {
        let config = json!({
            "cniVersion": "1.1.0", "name": "a", "type": "firewall", "ingressPolicy": "isolated",
            "cni.dev/valid-attachments": kept,
        });
        node.call("GC", &a.pod, &config).result();
        elements(&node)
    };
    assert_eq!(
        gc(json!([{"containerID": "a2", "ifname": "eth0"}])),
        [1, 1, 0]
    );
    let (code, text) = node.call("CHECK", &a.pod, &config).error();
    assert!(code == 102 && text.contains("10.1.0.2"), "{code} {text}");
    assert_eq!(gc(json!([])), [0; 3]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let node = Node::new();
    let a = attach(&node, "a", "a");
    let mut no_bridge = a.config(&json!({"ingressPolicy": "same-bridge"}));
    no_bridge["prevResult"]["interfaces"][0]["name"] = "lo".into();
    let mut alone = a.config(&json!({}));
    alone["prevResult"] = Value::Null;
    for (config, code, part) in [
        (a.config(&json!({"backend": "firewalld"})), 2, "firewalld"),
        (a.config(&json!({"ingressPolicy": "shut"})), 7, "shut"),
        (no_bridge, 7, "ingressPolicy"),
        (alone, 7, "prevResult"),
    ] {
        let (found, text) = node.call("ADD", &a.pod, &config).error();
        assert!(found == code && text.contains(part), "{found} {text}");
    }
    assert_eq!(elements(&node), [0; 3]);
}

#[test]
fn the_combined_type_protects_in_its_one_call() {
    let node = Node::new();
    let config = |kind: &str, policy: &str| {
        let more = json!({"type": kind, "name": "a", "bridge": "br-a", "ingressPolicy": policy});
        node.config(&["10.1.0.0/24", "fd01::/64"], &more)
    };
    let isolated = config("causeway-cni", "isolated");
    let [a, a2] = ["a", "a2"].map(|id| {
        let pod = Pod::new(id);
        let result = node.call("ADD", &pod, &isolated).result();
        Attached {
            pod,
            result,
            network: "a",
        }
    });
    let b = attach(&node, "b", "b");
    b.protect(&node, "same-bridge");
    for (from, to) in [(&a, &a2), (&b, &a)] {
        assert_reaches(from, to, false, "one call");
    }
    let mut told = isolated.clone();
    told["prevResult"] = a.result.clone();
    node.call("CHECK", &a.pod, &told).result();
    assert_eq!(elements(&node), [5, 5, 2]);
    node.call_with("DEL", "a", "", &isolated.to_string(), &[])
        .result();
    assert_eq!(elements(&node), [3, 3, 1]);
    let (code, text) = node
        .call("ADD", &a.pod, &config("causeway-cni", "shut"))
        .error();
    assert!(code == 7 && text.contains("ingressPolicy"), "{code} {text}");
    // Under the reference's name policies are another plugin's.
    node.call("ADD", &a.pod, &config("bridge", "isolated"))
        .result();
    assert_eq!(elements(&node), [3, 3, 1]);
}
