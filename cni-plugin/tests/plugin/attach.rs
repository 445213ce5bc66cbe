//! ADD, CHECK and DEL, and what packets make of it.

use std::net::IpAddr;

use nodekit::route::{Handle, LinkChange};
use nodekit::sysctl;
use serde_json::{Value, json};

use crate::firewall::answers;
use crate::node::{Node, Pod, address, link, seen_from};

fn with_result(config: &Value, result: &Value) -> Value {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    config
}

#[test]
fn two_pods_reach_each_other_and_the_gateway_in_both_families() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}));
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let result_a = node.call("ADD", &a, &config).result();
    let result_b = node.call("ADD", &b, &config).result();
    for index in [0, 1] {
        let (from, to) = (address(&result_a, index), address(&result_b, index));
        assert_eq!(seen_from(&a.netns, &b.netns, to), Some(from));
        let gateway: IpAddr = result_a["ips"][index]["gateway"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(seen_from(&a.netns, &node.netns, gateway), Some(from));
    }
    for (pod, result) in [(&a, &result_a), (&b, &result_b)] {
        assert!(
            node.call("CHECK", pod, &with_result(&config, result))
                .result()
                .is_null()
        );
    }
    for (pod, result) in [(&a, &result_a), (&b, &result_b)] {
        assert!(
            node.call("DEL", pod, &with_result(&config, result))
                .result()
                .is_null()
        );
        assert!(pod.link("eth0").is_none());
    }
    node.assert_empty();
}

#[test]
fn ipv6_is_usable_at_once() {
    let node = Node::new();
    let config = node.config(&["fd01::/64"], &json!({}));
    let pod = Pod::new("a");
    node.call("ADD", &pod, &config).result();
    // The bridge's own link-local address counts, too: by it the node looks for the pod. The kernel
    // makes those of links without looking for others, a moment later.
    let bridge = link(&node.netns, "br0").unwrap().index;
    for (netns, name, index) in [
        (&pod.netns, "eth0", None),
        (&node.netns, "br0", Some(bridge)),
    ] {
        let look = || {
            let addresses = Handle::open().unwrap().addresses(index).unwrap();
            let key = sysctl::Key::ipv6_conf(name, "accept_dad").unwrap();
            (addresses, sysctl::read(&key).unwrap())
        };
        let (addresses, looks_for_others) = netns.run(look).unwrap();
        let mut given = addresses
            .iter()
            .filter(|address| u8::from(address.scope) == 0);
        assert!(given.all(|a| a.nodad && !a.tentative), "{addresses:?}");
        assert_eq!(looks_for_others, "0", "{name}");
    }
}

#[test]
fn duplicate_address_detection_can_be_kept() {
    let node = Node::new();
    let config = node.config(&["fd01::/64"], &json!({"enabledad": true}));
    let pod = Pod::new("a");
    node.call("ADD", &pod, &config).result();
    let addresses = pod
        .netns
        .run(|| Handle::open().unwrap().addresses(None).unwrap())
        .unwrap();
    assert!(
        !addresses
            .iter()
            .any(|address| address.nodad || address.tentative),
        "{addresses:?}"
    );
}

#[test]
fn check_notices_what_changed() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": true}));
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    let told = with_result(&config, &result);
    node.call("CHECK", &pod, &told).result();
    assert_eq!(
        node.call("CHECK", &pod, &config).error().0,
        7,
        "without prevResult"
    );

    let (code, text) = node.call("CHECK", &Pod::new("a"), &told).error();
    assert!(code == 102 && text.contains("eth0"), "{code} {text}");

    let down = LinkChange {
        up: Some(false),
        ..LinkChange::default()
    };
    let index = pod.link("eth0").unwrap().index;
    let change = |change| {
        pod.netns
            .run(|| Handle::open().unwrap().change_link(index, &change).unwrap())
            .unwrap();
    };
    change(down);
    let (code, text) = node.call("CHECK", &pod, &told).error();
    assert!(
        code == 102 && text.contains("eth0 is down"),
        "{code} {text}"
    );
    change(LinkChange {
        up: Some(true),
        ..LinkChange::default()
    });
    let (code, text) = node.call("CHECK", &pod, &told).error();
    assert!(
        code == 102 && text.contains("route to 0.0.0.0/0"),
        "{code} {text}"
    );

    let mut other = told.clone();
    other["prevResult"]["interfaces"][2]["mac"] = "0a:00:00:00:00:01".into();
    assert!(
        node.call("CHECK", &pod, &other)
            .error()
            .1
            .contains("0a:00:00:00:00:01")
    );
    other = told;
    other["prevResult"]["ips"][0]["address"] = "10.1.0.77/24".into();
    assert!(
        node.call("CHECK", &pod, &other)
            .error()
            .1
            .contains("10.1.0.77")
    );
}

#[test]
fn settings_are_as_promised() {
    let node = Node::new();
    let more = json!({"mtu": 1400, "hairpinMode": true, "portIsolation": true});
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &more);
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    let host_end = result["interfaces"][1]["name"].as_str().unwrap();
    let port = link(&node.netns, host_end).unwrap();
    assert_eq!((port.mtu, pod.link("eth0").unwrap().mtu), (1400, 1400));
    assert!(port.port.unwrap().hairpin && port.port.unwrap().isolated);
    let bridge = link(&node.netns, "br0").unwrap();
    assert_eq!((bridge.mtu, port.master), (1400, Some(bridge.index)));
    let read = |netns: &nodekit::netns::NetNs, key: &str| {
        netns
            .run(|| sysctl::read(&key.parse().unwrap()).unwrap())
            .unwrap()
    };
    for (key, value) in [
        ("net/ipv4/ip_forward".to_owned(), "1"),
        ("net/ipv6/conf/all/forwarding".to_owned(), "1"),
        ("net/ipv6/conf/br0/accept_ra".to_owned(), "0"),
        (format!("net/ipv6/conf/{host_end}/accept_ra"), "0"),
    ] {
        assert_eq!(read(&node.netns, &key), value, "{key}");
    }
    for (key, value) in [
        ("net/ipv4/conf/eth0/arp_notify", "1"),
        ("net/ipv6/conf/eth0/accept_dad", "0"),
        ("net/ipv6/conf/eth0/disable_ipv6", "0"),
        ("net/ipv6/conf/eth0/keep_addr_on_down", "1"),
    ] {
        assert_eq!(read(&pod.netns, key), value, "{key}");
    }
}

#[test]
fn isolated_ports_reach_the_node_and_not_each_other() {
    let node = Node::new();
    let more = json!({"portIsolation": true});
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &more);
    let [a, b] = ["a", "b"].map(Pod::new);
    let results = [&a, &b].map(|pod| node.call("ADD", pod, &config).result());
    for (index, gateway) in ["10.1.0.1", "fd01::1"].into_iter().enumerate() {
        let gateway = gateway.parse().unwrap();
        assert!(answers(&a.netns, &node.netns, gateway, true));
        let other = address(&results[1], index);
        assert!(!answers(&a.netns, &b.netns, other, false), "{other}");
    }
}

#[test]
fn a_bridge_is_promiscuous_when_told() {
    for (more, promiscuous) in [(json!({"promiscMode": true}), true), (json!({}), false)] {
        let node = Node::new();
        let config = node.config(&["10.1.0.0/24"], &more);
        node.call("ADD", &Pod::new("a"), &config).result();
        assert_eq!(link(&node.netns, "br0").unwrap().promiscuous, promiscuous);
    }
}

#[test]
fn the_bridges_address_is_pinned() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24"], &json!({}));
    let mac = || link(&node.netns, "br0").unwrap().mac.unwrap();
    let first = Pod::new("a");
    node.call("ADD", &first, &config).result();
    let before = mac();
    // A port with a lower address would take over an address that is not pinned.
    let mut lower = config.clone();
    lower["runtimeConfig"] = json!({"mac": "02:00:00:00:00:01"});
    let second = Pod::new("b");
    node.call("ADD", &second, &lower).result();
    assert_eq!(
        second.link("eth0").unwrap().mac.unwrap().0,
        [2, 0, 0, 0, 0, 1]
    );
    node.call("DEL", &first, &config).result();
    assert_eq!(mac(), before);
}

#[test]
fn an_address_keeps_its_hardware_address_when_it_goes_to_another_pod() {
    let node = Node::new();
    let mut config = node.config(&["10.1.0.0/24"], &json!({}));
    config["runtimeConfig"] = json!({"ips": ["10.1.0.9"]});
    let mac = |id| {
        let pod = Pod::new(id);
        let result = node.call("ADD", &pod, &config).result();
        node.call("DEL", &pod, &config).result();
        (
            address(&result, 0),
            result["interfaces"][2]["mac"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(mac("a"), mac("b"));
}

#[test]
fn del_needs_no_namespace_and_can_be_repeated() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}));
    let pod = Pod::new("a");
    node.call("ADD", &pod, &config).result();
    assert_eq!(node.masqueraded().len(), 2);
    let input = config.to_string();
    // The namespace lives on, as a leaked one would; the runtime has lost its path.
    for netns in ["", "/run/netns/is-not-there", &pod.path()] {
        assert!(
            node.call_with("DEL", "a", netns, &input, &[])
                .result()
                .is_null()
        );
        node.assert_empty();
        assert!(pod.link("eth0").is_none());
    }
}

#[test]
fn a_network_without_addresses_is_only_a_bridge() {
    let node = Node::new();
    let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0"});
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    assert!(result.get("ips").is_none(), "{result}");
    assert!(pod.link("eth0").unwrap().up);
    assert_eq!(result["interfaces"][2]["mtu"], 1500);
    node.call("DEL", &pod, &config).result();
    node.assert_empty();
}

#[test]
fn a_bridges_other_address_is_replaced_only_when_told() {
    let node = Node::new();
    let first = node.config(&["10.1.0.0/24"], &json!({}));
    node.call("ADD", &Pod::new("a"), &first).result();
    let second = node.config(&["10.2.0.0/24"], &json!({"name": "other"}));
    let (code, text) = node.call("ADD", &Pod::new("b"), &second).error();
    assert!(
        code == 101 && text.contains("10.1.0.1/24") && text.contains("forceAddress"),
        "{text}"
    );
    let forced = node.config(
        &["10.2.0.0/24"],
        &json!({"name": "other", "forceAddress": true}),
    );
    node.call("ADD", &Pod::new("c"), &forced).result();
    let index = link(&node.netns, "br0").unwrap().index;
    let held = node
        .netns
        .run(|| Handle::open().unwrap().addresses(Some(index)).unwrap())
        .unwrap();
    let held: Vec<_> = held
        .iter()
        .filter(|a| a.address.is_ipv4())
        .map(|a| a.address)
        .collect();
    assert_eq!(held, ["10.2.0.1/24".parse().unwrap()]);
}
