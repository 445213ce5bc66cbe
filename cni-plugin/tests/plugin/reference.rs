//! The same configuration, given to us and to the reference plugins.

use std::path::Path;

use serde_json::{Value, json};

use crate::node::{Node, Pod};

const REFERENCE: &str = "/usr/lib/cni";

/// The versions that the oldest reference set still in use (1.1.1) has.
const VERSIONS: [&str; 6] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];

fn nodes() -> (Node, Node) {
    let mut reference = Node::new();
    reference.program = Path::new(REFERENCE).join("bridge");
    assert!(
        reference.program.exists(),
        "the reference plugins belong in {REFERENCE}"
    );
    (Node::new(), reference)
}

/// A result without what differs from call to call.
pub(crate) fn shape(mut result: Value) -> Value {
    if let Some(interfaces) = result["interfaces"].as_array_mut() {
        for interface in interfaces {
            assert_eq!(interface["mac"].as_str().unwrap().len(), 17);
            interface["mac"] = "a hardware address".into();
            let name = interface["name"].as_str().unwrap();
            if name.len() == 12 && name.starts_with("veth") {
                interface["name"] = "a veth".into();
            }
            if interface.get("sandbox").is_some() {
                interface["sandbox"] = "a namespace".into();
            }
        }
    } else {
        // Indexing made it.
        result.as_object_mut().unwrap().remove("interfaces");
    }
    result
}

fn compare(more: &Value, subnets: &[&str]) {
    let (ours, reference) = nodes();
    for version in VERSIONS {
        let results = [&ours, &reference].map(|node| {
            let mut config = node.config(subnets, more);
            config["cniVersion"] = version.into();
            config["type"] = "bridge".into();
            let pod = Pod::new(&format!("pod-{version}"));
            let result = node.call("ADD", &pod, &config).result();
            node.call("DEL", &pod, &config).result();
            shape(result)
        });
        assert_eq!(results[0], results[1], "{version}");
    }
}

#[test]
fn results_are_equal_for_one_family() {
    compare(&json!({}), &["10.1.0.0/24"]);
}

#[test]
fn results_are_equal_for_two_families() {
    compare(&json!({}), &["10.1.0.0/24", "fd01::/64"]);
}

#[test]
fn results_are_equal_with_name_resolution_and_without_gateway() {
    let more = json!({
        "isGateway": false, "isDefaultGateway": false, "mtu": 1400,
        "dns": {"nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["svc"]},
    });
    compare(&more, &["10.1.0.0/24"]);
}

#[test]
fn results_are_equal_with_routes_and_a_single_range() {
    let (ours, reference) = nodes();
    let results = [&ours, &reference].map(|node| {
        let mut config = node.config(&[], &json!({"type": "bridge", "isDefaultGateway": false}));
        config["ipam"] = json!({
            "type": "host-local", "subnet": "10.1.0.0/16", "rangeStart": "10.1.7.5",
            "rangeEnd": "10.1.7.9", "gateway": "10.1.255.254", "dataDir": node.folder.path(),
            "routes": [
                {"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.1.0.77"},
            ],
        });
        let pods = ["a", "b"].map(Pod::new);
        pods.map(|pod| shape(node.call("ADD", &pod, &config).result()))
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn loopback_results_are_equal() {
    let (mut ours, mut reference) = nodes();
    let link = ours.folder.path().join("loopback");
    std::os::unix::fs::symlink(&ours.program, &link).unwrap();
    ours.program = link;
    reference.program = Path::new(REFERENCE).join("loopback");
    // Only of 1.0.0: whatever the version, the reference prints that shape here.
    let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    let results = [&ours, &reference].map(|node| {
        let pod = Pod::new("a");
        shape(node.call("ADD", &pod, &config).result())
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn either_can_take_over_from_the_other() {
    let (ours, mut reference) = nodes();
    let mut config = ours.config(&["10.1.0.0/29", "fd01::/64"], &json!({"type": "bridge"}));
    config["ipam"]["dataDir"] = ours.folder.path().to_str().unwrap().into();
    reference.netns = ours.netns.try_clone().unwrap();
    let (a, b, c) = (Pod::new("a"), Pod::new("b"), Pod::new("c"));
    ours.call("ADD", &a, &config).result();
    let second = reference.call("ADD", &b, &config).result();
    assert_eq!(second["ips"][0]["address"], "10.1.0.3/29");
    let third = ours.call("ADD", &c, &config).result();
    assert_eq!(third["ips"][0]["address"], "10.1.0.4/29");
    assert_eq!(ours.reserved().len(), 6);
    // Each deletes what the other made.
    reference.call("DEL", &a, &config).result();
    ours.call("DEL", &b, &config).result();
    reference.call("DEL", &c, &config).result();
    ours.assert_empty();
    // A duplicate of one is noticed by the other.
    reference.call("ADD", &a, &config).result();
    assert!(ours.call("ADD", &a, &config).error().1.contains("10.1.0.5"));
}
