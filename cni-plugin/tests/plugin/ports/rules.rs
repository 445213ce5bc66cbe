//! Host ports in iptables: the reference's rules, and what packets make of them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::bed::{Served, elements};
use super::life::chained;
use crate::masquerade::{NETWORKS, outside};
use crate::node::{Node, Pod};

const REFERENCE: &str = "/usr/lib/cni/portmap";

/// What iptables have for addresses' translation, in any order; of the pods' chains only, where
/// `pods` says so.
fn rules(node: &Node, pods: bool) -> Vec<String> {
    let mut all = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let mut command = Command::new(program);
        command.args(["-t", "nat"]);
        let output = node.netns.run(|| command.output().unwrap()).unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.starts_with([':', '-']));
        let lines = lines.filter(|line| !pods || line.contains("CNI-DN-"));
        all.extend(lines.map(|line| format!("{program} {line}")));
    }
    all.sort();
    all
}

/// A bridge with a pod, and its result.
fn attached(node: &Node, served: &Served) -> Value {
    let more = json!({"type": "bridge", "hairpinMode": true});
    let bridge = node.config(&["10.1.0.0/24", "fd01::/64"], &more);
    node.call("ADD", &served.pod, &bridge).result()
}

fn ports() -> Value {
    json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
        {"hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": "192.0.2.1"},
        {"hostPort": 8082, "containerPort": 82, "protocol": "sctp", "hostIP": "::"},
        {"hostPort": 8083, "containerPort": 83, "protocol": "tcp", "hostIP": "0.0.0.0"},
    ])
}

#[test]
fn rules_are_the_references_and_each_ends_what_the_other_began() {
    assert!(Path::new(REFERENCE).exists(), "the reference belongs there");
    for more in [
        json!({}),
        json!({"snat": false}),
        json!({"markMasqBit": 4}),
        json!({"conditionsV4": ["!", "-s", "192.0.2.0/24"], "conditionsV6": ["-i", "eth0"]}),
    ] {
        let node = Node::new();
        let theirs = Node {
            netns: node.netns.try_clone().unwrap(),
            program: REFERENCE.into(),
            ..Node::new()
        };
        let served = Served::new("a");
        let mut config = chained(&attached(&node, &served), &more);
        config["runtimeConfig"] = json!({"portMappings": ports()});
        config["backend"] = "iptables".into();
        theirs.call("ADD", &served.pod, &config).result();
        let expected = rules(&node, false);
        assert!(!rules(&node, true).is_empty(), "{expected:#?}");
        node.call("CHECK", &served.pod, &config).result();
        node.call("DEL", &served.pod, &config).result();
        assert_eq!(rules(&node, true), Vec::<String>::new());
        for _ in 0..2 {
            node.call("ADD", &served.pod, &config).result();
            assert_eq!(rules(&node, false), expected, "{more}");
        }
        theirs.call("CHECK", &served.pod, &config);
        theirs.call("DEL", &served.pod, &config).result();
        assert_eq!(rules(&node, true), Vec::<String>::new());
        let (code, said) = node.call("CHECK", &served.pod, &config).error();
        assert!(code == 102 && said.contains("CNI-DN-"), "{said}");
        assert_eq!(elements(&node), []);
    }
}

#[test]
fn rules_go_although_the_configuration_asks_for_none_any_more() {
    for told in [true, false] {
        let node = Node::new();
        let theirs = Node {
            netns: node.netns.try_clone().unwrap(),
            program: REFERENCE.into(),
            ..Node::new()
        };
        let served = Served::new("a");
        let result = attached(&node, &served);
        let mut before = chained(&result, &json!({"backend": "iptables"}));
        before["runtimeConfig"] = json!({"portMappings": ports()});
        let mut now = before.clone();
        now["backend"] = "nftables".into();
        if !told {
            now["runtimeConfig"] = json!({});
        }
        for kind in ["portmap", "causeway-cni"] {
            theirs.call("ADD", &served.pod, &before).result();
            assert!(!rules(&node, true).is_empty());
            now["type"] = kind.into();
            node.call("DEL", &served.pod, &now).result();
            assert_eq!(rules(&node, true), Vec::<String>::new(), "{kind} {told}");
        }
        node.call("ADD", &served.pod, &before).result();
        let mut gc = now.clone();
        gc["type"] = "portmap".into();
        gc["cniVersion"] = "1.1.0".into();
        gc["cni.dev/attachments"] = json!([]);
        gc.as_object_mut().unwrap().remove("prevResult");
        node.call("GC", &served.pod, &gc).result();
        assert_eq!(rules(&node, true), Vec::<String>::new());
    }
}

#[test]
fn packets_take_ports_in_iptables() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let served = Served::new("a");
    let result = attached(&node, &served);
    let more = json!({"backend": "iptables"});
    let config = chained(&result, &more);
    assert_eq!(node.call("ADD", &served.pod, &config).result(), result);
    for (from, to) in [
        (&outside, "192.0.2.1:8080"),
        (&outside, "[2001:db8::1]:8080"),
        (&node.netns, "10.1.0.1:8080"),
        (&node.netns, "127.0.0.1:8080"),
        (&served.pod.netns, "192.0.2.1:8080"),
        (&served.pod.netns, "[fd01::1]:8080"),
    ] {
        assert!(served.by_tcp(from, to).is_some(), "{to}");
    }
    let text = {
        let mut told = config.clone();
        told.as_object_mut().unwrap().remove("prevResult");
        told["runtimeConfig"] = json!({});
        told.to_string()
    };
    for _ in 0..2 {
        node.call_with("DEL", "a", "", &text, &[]).result();
        assert_eq!(rules(&node, true), Vec::<String>::new());
    }
    assert!(served.is_closed(&outside, "192.0.2.1:8080"));
}

#[test]
fn gc_ends_what_unknown_pods_have_in_iptables() {
    let node = Node::new();
    let served = Served::new("a");
    let result = attached(&node, &served);
    let mut config = chained(&result, &json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}));
    let (code, said) = node.call("ADD", &served.pod, &config).error();
    assert_eq!(code, 100, "no such chain: {said}");
    assert_eq!(rules(&node, true), Vec::<String>::new());
    for program in ["iptables", "ip6tables"] {
        let mut command = Command::new(program);
        command.args(["-t", "nat", "-N", "KUBE-MARK-MASQ"]);
        assert!(
            node.netns
                .run(|| command.status().unwrap())
                .unwrap()
                .success()
        );
    }
    for id in ["a", "b"] {
        node.call("ADD", &Pod::new(id), &config).result();
    }
    let with_marks = |line: &&String| line.contains("-j KUBE-MARK-MASQ");
    assert_eq!(rules(&node, true).iter().filter(with_marks).count(), 12);
    assert!(
        rules(&node, false)
            .iter()
            .all(|line| !line.contains("CNI-HOSTPORT-MASQ"))
    );
    config["cniVersion"] = "1.1.0".into();
    config["prevResult"]["cniVersion"] = "1.1.0".into();
    config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    node.call("GC", &served.pod, &config).result();
    let left = rules(&node, true);
    assert!(left.iter().any(|line| line.contains(r#"id: \"b\""#)));
    assert!(left.iter().all(|line| !line.contains(r#"id: \"a\""#)));
    config["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", &served.pod, &config).result();
    assert_eq!(rules(&node, true), Vec::<String>::new());
}

#[test]
fn conditions_of_the_other_backend_are_refused() {
    let node = Node::new();
    let served = Served::new("a");
    let result = attached(&node, &served);
    for (more, code, part) in [
        (
            json!({"backend": "iptables", "conditionsV4": ["ip saddr 10.0.0.0/8"]}),
            7,
            "conditionsV4",
        ),
        (
            json!({"backend": "nftables", "externalSetMarkChain": "X"}),
            2,
            "externalSetMarkChain",
        ),
        (
            json!({"backend": "iptables", "conditionsV4": ["--no-such-match", "1"]}),
            100,
            "iptables",
        ),
    ] {
        let config = chained(&result, &more);
        let (got, said) = node.call("ADD", &served.pod, &config).error();
        assert!(got == code && said.contains(part), "{got} {said}");
        assert_eq!(rules(&node, true), Vec::<String>::new());
    }
}
