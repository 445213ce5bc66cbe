//! The plugin killed after every single system call that changes something.

use std::fs;
use std::os::unix::fs::symlink;

use nodekit::nft::{Family, NftSocket};
use nodekit::route::Handle;
use serde_json::{Value, json};

use crate::node::{Node, Pod, address};
use crate::tracer;

/// Enough for any call: a loop that doesn't end by then is none.
const MOST: usize = 500;

/// Everything that an attachment can have.
pub(crate) fn config_of_everything(node: &Node) -> Value {
    let more = json!({
        "ipMasq": true, "cniVersion": "1.1.0", "ingressPolicy": "isolated", "macspoofchk": true,
        "runtimeConfig": {
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
            ],
            "bandwidth": {
                "ingressRate": 8_000_000, "ingressBurst": 8_000_000,
                "egressRate": 8_000_000, "egressBurst": 8_000_000,
            },
        },
    });
    node.config(&["10.1.0.0/24", "fd01::/64"], &more)
}

/// The same without what only one pod of a node can have.
fn config_of_others(node: &Node) -> Value {
    let mut config = config_of_everything(node);
    config["runtimeConfig"]["portMappings"] = json!([]);
    config
}

/// Everything in the node's tables that has an owner.
pub(crate) fn owned(node: &Node) -> Vec<String> {
    let owned = || {
        let mut nft = NftSocket::open().unwrap();
        let mut owned = Vec::new();
        for family in [Family::Ip, Family::Ip6, Family::Bridge] {
            for set in nft.sets(family, "causeway-cni").unwrap_or_default() {
                let elements = nft.elements(family, "causeway-cni", &set.name).unwrap();
                let comments = elements.into_iter().filter_map(|element| element.comment);
                owned.extend(comments.map(|comment| format!("{}: {comment}", set.name)));
            }
        }
        owned
    };
    node.netns.run(owned).unwrap()
}

/// Kills `command` after its first change, its second and so on until it gets through; what is
/// right after each is the caller's to say.
fn after_every_change(command: &str, prepare: impl Fn(&Node, &Pod), check: impl Fn(&Node, &Pod)) {
    let mut changes = 0;
    loop {
        changes += 1;
        assert!(changes < MOST, "{command} never ended");
        let node = Node::new();
        let pod = Pod::new("a");
        prepare(&node, &pod);
        let traced = tracer::run(
            &node,
            command,
            &pod,
            &config_of_everything(&node),
            Some(changes),
        );
        check(&node, &pod);
        if !traced.killed {
            assert!(
                changes > 10,
                "{command} changed next to nothing: {traced:?}"
            );
            return;
        }
    }
}

/// That nothing of a pod is left, in the kernel or on disk.
fn assert_gone(node: &Node, pod: &Pod) {
    assert_eq!(node.reserved(), [""; 0]);
    assert_eq!(owned(node), [""; 0]);
    let links = node.netns.run(|| Handle::open().unwrap().links().unwrap());
    let names = links.unwrap().into_iter().map(|link| link.name);
    let others: Vec<_> = names.filter(|name| name != "lo" && name != "br0").collect();
    assert_eq!(others, [""; 0]);
    assert!(pod.link("eth0").is_none());
    let index = node.folder.path().join("net/.causeway");
    let entries = fs::read_dir(index).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        names.filter(|name| name.contains(':')).collect::<Vec<_>>(),
        [""; 0]
    );
}

#[test]
fn a_killed_add_is_cleaned_by_its_del() {
    after_every_change(
        "ADD",
        |_, _| {},
        |node, pod| {
            assert!(
                node.call("DEL", pod, &config_of_everything(node))
                    .result()
                    .is_null()
            );
            assert_gone(node, pod);
        },
    );
}

#[test]
fn a_killed_add_is_in_nobodys_way_and_is_cleaned_by_gc() {
    after_every_change(
        "ADD",
        |_, _| {},
        |node, pod| {
            let other = Pod::new("b");
            let mut config = config_of_others(node);
            let result = node.call("ADD", &other, &config).result();
            assert!(other.link("eth0").unwrap().up);
            // What the killed one got stays its own: its namespace may have it.
            let held = node.reserved();
            let got = address(&result, 0).to_string();
            assert!(held.len() <= 4 && held.contains(&got), "{held:?}");

            config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
            node.call("GC", pod, &config).result();
            assert_eq!((node.ports().len(), node.reserved().len()), (1, 2));
            assert!(pod.link("eth0").is_none());
            let of_other = |comment: &String| comment.contains(": b eth0 net");
            assert!(owned(node).iter().all(of_other), "{:?}", owned(node));
        },
    );
}

#[test]
fn a_killed_del_is_ended_by_the_next() {
    let attach = |node: &Node, pod: &Pod| {
        node.call("ADD", pod, &config_of_everything(node)).result();
    };
    after_every_change("DEL", attach, |node, pod| {
        node.call("DEL", pod, &config_of_everything(node)).result();
        assert_gone(node, pod);
    });
}

/// A node whose plugin is `host-local` alone.
fn host_local() -> Node {
    let mut node = Node::new();
    let link = node.folder.path().join("host-local");
    symlink(&node.program, &link).unwrap();
    node.program = link;
    node
}

#[test]
fn a_killed_host_local_loses_no_address() {
    for command in ["ADD", "DEL"] {
        for kill_after in 1..MOST {
            let node = host_local();
            let config = node.config(&["10.1.0.0/29"], &json!({}));
            let (a, b) = (Pod::new("a"), Pod::new("b"));
            if command == "DEL" {
                node.call("ADD", &a, &config).result();
            }
            let killed = tracer::run(&node, command, &a, &config, Some(kill_after)).killed;
            let held = node.reserved();
            let other = node.call("ADD", &b, &config).result();
            let got = address(&other, 0).to_string();
            assert!(!held.contains(&got), "{command} {kill_after}: {got} twice");
            node.call("DEL", &a, &config).result();
            assert_eq!(node.reserved(), [got], "{command} {kill_after}");
            node.call("DEL", &b, &config).result();
            assert_eq!(node.reserved(), [""; 0], "{command} {kill_after}");
            if !killed {
                assert!(kill_after > 4, "{command} changed next to nothing");
                break;
            }
            assert!(kill_after + 1 < MOST, "{command} never ended");
        }
    }
}
