//! The role firewall with iptables: pods as exceptions where these drop everything.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::firewall::{Attached, answers, attach, world};
use crate::node::Node;

const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

/// What iptables say, or do, in the node.
fn iptables(node: &Node, program: &str, arguments: &[&str]) -> Vec<String> {
    let run = || Command::new(program).args(arguments).output().unwrap();
    let output = node.netns.run(run).unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// A chain's rules in both families.
fn rules(node: &Node, chain: &str) -> Vec<String> {
    let list = |program| iptables(node, program, &["-S", chain]);
    let all = [list("iptables"), list("ip6tables")].concat();
    all.into_iter()
        .filter(|rule| rule.starts_with("-A"))
        .collect()
}

/// A node whose iptables forward nothing that they don't know.
fn closed() -> Node {
    let node = Node::new();
    for program in ["iptables", "ip6tables"] {
        iptables(&node, program, &["-P", "FORWARD", "DROP"]);
    }
    node
}

fn config(attached: &Attached) -> Value {
    attached.config(&json!({"backend": "iptables"}))
}

#[test]
fn pods_get_out_and_answers_in_until_they_go() {
    let node = closed();
    let a = attach(&node, "a", "a");
    let world = world(&node);
    let out = || answers(&a.pod.netns, &world, THERE, true);
    let refused = || !answers(&a.pod.netns, &world, THERE, false);
    let asked = || answers(&world, &a.pod.netns, "10.1.0.2".parse().unwrap(), false);
    assert!(refused());
    for _ in 0..2 {
        assert_eq!(node.call("ADD", &a.pod, &config(&a)).result(), a.result);
    }
    node.call("CHECK", &a.pod, &config(&a)).result();
    assert!(out() && !asked());
    assert_eq!(rules(&node, "CNI-FORWARD").len(), 2 * 3, "each once");
    assert_eq!(rules(&node, "FORWARD").len(), 2);
    let mut bare = config(&a);
    bare["prevResult"] = Value::Null;
    for _ in 0..2 {
        node.call_with("DEL", "a", "", &bare.to_string(), &[])
            .result();
        assert!(refused());
        let left = rules(&node, "CNI-FORWARD");
        assert!(
            left.iter().all(|rule| rule.ends_with("-j CNI-ADMIN")),
            "{left:?}"
        );
    }
    let (code, text) = node.call("CHECK", &a.pod, &config(&a)).error();
    assert!(code == 102 && text.contains("10.1.0.2/32"), "{code} {text}");
}

#[test]
fn rules_are_the_references_and_each_ends_what_the_other_began() {
    let node = closed();
    let reference = Node {
        netns: node.netns.try_clone().unwrap(),
        program: Path::new("/usr/lib/cni/firewall").into(),
        ..Node::new()
    };
    let a = attach(&node, "a", "a");
    let without_comments = |rules: Vec<String>| {
        let comment = " -m comment --comment \"causeway-cni/a/eth0/a\"";
        let all = rules.into_iter().map(|rule| rule.replace(comment, ""));
        all.collect::<Vec<_>>()
    };
    reference.call("ADD", &a.pod, &config(&a)).result();
    let theirs = ["FORWARD", "CNI-FORWARD"].map(|chain| rules(&node, chain));
    node.call("DEL", &a.pod, &config(&a)).result();
    assert_eq!(rules(&node, "CNI-FORWARD").len(), 2);

    for program in ["iptables", "ip6tables"] {
        iptables(&node, program, &["-F"]);
        iptables(&node, program, &["-X"]);
    }
    node.call("ADD", &a.pod, &config(&a)).result();
    let ours = ["FORWARD", "CNI-FORWARD"].map(|chain| without_comments(rules(&node, chain)));
    assert_eq!(ours, theirs);
    // What is there already does for the reference, too.
    let b = attach(&node, "b", "b");
    reference.call("ADD", &b.pod, &config(&b)).result();
    assert_eq!(rules(&node, "FORWARD"), theirs[0]);
    assert_eq!(rules(&node, "CNI-FORWARD").len(), 2 * 5);
}

#[test]
fn an_administrators_chain_and_gc() {
    let node = closed();
    let (a, b) = (attach(&node, "a", "a"), attach(&node, "b", "b"));
    let named = |attached: &Attached| attached.config(&json!({"iptablesAdminChainName": "MINE"}));
    for attached in [&a, &b] {
        node.call("ADD", &attached.pod, &named(attached)).result();
    }
    assert!(rules(&node, "CNI-FORWARD")[0].ends_with("-j MINE"));
    let gc = |network: &str, kept: Value| {
        let config = json!({
            "cniVersion": "1.1.0", "name": network, "type": "firewall", "backend": "iptables",
            "cni.dev/attachments": kept,
        });
        node.call("GC", &a.pod, &config).result();
        rules(&node, "CNI-FORWARD").len()
    };
    assert_eq!(
        gc("a", json!([{"containerID": "a", "ifname": "eth0"}])),
        2 * 5
    );
    assert_eq!(gc("a", json!([])), 2 * 3);
    assert_eq!(gc("b", json!([])), 2);
}

#[test]
fn many_at_once_make_everything_once() {
    let node = closed();
    let attached: Vec<_> = (0..6)
        .map(|n| attach(&node, &format!("pod{n}"), "a"))
        .collect();
    thread::scope(|scope| {
        for one in &attached {
            scope.spawn(|| node.call("ADD", &one.pod, &config(one)).result());
        }
    });
    for one in &attached {
        node.call("CHECK", &one.pod, &config(one)).result();
    }
    let all = rules(&node, "CNI-FORWARD");
    let pods = all
        .iter()
        .filter(|rule| rule.contains("causeway-cni"))
        .count();
    assert_eq!(pods, 2 * 2 * attached.len(), "{all:?}");
}

#[test]
fn rules_go_although_the_configuration_asks_for_none_any_more() {
    let node = closed();
    let now = |attached: &Attached| attached.config(&json!({"backend": "nftables"}));
    let a = attach(&node, "a", "a");
    let b = attach(&node, "b", "b");
    let (jumps, of_pod) = (2, 2 * 2);
    for pod in [&a, &b] {
        node.call("ADD", &pod.pod, &config(pod)).result();
    }
    assert_eq!(rules(&node, "CNI-FORWARD").len(), jumps + 2 * of_pod);
    node.call("DEL", &a.pod, &now(&a)).result();
    assert_eq!(rules(&node, "CNI-FORWARD").len(), jumps + of_pod);
    let mut bare = now(&b);
    bare["prevResult"] = Value::Null;
    node.call_with("DEL", "b", "", &bare.to_string(), &[])
        .result();
    assert_eq!(rules(&node, "CNI-FORWARD").len(), jumps);

    node.call("ADD", &a.pod, &config(&a)).result();
    assert_eq!(rules(&node, "CNI-FORWARD").len(), jumps + of_pod);
    let mut gc = now(&a);
    gc["cniVersion"] = "1.1.0".into();
    gc["cni.dev/attachments"] = json!([]);
    gc.as_object_mut().unwrap().remove("prevResult");
    node.call("GC", &a.pod, &gc).result();
    assert_eq!(rules(&node, "CNI-FORWARD").len(), jumps);
}
