//! Settings of a pod's namespace and interface: made, compared with the reference's, taken back.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nodekit::route::{Handle, Link, LinkChange};
use nodekit::sysctl;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, PLUGIN, Pod};

/// A pod with an interface, the result of whoever made it, and a folder for what was before.
struct Attached {
    node: Node,
    pod: Pod,
    result: Value,
    data: TempDir,
}

impl Attached {
    fn new(program: &Path) -> Self {
        let mut node = Node::new();
        let pod = Pod::new("pod");
        let bridge = node.config(&["10.1.0.0/24"], &json!({"type": "bridge"}));
        let result = node.call("ADD", &pod, &bridge).result();
        node.program = program.to_owned();
        let data = tempfile::tempdir().unwrap();
        Self {
            node,
            pod,
            result,
            data,
        }
    }

    fn config(&self, settings: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "tuning", "prevResult": self.result,
            "dataDir": self.data.path(),
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn link(&self) -> Link {
        let link = self.pod.link("eth0").unwrap();
        // Its number differs from namespace to namespace.
        Link {
            index: 0,
            peer: None,
            ..link
        }
    }

    fn sysctl(&self, key: &str) -> String {
        let read = || sysctl::read(&key.parse().unwrap()).unwrap();
        self.pod.netns.run(read).unwrap()
    }

    fn saved(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn reference() -> &'static Path {
    Path::new("/usr/lib/cni/tuning")
}

/// Everything that the oldest reference set still in use (1.1.1) knows.
fn everything() -> Value {
    json!({
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1", "net.core.somaxconn": "321"},
        "mac": "c2:b0:57:49:47:f1", "mtu": 1454, "promisc": true, "allmulti": true,
    })
}

#[test]
fn settings_and_results_are_the_references() {
    let seen = [Path::new(PLUGIN), reference()].map(|program| {
        let attached = Attached::new(program);
        let before = attached.link();
        let config = attached.config(&everything());
        let mut result = attached.node.call("ADD", &attached.pod, &config).result();
        for index in [0, 1] {
            result["interfaces"][index] = "the node's".into();
        }
        result["interfaces"][2]["sandbox"] = "a namespace".into();
        let tuned = attached.link();
        let keys = ["net/ipv4/conf/eth0/arp_filter", "net/core/somaxconn"];
        let set = keys.map(|key| attached.sysctl(key));
        attached.node.call("CHECK", &attached.pod, &config).result();
        assert_eq!(attached.saved().len(), 1);
        attached.node.call("DEL", &attached.pod, &config).result();
        assert_eq!(attached.saved().len(), 0);
        assert_eq!(attached.link(), before);
        (result, tuned, set)
    });
    assert_eq!(seen[0], seen[1]);
    let (result, tuned, set) = &seen[0];
    assert_eq!(result["interfaces"][2]["mac"], "c2:b0:57:49:47:f1");
    assert!(tuned.promiscuous && tuned.all_multicast && tuned.mtu == 1454);
    assert_eq!(set, &["1", "321"]);
}

#[test]
fn either_ends_what_the_other_began() {
    for (begins, ends) in [
        (Path::new(PLUGIN), reference()),
        (reference(), Path::new(PLUGIN)),
    ] {
        let mut attached = Attached::new(begins);
        let before = attached.link();
        let config = attached.config(&everything());
        attached.node.call("ADD", &attached.pod, &config).result();
        assert_ne!(attached.link(), before);
        attached.node.program = ends.to_owned();
        attached.node.call("CHECK", &attached.pod, &config).result();
        attached.node.call("DEL", &attached.pod, &config).result();
        assert_eq!(attached.link(), before);
        assert_eq!(attached.saved().len(), 0);
    }
}

#[test]
fn the_newer_settings_work_and_the_result_tells_the_mtu() {
    let attached = Attached::new(Path::new(PLUGIN));
    let before = attached.link();
    let mut config = attached.config(&json!({
        "txQLen": 77, "mtu": 1300, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
    }));
    config["cniVersion"] = "1.1.0".into();
    config["prevResult"]["interfaces"][2]["mtu"] = 1500.into();
    let result = attached.node.call("ADD", &attached.pod, &config).result();
    assert_eq!(result["interfaces"][2]["mtu"], 1300);
    assert_eq!(attached.link().tx_queue_len, 77);
    assert_eq!(attached.sysctl("net/ipv4/conf/eth0/arp_filter"), "1");
    attached.node.call("DEL", &attached.pod, &config).result();
    assert_eq!(attached.link(), before);
}

#[test]
fn a_failing_step_undoes_those_before() {
    let attached = Attached::new(Path::new(PLUGIN));
    let before = attached.link();
    let key = "net/core/somaxconn";
    let value = attached.sysctl(key);
    let missing = attached.config(&json!({
        "sysctl": {"net.core.somaxconn": "321", "net.core.there-is-none": "1"}, "mtu": 1400,
    }));
    let (code, text) = attached.node.call("ADD", &attached.pod, &missing).error();
    assert!(
        code == 100 && text.contains("there-is-none"),
        "{code} {text}"
    );
    // Where a folder should be there is a file.
    let blocked = attached.data.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let unwritable = attached.config(&json!({
        "sysctl": {"net.core.somaxconn": "321"}, "mtu": 1400, "dataDir": blocked,
    }));
    let (code, text) = attached
        .node
        .call("ADD", &attached.pod, &unwritable)
        .error();
    assert!(code == 5 && text.contains("pod_eth0.json"), "{code} {text}");
    assert_eq!(attached.sysctl(key), value);
    assert_eq!(attached.link(), before);
    let kernel = attached.config(&json!({"sysctl": {"kernel.hostname": "x"}}));
    let (code, text) = attached.node.call("ADD", &attached.pod, &kernel).error();
    assert!(
        code == 7 && text.contains("kernel.hostname"),
        "{code} {text}"
    );
    let mut alone = attached.config(&everything());
    alone["prevResult"] = Value::Null;
    assert_eq!(
        attached.node.call("ADD", &attached.pod, &alone).error().0,
        7
    );
    assert_eq!(attached.saved(), [blocked]);
}

#[test]
fn check_notices_what_changed() {
    let attached = Attached::new(Path::new(PLUGIN));
    let mut settings = everything();
    settings["sysctl"]["net.ipv4.tcp_rmem"] = "4096 131072  6291456".into();
    let config = attached.config(&settings);
    attached.node.call("ADD", &attached.pod, &config).result();
    attached.node.call("CHECK", &attached.pod, &config).result();
    let index = attached.pod.link("eth0").unwrap().index;
    let change = LinkChange {
        mtu: Some(1400),
        promiscuous: Some(false),
        ..LinkChange::default()
    };
    let apply = || Handle::open().unwrap().change_link(index, &change).unwrap();
    attached.pod.netns.run(apply).unwrap();
    let (code, text) = attached.node.call("CHECK", &attached.pod, &config).error();
    assert_eq!(code, 102);
    for part in ["mtu 1400 instead of 1454", "promisc false instead of true"] {
        assert!(text.contains(part), "{text}");
    }
    let set = || sysctl::write(&"net/core/somaxconn".parse().unwrap(), "5").unwrap();
    attached.pod.netns.run(set).unwrap();
    let (code, text) = attached.node.call("CHECK", &attached.pod, &config).error();
    assert!(
        code == 102 && text.contains("net/core/somaxconn"),
        "{code} {text}"
    );
}

#[test]
fn nothing_is_left_without_the_namespace_and_of_the_unknown() {
    let attached = Attached::new(Path::new(PLUGIN));
    let Attached { node, .. } = &attached;
    let config = attached.config(&json!({"mtu": 1400}));
    let add = || {
        node.call("ADD", &attached.pod, &config).result();
        assert_eq!(attached.saved().len(), 1);
    };
    add();
    for _ in 0..2 {
        node.call_with("DEL", "pod", "", &config.to_string(), &[])
            .result();
        assert_eq!(attached.saved().len(), 0);
    }
    // What can't be read is said once.
    add();
    std::fs::write(&attached.saved()[0], "{").unwrap();
    let (code, text) = node.call("DEL", &attached.pod, &config).error();
    assert!(code == 6 && text.contains("pod_eth0.json"), "{code} {text}");
    node.call("DEL", &attached.pod, &config).result();

    add();
    let gc = |network: &str, kept: Value| {
        let mut config = attached.config(&json!({"cni.dev/attachments": kept, "name": network}));
        config["cniVersion"] = "1.1.0".into();
        node.call("GC", &attached.pod, &config).result();
        attached.saved().len()
    };
    assert_eq!(gc("another", json!([])), 1);
    assert_eq!(
        gc("net", json!([{"containerID": "pod", "ifname": "eth0"}])),
        1
    );
    assert_eq!(gc("net", json!([])), 0);
}

#[test]
fn the_administrators_list_is_heeded() {
    let mut attached = Attached::new(Path::new(PLUGIN));
    let script = attached.data.path().join("tuning");
    // A mount namespace of its own, in which /etc has nothing but the list.
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none /etc && mkdir -p /etc/cni/tuning \
         && echo \"^net\\.ipv4\\.\" > /etc/cni/tuning/allowlist.conf && exec {PLUGIN}'\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    attached.node.program = script;
    let config = attached.config(&everything());
    let (code, text) = attached.node.call("ADD", &attached.pod, &config).error();
    assert!(code == 7, "{code} {text}");
    for part in ["net.core.somaxconn", "^net\\.ipv4\\."] {
        assert!(text.contains(part), "{text}");
    }
    let allowed = attached.config(&json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}));
    attached.node.call("ADD", &attached.pod, &allowed).result();
    assert_eq!(attached.sysctl("net/ipv4/conf/eth0/arp_filter"), "1");
}
