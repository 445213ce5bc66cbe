//! What an operator runs: install, uninstall, state, and the manual.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nodekit::netns::Entry;
use serde_json::{Value, json};

use crate::node::{Node, PLUGIN, Pod};

fn run(arguments: &[&str]) -> Output {
    let mut process = Command::new(PLUGIN);
    process.args(arguments).env_remove("CNI_COMMAND");
    process.output().unwrap()
}

/// What a success printed.
fn said(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Why something was refused.
fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

struct Host {
    folder: tempfile::TempDir,
    bin: PathBuf,
    conf: PathBuf,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (bin, conf) = (
            folder.path().join("opt/cni/bin"),
            folder.path().join("net.d"),
        );
        Self { folder, bin, conf }
    }

    fn install<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let folders = ["install", "--bin-dir", self.bin.to_str().unwrap()];
        folders.into_iter().chain(more.iter().copied()).collect()
    }

    fn conf(&self) -> &str {
        self.conf.to_str().unwrap()
    }

    fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        for folder in [&self.bin, &self.conf] {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                files.insert(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        files
    }
}

const CIDRS: &str = "10.244.3.0/24,fd00:10:244:3::/64";

#[test]
fn a_node_is_set_up() {
    let host = Host::new();
    let all = [
        "--links",
        "--conf-dir",
        host.conf(),
        "--pod-cidr",
        CIDRS,
        "--mtu=1400",
    ];
    let text = said(&host.install(&all));
    assert!(text.contains("bin/causeway-cni\n") && text.contains("10-causeway.conflist\n"));
    let files = host.files();
    for name in [
        "causeway-cni",
        "bridge",
        "host-local",
        "loopback",
        "static",
        "ptp",
    ] {
        assert!(files.contains(name), "{name} {files:?}");
    }
    assert!(files.iter().all(|name| !name.starts_with('.')), "{files:?}");
    let bridge = host.bin.join("bridge");
    assert_eq!(fs::read_link(&bridge).unwrap(), Path::new("causeway-cni"));
    assert_eq!(fs::read(&bridge).unwrap(), fs::read(PLUGIN).unwrap());
    let program = fs::metadata(host.bin.join("causeway-cni")).unwrap();
    assert_eq!(program.permissions().mode() & 0o777, 0o755);

    // The network works as it stands.
    let list = fs::read(host.conf.join("10-causeway.conflist")).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["cniVersion"], "1.0.0");
    assert_eq!(list["cniVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
    let plugin = &list["plugins"][0];
    assert_eq!(plugin["capabilities"]["portMappings"], true);
    let mut node = Node::new();
    node.program = host.bin.join("causeway-cni");
    let mut config = plugin.clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = "1.1.0".into();
    config["ipam"]["dataDir"] = node.folder.path().to_str().unwrap().into();
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:3::2/64");
    assert_eq!(pod.link("eth0").unwrap().mtu, 1400);
    node.call("DEL", &pod, &config).result();
}

#[test]
fn only_what_was_installed_is_removed() {
    let host = Host::new();
    let all = ["--links", "--conf-dir", host.conf(), "--pod-cidr", CIDRS];
    // Twice is no error.
    assert_eq!(
        said(&host.install(&all)).lines().last(),
        said(&host.install(&all)).lines().last()
    );
    fs::write(host.bin.join("macvlan"), "theirs").unwrap();
    fs::remove_file(host.bin.join("ptp")).unwrap();
    fs::write(host.bin.join("ptp"), "theirs").unwrap();
    fs::write(host.conf.join("87-podman.conflist"), "{}").unwrap();
    let bin = host.bin.to_str().unwrap();
    let uninstall = ["uninstall", "--bin-dir", bin, "--conf-dir", host.conf()];
    assert!(said(&uninstall).contains("removed"));
    let left: Vec<_> = host.files().into_iter().collect();
    assert_eq!(left, ["87-podman.conflist", "macvlan", "ptp"]);
    assert_eq!(said(&uninstall), "");
    let nowhere = "/none-such";
    let arguments = ["uninstall", "--bin-dir", nowhere, "--conf-dir", nowhere];
    assert_eq!(said(&arguments), "");
}

#[test]
fn another_programs_place_is_taken_by_force_only() {
    let host = Host::new();
    fs::create_dir_all(&host.bin).unwrap();
    fs::write(host.bin.join("bridge"), "theirs").unwrap();
    symlink("/usr/lib/cni/portmap", host.bin.join("loopback")).unwrap();
    let why = refusal(&host.install(&["--links"]));
    assert!(
        why.contains("bin/bridge, ") && why.contains("bin/loopback;"),
        "{why}"
    );
    let before: Vec<_> = host.files().into_iter().collect();
    assert_eq!(before, ["bridge", "loopback"], "nothing was made");
    said(&host.install(&["--links", "--force"]));
    assert_eq!(
        fs::read_link(host.bin.join("loopback")).unwrap(),
        Path::new("causeway-cni")
    );

    fs::remove_file(host.bin.join("static")).unwrap();
    fs::create_dir(host.bin.join("static")).unwrap();
    assert!(refusal(&host.install(&["--links", "--force"])).contains("bin/static"));
    fs::remove_file(host.bin.join("causeway-cni")).unwrap();
    fs::create_dir(host.bin.join("causeway-cni")).unwrap();
    assert!(refusal(&host.install(&[])).contains("no plain file"));
}

#[test]
fn a_running_plugin_is_replaced() {
    let host = Host::new();
    said(&host.install(&[]));
    let program = host.bin.join("causeway-cni");
    let mut running = Command::new(&program)
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let old = fs::metadata(&program).unwrap();
    said(&host.install(&[]));
    // And by itself, from where it is.
    let again = Command::new(&program)
        .args(host.install(&[]))
        .output()
        .unwrap();
    assert!(again.status.success(), "{again:?}");
    let new = fs::metadata(&program).unwrap();
    assert_ne!(
        std::os::unix::fs::MetadataExt::ino(&old),
        std::os::unix::fs::MetadataExt::ino(&new)
    );
    running.stdin.take().unwrap().write_all(b"{}").unwrap();
    let output = running.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stdout.starts_with(b"{"),
        "{output:?}"
    );
}

#[test]
fn a_full_disk_leaves_the_old_plugin() {
    let host = Host::new();
    said(&host.install(&[]));
    // A file where a folder should be is as good as a disk that refuses.
    let file = host.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let conf = file.join("net.d");
    let arguments = [
        "--conf-dir",
        conf.to_str().unwrap(),
        "--pod-cidr",
        "10.0.0.0/24",
    ];
    assert!(refusal(&host.install(&arguments)).contains("cannot make the folder"));
    assert_eq!(
        host.files().into_iter().collect::<Vec<_>>(),
        ["causeway-cni"]
    );
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_made() {
    let host = Host::new();
    let with =
        |more: &[&str]| refusal(&host.install(&[&["--conf-dir", host.conf()], more].concat()));
    for (arguments, words) in [
        (&[][..], "--pod-cidr: missing"),
        (&["--pod-cidr", "10.0.0.0"], "--pod-cidr: \"10.0.0.0\""),
        (
            &["--pod-cidr", "10.0.0.1/24"],
            "10.0.0.1/24 has host bits set",
        ),
        (&["--pod-cidr", "10.0.0.0/31"], "too small"),
        (
            &["--pod-cidr", "10.0.0.0/24,10.0.1.0/24"],
            "one subnet of each family",
        ),
        (&["--pod-cidr", "10.0.0.0/24", "--name", "../x"], "--name"),
        (&["--pod-cidr", "10.0.0.0/24", "--bridge", "a/b"], "bridge"),
        (&["--pod-cidr", "10.0.0.0/24", "--mtu", "9"], "mtu: 9"),
        (
            &["--pod-cidr", "10.0.0.0/24", "--mtu", "big"],
            "--mtu: \"big\"",
        ),
    ] {
        let why = with(arguments);
        assert!(why.contains(words), "{arguments:?}: {why}");
        assert_eq!(host.files(), BTreeSet::new(), "{arguments:?}");
    }
    assert!(refusal(&host.install(&["--mtu", "1400"])).contains("--mtu needs --conf-dir"));
    assert!(refusal(&["install"]).contains("--bin-dir: missing"));
    assert_eq!(run(&["instal"]).status.code(), Some(2));
    assert_eq!(run(&["state", "--all"]).status.code(), Some(2));
}

#[test]
fn state_lists_pods_with_what_they_have() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}));
    let pods = ["a", "b"].map(Pod::new);
    for (pod, port) in pods.iter().zip([8080, 8081]) {
        let mut config = config.clone();
        config["runtimeConfig"] = json!({"portMappings": [
            {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
        ]});
        node.call("ADD", pod, &config).result();
    }
    // A reservation whose pod is gone, and a file that is none.
    let folder = node.folder.path().join("net");
    fs::write(folder.join("10.1.0.9"), "gone\r\neth0").unwrap();
    fs::write(folder.join("10.1.0.10"), b"\xff").unwrap();
    let state = |more: &[&str]| {
        let mut process = Command::new(PLUGIN);
        process
            .args(["state", "--data-dir"])
            .arg(node.folder.path())
            .args(more);
        Entry::default().prepare(&mut process, &node.netns).unwrap();
        process.output().unwrap()
    };
    let output = state(&["--json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("10.1.0.10 is no reservation"));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!(list[0]["containerID"], "a");
    assert_eq!(list[0]["addresses"], json!(["10.1.0.2", "fd01::2"]));
    assert!(
        node.ports()
            .contains(&list[0]["interface"].as_str().unwrap().to_owned())
    );
    assert_eq!(list[2]["interface"], Value::Null);
    assert_eq!(
        list[1]["ports"][0],
        json!({
            "hostIP": null, "hostPort": 8081, "protocol": "tcp", "address": "10.1.0.3",
            "containerPort": 80,
        })
    );
    assert_eq!(list[1]["ports"].as_array().unwrap().len(), 2);

    let text = String::from_utf8(state(&[]).stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].starts_with("NETWORK ")
            && lines[1].contains("10.1.0.2,fd01::2")
            && lines[1].ends_with("8080/tcp->10.1.0.2:80,8080/tcp->[fd01::2]:80"),
        "{text}"
    );
    assert_eq!(
        said(&["state", "--data-dir", "/none-such", "--json"]),
        "[]\n"
    );
}

#[test]
fn the_manual_is_one() {
    assert!(said(&["--help"]).contains("causeway-cni install"));
    assert!(said(&["install", "--help"]).contains("--bin-dir"));
    assert!(said(&["--version"]).starts_with("causeway-cni "));
    assert!(said(&["options"]).contains("| `bridge` | cni0 |"));
    // Without arguments and without a runtime: what the reference does.
    let output = run(&[]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("CNI protocol versions supported")
    );

    let page = node_file(&said(&["man"]));
    let mut groff = Command::new("groff");
    groff
        .args(["-man", "-Tascii", "-ww", "-P-cbou"])
        .arg(page.path());
    let output = groff.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "--bin-dir DIR",
        "SUBCOMMANDS",
        "runtimeConfig.ipRanges",
        "EXIT STATUS",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

fn node_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}
