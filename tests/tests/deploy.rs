//! What is put on a cluster: the manifests, and the files of the image.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "deploy/container.rs"]
mod container;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_proxy::cli::Flags;
use causeway_proxy::config::load;
use causeway_proxy::privileges::needed;
use causeway_tests::proxy_bed::NODE_NAME;
use serde_json::{Value, json};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifests() -> Vec<Value> {
    let file = repository().join("deploy/kubernetes/causeway-proxy.yaml");
    serde_saphyr::from_multiple(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn of_kind(kind: &str) -> Value {
    let mut found = manifests().into_iter().filter(|m| m["kind"] == kind);
    let manifest = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "one {kind} is enough");
    manifest
}

/// The DaemonSet as it is applied for this mode.
fn daemon_set(mode: &str) -> Value {
    let set = of_kind("DaemonSet");
    if mode != "ebpf" {
        return set;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("set.json");
    std::fs::write(&file, set.to_string()).unwrap();
    let patch = std::fs::read_to_string(repository().join("deploy/kubernetes/ebpf.yaml")).unwrap();
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["patch", "--local", "--output=json", "--filename"]);
    let done = kubectl
        .arg(&file)
        .args(["--patch", &patch])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The words of a container, with the Node's name in them.
fn arguments(container: &Value) -> Vec<String> {
    let words = container["args"].as_array().unwrap().iter();
    let words = words.map(|word| word.as_str().unwrap());
    words
        .map(|word| word.replace("$(NODE_NAME)", NODE_NAME))
        .collect()
}

/// Whoever looks for the service proxy looks for this label.
#[test]
fn the_daemon_set_is_found_as_kube_proxy_is() {
    let set = of_kind("DaemonSet");
    let label = json!({"k8s-app": "kube-proxy"});
    assert_eq!(set["metadata"]["labels"], label);
    assert_eq!(set["spec"]["selector"]["matchLabels"], label);
    assert_eq!(set["spec"]["template"]["metadata"]["labels"], label);
}

/// What runs all the time can program the network and do nothing else; what writes sysctls ends.
#[test]
fn the_daemon_has_no_privilege_that_it_does_not_need() {
    for mode in ["nftables", "ebpf"] {
        let set = daemon_set(mode);
        let pod = &set["spec"]["template"]["spec"];
        let daemon = &pod["containers"][0];
        let context = &daemon["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["privileged"], Value::Null);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(given(context), needed_by(daemon), "{mode}");
        assert_eq!(pod["hostPID"] == true, mode == "ebpf");
        let setup = &pod["initContainers"][0];
        assert_eq!(setup["securityContext"]["privileged"], true);
        assert!(arguments(setup).contains(&"--init-only".to_owned()));
    }
}

fn given(context: &Value) -> BTreeSet<String> {
    let given = context["capabilities"]["add"].as_array().unwrap().iter();
    given
        .map(|name| format!("CAP_{}", name.as_str().unwrap()))
        .collect()
}

/// With the manifest's configuration.
fn needed_by(daemon: &Value) -> BTreeSet<String> {
    let config = &of_kind("ConfigMap")["data"]["config.conf"];
    let words = ["causeway-proxy".to_owned()].into_iter();
    let flags = Flags::read(words.chain(arguments(daemon))).unwrap();
    let loaded = load(config.as_str(), &flags, NODE_NAME).unwrap();
    let needed = needed(&loaded.settings);
    needed.iter().map(ToString::to_string).collect()
}

/// Reading only, and only what the daemon watches.
#[test]
fn the_role_reads_what_the_daemon_watches_and_writes_nothing() {
    let role = of_kind("ClusterRole");
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["verbs"], json!(["list", "watch"]));
        for resource in rule["resources"].as_array().unwrap() {
            allowed.insert(format!(
                "{}/{}",
                rule["apiGroups"][0].as_str().unwrap(),
                resource.as_str().unwrap()
            ));
        }
    }
    let watched = [
        "/nodes",
        "/services",
        "discovery.k8s.io/endpointslices",
        "networking.k8s.io/servicecidrs",
    ];
    assert_eq!(allowed, watched.map(str::to_owned).into());
}

/// The daemon reads the configuration that the manifest brings without a complaint.
#[test]
fn the_config_map_is_a_configuration_without_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let data = &of_kind("ConfigMap")["data"];
    let config = folder.path().join("config.conf");
    std::fs::write(&config, data["config.conf"].as_str().unwrap()).unwrap();
    let written = folder.path().join("written");
    let done = Command::new(causeway_tests::binary("causeway-proxy"))
        .args(["--config", config.to_str().unwrap()])
        .args(["--write-config-to", written.to_str().unwrap()])
        .args(["--hostname-override", "node-1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(!said.contains("WARN"), "{said}");
    assert!(
        std::fs::read_to_string(written)
            .unwrap()
            .contains("10.244.0.0/16")
    );
}

/// The image holds everything that its programs load, and no shell.
#[test]
fn the_image_runs_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("image");
    let done = Command::new(repository().join("deploy/rootfs"))
        .arg(causeway_tests::binary("causeway-proxy"))
        .arg(&root)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    for program in [
        "/usr/local/bin/causeway-proxy",
        "/usr/local/bin/kube-proxy",
        "/usr/sbin/iptables-nft-restore",
        "/usr/sbin/ip6tables-legacy-save",
    ] {
        let version = inside(&root, &[program, "--version"]);
        assert!(
            version.contains('v') || version.contains('.'),
            "{program}: {version}"
        );
    }
    // An extension is loaded by name: here it is asked for its help, which no kernel is needed for.
    let help = inside(
        &root,
        &["/usr/sbin/iptables-nft", "-m", "statistic", "--help"],
    );
    assert!(help.contains("--probability"), "{help}");
    assert!(!root.join("bin").exists() && !root.join("usr/bin").exists());
}

/// Runs a program with the image as its root.
fn inside(root: &Path, command: &[&str]) -> String {
    let done = Command::new("/usr/sbin/chroot")
        .arg(root)
        .args(command)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said} {complaints}");
    said
}
