//! Pods without a bridge.

use std::net::IpAddr;
use std::path::Path;

use nodekit::route::{Handle, LinkChange, RouteFilter};
use serde_json::{Value, json};

use crate::node::{Node, Pod, address, seen_from};
use crate::reference::shape;

fn config(node: &Node, subnets: &[&str], more: &Value) -> Value {
    let mut config = node.config(subnets, more);
    config["type"] = "ptp".into();
    for key in ["bridge", "isGateway", "isDefaultGateway"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    config
}

#[test]
fn pods_reach_each_other_and_the_gateway_in_both_families() {
    let node = Node::new();
    let config = config(
        &node,
        &["10.1.0.0/24", "fd01::/64"],
        &json!({"ipMasq": true, "mtu": 1400}),
    );
    let pods = ["a", "b"].map(Pod::new);
    let results = [0, 1].map(|index| node.call("ADD", &pods[index], &config).result());
    for family in [0, 1] {
        let [from, to] = [0, 1].map(|pod| address(&results[pod], family));
        assert_eq!(seen_from(&pods[0].netns, &pods[1].netns, to), Some(from));
        let gateway: IpAddr = results[0]["ips"][family]["gateway"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(seen_from(&pods[0].netns, &node.netns, gateway), Some(from));
    }
    assert_eq!(pods[0].link("eth0").unwrap().mtu, 1400);
    assert_eq!((node.ports().len(), node.masqueraded().len()), (2, 4));
    for (pod, result) in pods.iter().zip(results) {
        let mut told = config.clone();
        told["prevResult"] = result;
        assert!(node.call("CHECK", pod, &told).result().is_null());
    }
    // With and without a namespace, and again.
    node.call("DEL", &pods[0], &config).result();
    for _ in 0..2 {
        let input = config.to_string();
        node.call_with("DEL", "b", "", &input, &[]).result();
    }
    assert!(pods[0].link("eth0").is_none() && pods[1].link("eth0").is_none());
    node.assert_empty();
}

#[test]
fn results_and_routes_are_the_references() {
    for (subnets, more) in [
        (&["10.1.0.0/24"][..], json!({})),
        (&["10.1.0.0/24", "fd01::/64"][..], json!({"ipMasq": true})),
        (
            &["10.1.0.0/16"][..],
            json!({"mtu": 1400, "dns": {"nameservers": ["10.96.0.10"]}}),
        ),
    ] {
        let (ours, mut reference) = (Node::new(), Node::new());
        reference.program = Path::new("/usr/lib/cni/ptp").into();
        let found = [&ours, &reference].map(|node| {
            let mut config = config(node, subnets, &more);
            if subnets.len() == 1 {
                config["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}]);
            }
            let pod = Pod::new("a");
            let mut result = shape(node.call("ADD", &pod, &config).result());
            // Each ends the host's name in its own way; the reference's is random.
            result["interfaces"][0]["name"] = "a veth".into();
            let inside = || {
                let mut route = Handle::open().unwrap();
                let all = route.routes(RouteFilter::default()).unwrap();
                let mut shown: Vec<_> = all
                    .iter()
                    .filter(|route| route.table == 254 && route.protocol != 2)
                    .map(|route| (route.destination.to_string(), route.gateway, route.source))
                    .collect();
                shown.sort();
                shown
            };
            let routes = pod.netns.run(inside).unwrap();
            node.call("DEL", &pod, &config).result();
            (result, routes)
        });
        assert_eq!(found[0], found[1]);
    }
}

#[test]
fn check_notices_a_lost_route() {
    let node = Node::new();
    let mut config = config(&node, &["10.1.0.0/24"], &json!({}));
    config["ipam"]["routes"] = json!([]);
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    let end = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    config["prevResult"] = result;
    node.call("CHECK", &pod, &config).result();
    let set = |up| {
        let mut route = Handle::open().unwrap();
        let index = route.link_by_name(&end).unwrap().index;
        let change = LinkChange {
            up: Some(up),
            ..LinkChange::default()
        };
        route.change_link(index, &change).unwrap();
    };
    node.netns.run(|| [false, true].map(set)).unwrap();
    let (code, text) = node.call("CHECK", &pod, &config).error();
    assert!(
        code == 102 && text.contains("route to 10.1.0.2"),
        "{code} {text}"
    );
}

#[test]
fn garbage_is_told_from_other_networks() {
    let node = Node::new();
    let mut config = config(&node, &["10.1.0.0/24"], &json!({"ipMasq": true}));
    config["cniVersion"] = "1.1.0".into();
    let pods = ["a", "b", "c"].map(Pod::new);
    for pod in &pods[..2] {
        node.call("ADD", pod, &config).result();
    }
    let mut other = config.clone();
    other["name"] = "other".into();
    other["ipam"]["ranges"] = json!([[{"subnet": "10.2.0.0/24"}]]);
    node.call("ADD", &pods[2], &other).result();
    config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    node.call("GC", &pods[0], &config).result();
    assert_eq!(node.ports().len(), 2);
    assert_eq!(node.reserved(), ["10.1.0.3"]);
    assert!(pods[0].link("eth0").is_none());
    assert!(pods[1].link("eth0").is_some() && pods[2].link("eth0").is_some());
}

#[test]
fn addresses_are_needed_with_a_gateway() {
    let node = Node::new();
    let pod = Pod::new("a");
    let none = json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp"});
    let (code, text) = node.call("ADD", &pod, &none).error();
    assert!(code == 7 && text.contains("ipam"), "{code} {text}");
    let mut fixed = none;
    fixed["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.0.5/24"}]});
    let (code, text) = node.call("ADD", &pod, &fixed).error();
    assert!(
        code == 7 && text.contains("10.1.0.5/24 without a gateway"),
        "{code} {text}"
    );
    node.assert_empty();
    assert!(pod.link("eth0").is_none());
}
