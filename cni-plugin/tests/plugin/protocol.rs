//! Versions, roles by name, and what is said without being asked.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::node::{Node, PLUGIN, Pod};

const ALL: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

#[test]
fn without_a_command_it_says_what_it_is() {
    let output = Command::new(PLUGIN).env_clear().output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("CNI protocol versions supported: 0.1.0") && text.contains("1.1.0"));
}

#[test]
fn version_answers_whatever_the_input() {
    let node = Node::new();
    for (input, version) in [
        ("{\"cniVersion\": \"0.4.0\"}", "0.4.0"),
        ("{\"cniVersion\": \"7.0.0\"}", "1.1.0"),
        ("", "1.1.0"),
        ("nonsense", "1.1.0"),
    ] {
        let result = node.call_with("VERSION", "", "", input, &[]).result();
        assert_eq!(
            result,
            json!({"cniVersion": version, "supportedVersions": ALL})
        );
    }
}

#[test]
fn loopback_as_containerd_calls_it() {
    let mut node = Node::new();
    let link = node.folder.path().join("loopback");
    symlink(PLUGIN, &link).unwrap();
    node.program = link;
    let pod = Pod::new("a");
    assert!(!pod.link("lo").unwrap().up);
    let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let args = [
        ("CNI_IFNAME", "lo"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
    ];
    let call = |command| node.call_with(command, "a", &pod.path(), &config.to_string(), &args);
    assert_eq!(
        call("ADD").result(),
        json!({
            "cniVersion": "0.3.1",
            "interfaces": [
                {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path()},
            ],
            "ips": [
                {"version": "4", "address": "127.0.0.1/8", "interface": 0},
                {"version": "6", "address": "::1/128", "interface": 0},
            ],
            "dns": {},
        })
    );
    assert!(pod.link("lo").unwrap().up);
    assert_eq!(call("CHECK").error().0, 1, "0.3.1 has no CHECK");
    assert!(call("DEL").result().is_null());
    let gone = node.call_with("DEL", "a", "", &config.to_string(), &args);
    assert!(gone.result().is_null());
}

#[test]
fn host_local_stands_alone() {
    let mut node = Node::new();
    let link = node.folder.path().join("host-local");
    symlink(PLUGIN, &link).unwrap();
    node.program = link;
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"type": "bridge"}));
    let pod = Pod::new("a");
    assert_eq!(
        node.call("ADD", &pod, &config).result(),
        json!({
            "cniVersion": "1.0.0",
            "ips": [
                {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
                {"address": "fd01::2/64", "gateway": "fd01::1"},
            ],
            "dns": {},
        })
    );
    assert!(pod.link("eth0").is_none());
    assert!(node.call("CHECK", &pod, &config).result().is_null());
    assert!(node.call("DEL", &pod, &config).result().is_null());
    assert_eq!(node.call("CHECK", &pod, &config).error().0, 3);
    node.assert_empty();
}

#[test]
fn the_arguments_of_kubernetes_are_taken() {
    let node = Node::new();
    let mut config = node.config(&["10.1.0.0/24"], &json!({}));
    config["runtimeConfig"] = json!({
        "io.kubernetes.cri.pod-annotations": {"a": "b"},
        "dns": {"Servers": ["10.96.0.10"], "Searches": ["svc"], "Options": ["ndots:5"]},
    });
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
                K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=1-2;IP=10.1.0.44";
    let pod = Pod::new("a");
    let answer = node.call_with(
        "ADD",
        "a",
        &pod.path(),
        &config.to_string(),
        &[("CNI_ARGS", args)],
    );
    let result = answer.result();
    assert_eq!(result["ips"][0]["address"], "10.1.0.44/24");
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.96.0.10"], "search": ["svc"], "options": ["ndots:5"]})
    );
}
