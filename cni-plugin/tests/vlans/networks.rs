//! Pods in VLANs, and what packets make of it.

use nodekit::route::{Handle, PortVlans};
use serde_json::{Value, json};

use crate::node::{Node, Pod, address, arrives_all_the_same, link, seen_from};

fn vlans_of(node: &Node, name: &str) -> Vec<PortVlans> {
    let list = || {
        let mut route = Handle::open().unwrap();
        let index = route.link_by_name(name).unwrap().index;
        route.vlans(index).unwrap()
    };
    node.netns.run(list).unwrap()
}

fn tagged(vlans: impl IntoIterator<Item = u16>) -> Vec<PortVlans> {
    vlans
        .into_iter()
        .map(|vlan| PortVlans::tagged(vlan, vlan))
        .collect()
}

#[test]
fn pods_of_one_vlan_reach_each_other_and_their_gateway_and_no_others() {
    let node = Node::new();
    let network = |vlan: u16, subnet: &str| {
        let more = json!({"vlan": vlan, "name": format!("net{vlan}")});
        node.config(&[subnet, &format!("fd{vlan}::/64")], &more)
    };
    let configs = [network(10, "10.1.0.0/24"), network(20, "10.2.0.0/24")];
    let pods = ["a", "b", "c"].map(Pod::new);
    let add = |pod, config: &Value| node.call("ADD", pod, config).result();
    let results = [
        add(&pods[0], &configs[0]),
        add(&pods[1], &configs[0]),
        add(&pods[2], &configs[1]),
    ];
    let above = &results[0]["interfaces"][3];
    let made = link(&node.netns, "br0.10").unwrap();
    assert_eq!(above["name"], "br0.10");
    assert_eq!(above["mac"], made.mac.unwrap().to_string());
    assert_eq!(results[0]["ips"][0]["interface"], 2);
    for family in [0, 1] {
        let [a, b, c] = [0, 1, 2].map(|pod| address(&results[pod], family));
        assert_eq!(seen_from(&pods[0].netns, &pods[1].netns, b), Some(a));
        // By way of the gateways: the node routes between the networks.
        assert_eq!(seen_from(&pods[0].netns, &pods[2].netns, c), Some(a));
    }
    let port = results[0]["interfaces"][1]["name"].as_str().unwrap();
    let default = PortVlans {
        pvid: false,
        ..PortVlans::access(1)
    };
    assert_eq!(vlans_of(&node, port), [default, PortVlans::access(10)]);
    let mut told = configs[0].clone();
    told["prevResult"] = results[0].clone();
    assert!(node.call("CHECK", &pods[0], &told).result().is_null());
    // On the link they are apart: c, given an address of a's network, is not found.
    let move_in = || {
        let mut route = Handle::open().unwrap();
        let index = route.link_by_name("eth0").unwrap().index;
        let own = "10.1.0.99/24".parse().unwrap();
        route
            .add_address(&nodekit::route::Address::new(index, own))
            .unwrap();
    };
    pods[2].netns.run(move_in).unwrap();
    let c = "10.1.0.99".parse().unwrap();
    assert!(!arrives_all_the_same(&pods[0].netns, &pods[2].netns, c));
    for (pod, config) in pods.iter().zip([&configs[0], &configs[0], &configs[1]]) {
        node.call("DEL", pod, config).result();
    }
    assert_eq!(node.ports(), Vec::<String>::new());
}

#[test]
fn a_port_is_in_the_vlans_that_were_said() {
    let node = Node::new();
    let trunk = json!([{"minID": 10, "maxID": 13}, {"id": 42}]);
    let default = PortVlans::access(1);
    for (name, more, wanted) in [
        (
            "a",
            json!({"vlan": 7, "preserveDefaultVlan": false}),
            vec![PortVlans::access(7)],
        ),
        ("b", json!({"vlanTrunk": trunk}), {
            [vec![default], tagged([10, 11, 12, 13, 42])].concat()
        }),
        (
            "c",
            json!({"vlanTrunk": trunk, "preserveDefaultVlan": false}),
            tagged([10, 11, 12, 13, 42]),
        ),
        (
            "d",
            json!({"vlan": 7, "vlanTrunk": [{"id": 42}], "preserveDefaultVlan": false}),
            [vec![PortVlans::access(7)], tagged([42])].concat(),
        ),
    ] {
        let mut config = node.config(&[], &more);
        config.as_object_mut().unwrap().remove("ipam");
        let pod = Pod::new(name);
        let result = node.call("ADD", &pod, &config).result();
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        assert_eq!(vlans_of(&node, port), wanted, "{more}");
        node.call("DEL", &pod, &config).result();
    }
    assert_eq!(link(&node.netns, "br0").unwrap().vlan_filtering, Some(true));
}

#[test]
fn ten_pods_at_once_make_one_gateway_on_a_bridge_that_knew_no_vlans() {
    let node = Node::new();
    let plain = node.config(&["10.9.0.0/24"], &json!({"name": "plain"}));
    let before = Pod::new("before");
    node.call("ADD", &before, &plain).result();
    assert_eq!(
        link(&node.netns, "br0").unwrap().vlan_filtering,
        Some(false)
    );
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"vlan": 4094}));
    let pods: Vec<_> = (0..10).map(|n| Pod::new(&format!("pod-{n}"))).collect();
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.call("ADD", pod, &config).result());
        }
    });
    assert_eq!(node.ports().len(), 11);
    assert_eq!(link(&node.netns, "br0").unwrap().vlan_filtering, Some(true));
    let above = link(&node.netns, "br0.4094").unwrap();
    assert!(above.up && above.kind.as_deref() == Some("vlan"));
}
