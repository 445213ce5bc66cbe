//! Masquerading by iptables, beside the reference's.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::masquerade::{NETWORKS, outside};
use crate::node::{Node, Pod, address, seen_from};

/// The translation rules of both families.
fn rules(node: &Node) -> Vec<String> {
    let list = |program: &str| {
        let run = || Command::new(program).args(["-t", "nat"]).output().unwrap();
        let output = node.netns.run(run).unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = [list("iptables-save"), list("ip6tables-save")].concat();
    let about_pods = |line: &&str| line.contains("CNI-");
    let lines = all.lines().filter(about_pods);
    lines.map(str::to_owned).collect()
}

fn config(node: &Node, kind: &str, more: &Value) -> Value {
    let common = json!({"ipMasq": true, "ipMasqBackend": "iptables", "type": kind});
    let mut config = node.config(&["10.1.0.0/24", "fd01::/64"], &common);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    if kind == "ptp" {
        config["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    }
    config
}

/// The node, run by the reference's plugin.
fn reference(node: &Node, kind: &str) -> Node {
    Node {
        netns: node.netns.try_clone().unwrap(),
        program: Path::new("/usr/lib/cni").join(kind),
        ..Node::new()
    }
}

#[test]
fn rules_are_the_references_and_each_ends_what_the_other_began() {
    for kind in ["bridge", "ptp"] {
        let node = Node::new();
        let reference = reference(&node, kind);
        let pod = Pod::new("a");
        let config = config(&node, kind, &json!({}));
        let made = [&reference, &node].map(|by| {
            let other = if by.program == node.program {
                &reference
            } else {
                &node
            };
            let mut told = config.clone();
            told["prevResult"] = by.call("ADD", &pod, &config).result();
            let made = rules(&node);
            other.call("DEL", &pod, &told).result();
            assert_eq!(rules(&node), [""; 0], "{kind}");
            // The same addresses once more.
            for file in ["last_reserved_ip.0", "last_reserved_ip.1"] {
                std::fs::remove_file(node.folder.path().join("net").join(file)).unwrap();
            }
            made
        });
        assert_eq!(made[0], made[1], "{kind}");
        assert_eq!(made[0].len(), 8, "{:?}", made[0]);
        node.assert_empty();
    }
}

#[test]
fn outside_sees_the_node_but_for_named_destinations() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let plain = config(&node, "causeway-cni", &json!({}));
    let more = json!({"nonMasqueradeCIDRs": ["192.0.2.0/25", "2001:db8::/32"]});
    let named = config(&node, "ptp", &more);
    let [a, b, c] = ["a", "b", "c"].map(Pod::new);
    let result_a = node.call("ADD", &a, &plain).result();
    node.call("ADD", &b, &plain).result();
    for (index, target, own) in [
        (0, "192.0.2.9", "192.0.2.1"),
        (1, "2001:db8::9", "2001:db8::1"),
    ] {
        let target = target.parse().unwrap();
        let node_own = Some(own.parse().unwrap());
        assert_eq!(seen_from(&a.netns, &outside, target), node_own);
        let inside = seen_from(&b.netns, &a.netns, address(&result_a, index));
        assert_ne!(inside, node_own);
    }
    let result_c = node.call("ADD", &c, &named).result();
    for (index, target) in [(0, "192.0.2.9"), (1, "2001:db8::9")] {
        let seen = seen_from(&c.netns, &outside, target.parse().unwrap());
        assert_eq!(seen, Some(address(&result_c, index)));
    }
    assert_eq!(node.masqueraded(), []);
    let mut told = named;
    told["prevResult"] = result_c;
    node.call("CHECK", &c, &told).result();
    // Without a namespace and the result before, and again.
    for _ in 0..2 {
        for id in ["a", "b", "c"] {
            node.call_with("DEL", id, "", &plain.to_string(), &[])
                .result();
        }
        assert_eq!(rules(&node), [""; 0]);
    }
    let (code, _) = node.call("CHECK", &c, &told).error();
    assert_eq!(code, 102);
}

#[test]
fn check_misses_a_rule_and_gc_collects_the_networks_own() {
    for kind in ["bridge", "ptp"] {
        let node = Node::new();
        let mut config = config(&node, kind, &json!({"cniVersion": "1.1.0"}));
        let mut other = config.clone();
        other["name"] = "net2".into();
        let pods = ["a", "b", "c"].map(Pod::new);
        let mut told = config.clone();
        told["prevResult"] = node.call("ADD", &pods[0], &config).result();
        node.call("ADD", &pods[1], &config).result();
        other["ipam"]["ranges"] = json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9"}]]);
        node.call("ADD", &pods[2], &other).result();
        node.call("STATUS", &pods[0], &config).result();
        node.call("CHECK", &pods[0], &told).result();
        let flush = || {
            Command::new("ip6tables")
                .args(["-t", "nat", "-F", "POSTROUTING"])
                .status()
        };
        assert!(node.netns.run(flush).unwrap().unwrap().success());
        let (code, text) = node.call("CHECK", &pods[0], &told).error();
        assert!(
            code == 102 && text.contains("-s fd01::2/128"),
            "{code} {text}"
        );
        assert!(rules(&node).len() > 8);

        config["cni.dev/attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
        node.call("GC", &pods[0], &config).result();
        let of = |id: &str| {
            let of_pod = |rule: &&String| rule.contains(&format!("id: \\\"{id}\\\""));
            let left = rules(&node);
            left.iter()
                .filter(of_pod)
                .filter(|rule| rule.starts_with("-A POSTROUTING"))
                .count()
        };
        assert_eq!(["a", "b", "c"].map(of), [0, 1, 1]);
    }
}

#[test]
fn a_second_interface_keeps_its_rules() {
    let node = Node::new();
    let config = config(&node, "bridge", &json!({"isDefaultGateway": false}));
    let pod = Pod::new("a");
    let call = |command: &str, ifname: &str| {
        let more = [("CNI_IFNAME", ifname)];
        node.call_with(command, "a", &pod.path(), &config.to_string(), &more)
            .result();
        rules(&node).len()
    };
    assert_eq!(call("ADD", "eth0"), 2 * 4);
    assert_eq!(call("ADD", "eth1"), 2 * 5);
    assert_eq!(call("DEL", "eth0"), 2 * 4);
    assert_eq!(call("DEL", "eth1"), 0);
}

#[test]
fn rules_go_although_the_configuration_asks_for_none_any_more() {
    for kind in ["bridge", "ptp", "causeway-cni"] {
        let node = Node::new();
        let reference = reference(&node, if kind == "ptp" { kind } else { "bridge" });
        let of_before = config(&node, kind, &json!({"cniVersion": "1.0.0"}));
        let now = config(
            &node,
            kind,
            &json!({"cniVersion": "1.1.0", "ipMasqBackend": "nftables"}),
        );
        let pods = ["a", "b", "c", "d"].map(Pod::new);
        let mut told = now.clone();
        told["prevResult"] = reference.call("ADD", &pods[0], &of_before).result();
        node.call("ADD", &pods[1], &of_before).result();
        node.call("ADD", &pods[2], &of_before).result();
        node.call("ADD", &pods[3], &now).result();
        assert_eq!(rules(&node).len(), 3 * 8, "{:?}", rules(&node));

        node.call("DEL", &pods[0], &told).result();
        assert_eq!(rules(&node).len(), 2 * 8, "with all that is known");
        node.call_with("DEL", "b", "", &now.to_string(), &[])
            .result();
        assert_eq!(rules(&node).len(), 8, "without the result before");
        told.as_object_mut().unwrap().remove("prevResult");
        told["cni.dev/attachments"] = json!([{"containerID": "d", "ifname": "eth0"}]);
        node.call("GC", &pods[3], &told).result();
        assert_eq!(rules(&node), [""; 0]);
        node.call("DEL", &pods[3], &now).result();
        node.assert_empty();
    }
}
