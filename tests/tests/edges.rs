//! Who may depend on whom. Architecture where the build reads it: an edge that is not listed here
//! fails, and so does a listed one that nobody uses any more.
#![expect(clippy::expect_used, reason = "what can't be done fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Every normal dependency that a package of this workspace may have.
///
/// The pure crates list all of theirs; those that do I/O list the workspace's own and those that
/// give them their character (`lb-model` can't start to speak netlink, `nodekit` can't learn of
/// Kubernetes).
const PURE: &[(&str, &[&str])] = &[
    ("lb-model", &["ipnetwork"]),
    (
        "lb-plan",
        &["causeway-ebpf-abi", "ipnetwork", "lb-model", "sha2"],
    ),
    ("causeway-ebpf-abi", &[]),
    ("causeway-ebpf-core", &["causeway-ebpf-abi"]),
    ("cni-types", &["serde", "serde_json"]),
];

/// Edges between packages of this workspace, for all of them.
const OWN: &[(&str, &[&str])] = &[
    ("lb-model", &[]),
    ("causeway-ebpf-abi", &[]),
    ("causeway-ebpf-core", &["causeway-ebpf-abi"]),
    ("lb-plan", &["causeway-ebpf-abi", "lb-model"]),
    ("cni-types", &[]),
    ("nodekit", &[]),
    ("causeway-cni", &["cni-types", "nodekit"]),
    (
        "causeway-proxy",
        &["causeway-ebpf-abi", "lb-model", "lb-plan", "nodekit"],
    ),
    ("netns-lab", &["nodekit"]),
    ("causeway-cri-tests", &["nodekit"]),
    ("causeway-vm", &["nodekit"]),
];

/// What must stay out of a package's normal dependencies, and why that would be wrong.
const NEVER: &[(&str, &[&str])] = &[
    // It knows no Kubernetes and runs without an async runtime.
    ("nodekit", &["kube", "k8s-openapi", "tokio", "serde_json"]),
    // It starts in a millisecond, once per pod.
    ("causeway-cni", &["tokio", "clap", "kube", "hyper"]),
    // The lab runs the two binaries as processes; it never links them.
    (
        "netns-lab",
        &["kube", "k8s-openapi", "lb-model", "lb-plan", "cni-types"],
    ),
];

/// Normal dependencies by package, out of `cargo metadata`.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let normal = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().expect("name").to_owned())
                .collect();
            (package["name"].as_str().expect("name").to_owned(), normal)
        })
        .collect()
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io() {
    let found = dependencies();
    for (package, allowed) in PURE {
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(found[*package], allowed, "normal dependencies of {package}");
    }
}

#[test]
fn own_edges_are_the_listed_ones() {
    let found = dependencies();
    let own: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    for (package, allowed) in OWN {
        let edges: BTreeSet<&str> = found[*package]
            .iter()
            .map(String::as_str)
            .filter(|name| own.contains(name))
            .collect();
        assert_eq!(
            edges,
            allowed.iter().copied().collect(),
            "edges of {package}"
        );
    }
    let listed: BTreeSet<&str> = OWN.iter().map(|(package, _)| *package).collect();
    let unlisted: Vec<&&str> = own
        .difference(&listed)
        .filter(|name| **name != "causeway-tests")
        .collect();
    assert!(
        unlisted.is_empty(),
        "packages without a line in OWN: {unlisted:?}"
    );
}

#[test]
fn characters_are_kept() {
    let found = dependencies();
    for (package, never) in NEVER {
        for name in *never {
            assert!(
                !found[*package].contains(*name),
                "{package} must not depend on {name}"
            );
        }
    }
}
