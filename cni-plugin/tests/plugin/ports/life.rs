//! What is left of host ports, and what it costs to make and to end them.

use std::path::Path;

use serde_json::{Value, json};

use super::bed::{Served, both_protocols, elements, generation, network, nft};
use crate::masquerade::{NETWORKS, outside};
use crate::node::{Node, Pod};

/// Everything that a pod has in the tables, of every feature.
fn owned_by(node: &Node, id: &str) -> usize {
    let said = nft(node, &["list ruleset"]);
    said.matches(&format!("comment \"{id} ")).count()
}

#[test]
fn a_pod_is_one_transaction_and_so_is_its_end() {
    let node = Node::new();
    let more = json!({"ipMasq": true, "ingressPolicy": "isolated", "macspoofchk": true});
    let config = network(&node, &both_protocols(), &more);
    let first = network(&node, &json!([{"hostPort": 9, "containerPort": 9}]), &more);
    node.call("ADD", &Pod::new("first"), &first).result();
    let before = generation(&node);
    let pod = Pod::new("a");
    node.call("ADD", &pod, &config).result();
    assert_eq!(generation(&node), before + 1);
    // Of each family: masquerading, two ports with targets and connections, the pod, and its isolation
    // from other bridges and on its own. Of the bridge: isolation, and the spoof check's.
    let spoof = owned_by(&node, "a") - 21;
    assert!((1..4).contains(&spoof), "{spoof}");
    node.call("DEL", &pod, &config).result();
    assert_eq!(generation(&node), before + 2);
    assert_eq!(owned_by(&node, "a"), 0);
    node.call("DEL", &pod, &config).result();
    assert_eq!(generation(&node), before + 2);
    assert_eq!(owned_by(&node, "first"), 15 + spoof);
}

/// Nodes save their rule set with `nft list ruleset` and load it with `nft -f`.
#[test]
fn nft_reads_back_what_it_lists() {
    let node = Node::new();
    let more = json!({
        "ipMasq": true, "ingressPolicy": "isolated", "macspoofchk": true, "markMasqBit": 4,
        "conditionsV4": ["!", "-i", "eth+", "-s", "10.0.0.0/8"],
    });
    let ports = json!([
        {"hostPort": 8080, "containerPort": 80},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "::1"},
    ]);
    let config = network(&node, &ports, &more);
    node.call("ADD", &Pod::new("a"), &config).result();
    let saved = node.folder.path().join("saved.nft");
    std::fs::write(&saved, nft(&node, &["list ruleset"])).unwrap();
    let fresh = Node::new();
    nft(&fresh, &["-f", saved.to_str().unwrap()]);
    assert_eq!(owned_by(&fresh, "a"), owned_by(&node, "a"));
}

/// On an empty machine everybody makes what all need.
#[test]
fn twenty_pods_at_once_get_their_ports() {
    let node = Node::new();
    let pods: Vec<_> = (0..20)
        .map(|index| Pod::new(&format!("p{index}")))
        .collect();
    let config = |index: usize| {
        let ports = json!([{"hostPort": 8000 + index, "containerPort": 80}]);
        network(&node, &ports, &json!({"ipMasq": true}))
    };
    let each = |command: &'static str| {
        let (node, config) = (&node, &config);
        std::thread::scope(|scope| {
            for (index, pod) in pods.iter().enumerate() {
                scope.spawn(move || node.call(command, pod, &config(index)).result());
            }
        });
    };
    each("ADD");
    assert_eq!(elements(&node).len(), 20 * 8);
    let chains = nft(&node, &["list chains"]);
    assert_eq!(chains.matches("chain net-ports-").count(), 2, "{chains}");
    each("DEL");
    assert_eq!(elements(&node), []);
    node.assert_empty();
}

/// Whatever the runtime still knows at DEL: the namespace, ADD's result, the ports.
#[test]
fn del_leaves_nothing_whatever_it_is_told() {
    let node = Node::new();
    let keeper = Pod::new("keeper");
    let port = json!([{"hostPort": 9, "containerPort": 9}]);
    let kept = network(&node, &port, &json!({"ipMasq": true}));
    node.call("ADD", &keeper, &kept).result();
    let pod = Pod::new("a");
    let with_all = network(&node, &both_protocols(), &json!({"ipMasq": true}));
    for netns in ["", &pod.path()] {
        for (tells_result, tells_ports, forgets_addresses) in [
            (true, true, false),
            (true, false, false),
            (false, true, false),
            (false, false, false),
            (true, false, true),
            (false, true, true),
            (false, false, true),
        ] {
            let result = node.call("ADD", &pod, &with_all).result();
            assert_eq!(owned_by(&node, "a"), 16);
            let mut config = with_all.clone();
            if tells_result {
                config["prevResult"] = result;
            }
            if !tells_ports {
                config.as_object_mut().unwrap().remove("runtimeConfig");
            }
            if forgets_addresses {
                forget_reservations(&node, "a");
            }
            for _ in 0..2 {
                node.call_with("DEL", "a", netns, &config.to_string(), &[])
                    .result();
                let told = (tells_result, tells_ports, forgets_addresses);
                assert_eq!(owned_by(&node, "a"), 0, "{netns} {told:?}");
            }
        }
    }
    assert_eq!(owned_by(&node, "keeper"), 10);
}

/// As if the disk had been reset but not the kernel.
fn forget_reservations(node: &Node, id: &str) {
    for entry in std::fs::read_dir(node.folder.path().join("net")).unwrap() {
        let path = entry.unwrap().path();
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        if said.lines().next() == Some(id) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn gc_ends_the_ports_of_unknown_pods() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let more = json!({"ipMasq": true, "cniVersion": "1.1.0"});
    let config = |port: u16| {
        let ports = json!([{"hostPort": port, "containerPort": 80}]);
        network(&node, &ports, &more)
    };
    let (a, b) = (Served::new("a"), Served::new("b"));
    node.call("ADD", &a.pod, &config(8080)).result();
    node.call("ADD", &b.pod, &config(8081)).result();
    let mut gc = config(1);
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    node.call("GC", &a.pod, &gc).result();
    assert_eq!((owned_by(&node, "a"), owned_by(&node, "b")), (0, 10));
    assert!(b.by_tcp(&outside, "192.0.2.1:8081").is_some());
    gc["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", &a.pod, &gc).result();
    assert_eq!(elements(&node), []);
    // The network's own chains go too; what all networks share stays.
    let left = nft(&node, &["list table ip causeway-cni"]);
    assert!(
        !left.contains("net-port") && left.contains("host-port-lookup"),
        "{left}"
    );
}

#[test]
fn check_notices_a_port_that_is_gone() {
    let node = Node::new();
    let pod = Pod::new("a");
    let mut config = network(&node, &both_protocols(), &json!({}));
    let result = node.call("ADD", &pod, &config).result();
    config["prevResult"] = result;
    node.call("CHECK", &pod, &config).result();
    nft(
        &node,
        &["delete element ip6 causeway-cni host-ports { udp . 8080 }"],
    );
    let (code, said) = node.call("CHECK", &pod, &config).error();
    assert!(code == 102 && said.contains("host port 8080/udp"), "{said}");
}

/// Under the name `bridge` ports are another plugin's.
#[test]
fn the_role_bridge_leaves_ports_to_the_role_portmap() {
    let node = Node::new();
    let pod = Pod::new("a");
    let config = network(&node, &both_protocols(), &json!({"type": "bridge"}));
    node.call("ADD", &pod, &config).result();
    assert_eq!(elements(&node), []);
}

/// The configuration of the role `portmap`, chained.
pub(super) fn chained(result: &Value, more: &Value) -> Value {
    let mut config = json!({
        "cniVersion": result["cniVersion"], "name": "net", "type": "portmap",
        "capabilities": {"portMappings": true}, "prevResult": result,
        "runtimeConfig": {"portMappings": both_protocols()},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn chained_it_gives_the_result_before_as_the_reference_does() {
    let reference = Path::new("/usr/lib/cni/portmap");
    assert!(reference.exists(), "the reference plugins belong there");
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let results = [false, true].map(|theirs| {
            let mut node = Node::new();
            let pod = Pod::new("a");
            let more = json!({"type": "bridge", "cniVersion": version});
            let bridge = node.config(&["10.1.0.0/24"], &more);
            let result = node.call("ADD", &pod, &bridge).result();
            if theirs {
                node.program = reference.into();
            }
            let config = chained(&result, &json!({}));
            let given = node.call("ADD", &pod, &config).result();
            assert_eq!(given, result, "{theirs}");
            node.call("CHECK", &pod, &{
                let mut config = config.clone();
                config["prevResult"] = given.clone();
                config
            });
            node.call("DEL", &pod, &config).result();
            given["ips"].clone()
        });
        assert_eq!(results[0], results[1]);
    }
}

#[test]
fn chained_it_serves_and_ends_whatever_it_is_told() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let served = Served::new("a");
    let more = json!({"type": "bridge", "ipMasq": true});
    let bridge = node.config(&["10.1.0.0/24", "fd01::/64"], &more);
    let result = node.call("ADD", &served.pod, &bridge).result();
    let config = chained(&result, &json!({}));
    for missing in [
        &[][..],
        &["prevResult"],
        &["runtimeConfig"],
        &["prevResult", "runtimeConfig"],
    ] {
        assert_eq!(node.call("ADD", &served.pod, &config).result(), result);
        for to in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            assert!(served.by_tcp(&outside, to).is_some(), "{to}");
        }
        node.call("CHECK", &served.pod, &config).result();
        // A port that a living pod holds is refused behind another plugin too.
        let mut other = config.clone();
        other["prevResult"]["interfaces"][1]["name"] = "vethother".into();
        let (code, said) = node.call("ADD", &Pod::new("b"), &other).error();
        assert!(code == 101 && said.contains("container a"), "{said}");
        let mut del = config.clone();
        for key in missing {
            del.as_object_mut().unwrap().remove(*key);
        }
        for _ in 0..2 {
            node.call_with("DEL", "a", "", &del.to_string(), &[])
                .result();
            assert_eq!(elements(&node), [], "{missing:?}");
        }
        // The bridge's own is the bridge's.
        assert_eq!(node.masqueraded().len(), 2);
    }
    let alone = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap"});
    let (code, said) = node.call("ADD", &served.pod, &alone).error();
    assert!(code == 7 && said.contains("prevResult"), "{said}");
}
