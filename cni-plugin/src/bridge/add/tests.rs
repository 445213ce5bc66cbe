//! Every step of ADD made to fail.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use cni_types::{Args, PluginConfig, Version};
use nodekit::netns::NetNs;
use nodekit::nft::{Family, NftSocket};
use nodekit::xtables::{Family as Programs, Table};
use serde_json::{Value, json};

use super::*;
use crate::iptables;

const STEPS: [Step; 13] = [
    Step::Reserve,
    Step::Bridge,
    Step::Veth,
    Step::Pod,
    Step::Gateway,
    Step::Localhost,
    Step::Tables,
    Step::StaleConnections,
    Step::LimitIncoming,
    Step::Ifb,
    Step::LimitOutgoing,
    Step::Hook,
    Step::Redirect,
];

fn call(dir: &Path, host_port: u16) -> Call {
    call_of(&config(dir, host_port))
}

fn config(dir: &Path, host_port: u16) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "bridge": "br0", "isDefaultGateway": true,
        "type": "causeway-cni", "ipMasq": true, "ingressPolicy": "same-bridge",
        "runtimeConfig": {
            "bandwidth": {
                "IngressRate": 1_000_000, "IngressBurst": u32::MAX, "EgressRate": 1_000_000,
                "EgressBurst": u32::MAX,
            },
            "portMappings": [{"HostPort": host_port, "ContainerPort": 53, "Protocol": "udp"}],
        },
        "ipam": {
            "type": "host-local", "dataDir": dir,
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]],
        },
    })
}

fn call_of(config: &Value) -> Call {
    Call {
        config: PluginConfig::decode(config.to_string().as_bytes()).unwrap(),
        version: Version::V1_0_0,
        args: Args::default(),
        plugin_path: Vec::new(),
        netns_override: false,
    }
}

fn path_of(netns: &NetNs) -> PathBuf {
    format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        netns.as_fd().as_raw_fd()
    )
    .into()
}

/// Everything of the node that belongs to pods.
fn state(dir: &Path) -> (Vec<String>, Vec<String>, usize) {
    let links = Handle::open().unwrap().links().unwrap();
    let veths = links
        .into_iter()
        .filter(|l| matches!(l.kind.as_deref(), Some("veth" | "ifb")))
        .map(|l| l.name);
    let files = std::fs::read_dir(dir.join("net")).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut reserved: Vec<_> = files
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect();
    reserved.sort();
    let mut nft = NftSocket::open().unwrap();
    let count = |family| {
        let sets = [
            "masquerade-pods",
            "protected-pods",
            "host-ports",
            "host-port-pods",
        ];
        let counts = sets.map(|set| nft.elements(family, "causeway-cni", set).unwrap().len());
        counts.iter().sum::<usize>()
    };
    let elements = [Family::Ip, Family::Ip6].map(count).iter().sum();
    (veths.collect(), reserved, elements)
}

#[test]
fn whichever_step_fails_nothing_is_left() {
    let node = NetNs::anonymous().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (first, call) = (call(dir.path(), 8053), call(dir.path(), 53));
    let in_node = || {
        let neighbour = NetNs::anonymous().unwrap();
        let attachment = Attachment::new("neighbour", "eth0").unwrap();
        add(&first, &attachment, &path_of(&neighbour), &|_| Ok(())).unwrap();
        let before = state(dir.path());
        assert_eq!((before.0.len(), before.1.len(), before.2), (2, 2, 8));

        let pod = NetNs::anonymous().unwrap();
        let attachment = Attachment::new("pod", "eth0").unwrap();
        for failing in STEPS {
            let fail = |step| {
                if step == failing {
                    Err(Error::new(Code::INTERNAL, "injected"))
                } else {
                    Ok(())
                }
            };
            let error = add(&call, &attachment, &path_of(&pod), &fail).unwrap_err();
            assert_eq!(error.message, format!("{failing}: injected"));
            assert_eq!(error.details, "", "something could not be undone");
            assert_eq!(state(dir.path()), before, "after {failing}");
            let links = pod
                .run(|| Handle::open().unwrap().links().unwrap())
                .unwrap();
            assert_eq!(links.len(), 1, "after {failing}");
        }
        add(&call, &attachment, &path_of(&pod), &|_| Ok(())).unwrap();
        assert_eq!(state(dir.path()).2, 16);
    };
    node.run(in_node).unwrap();
}

#[test]
fn rules_of_iptables_are_undone() {
    let node = NetNs::anonymous().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), 53);
    config["ipMasqBackend"] = "iptables".into();
    let call = call_of(&config);
    let listed = || {
        let read = |family| iptables::read(family, Table::Nat).unwrap();
        [Programs::Ip, Programs::Ip6].map(|family| read(family).rules.len())
    };
    let in_node = || {
        let pod = NetNs::anonymous().unwrap();
        let attachment = Attachment::new("pod", "eth0").unwrap();
        let reached = std::cell::Cell::new([0, 0]);
        let fail = |step| {
            if step != Step::Tables {
                return Ok(());
            }
            reached.set(listed());
            Err(Error::new(Code::INTERNAL, "injected"))
        };
        let error = add(&call, &attachment, &path_of(&pod), &fail).unwrap_err();
        assert_eq!((error.details.as_str(), reached.get()), ("", [3, 3]));
        assert_eq!(listed(), [0, 0]);
    };
    node.run(in_node).unwrap();
}

#[test]
fn every_step_is_taken_in_order() {
    let node = NetNs::anonymous().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let call = call(dir.path(), 53);
    let taken = std::sync::Mutex::new(Vec::new());
    let in_node = || {
        let pod = NetNs::anonymous().unwrap();
        let attachment = Attachment::new("pod", "eth0").unwrap();
        let note = |step| {
            taken.lock().unwrap().push(step);
            Ok(())
        };
        add(&call, &attachment, &path_of(&pod), &note).unwrap();
    };
    node.run(in_node).unwrap();
    assert_eq!(*taken.lock().unwrap(), STEPS);
}
