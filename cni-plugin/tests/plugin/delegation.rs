//! Addresses from another IPAM plugin, by the specification's delegation, and from `static`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::node::{Node, Pod};

/// A folder of plugins, and what they were asked.
struct Plugins {
    node: Node,
    folder: PathBuf,
}

impl Plugins {
    fn new() -> Self {
        let node = Node::new();
        let folder = node.folder.path().join("bin");
        fs::create_dir(&folder).unwrap();
        Self { node, folder }
    }

    /// A plugin that notes each call and then does what `script` says.
    fn add(&self, name: &str, script: &str) {
        let path = self.folder.join(name);
        let log = self.log();
        let log = log.display();
        let text = format!(
            "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" >>{log}\n{script}\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.node.folder.path().join("calls")
    }

    /// What the plugins were asked so far.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn config(&self, ipam: &Value, more: &Value) -> Value {
        let mut config = self.node.config(&[], more);
        config["ipam"] = ipam.clone();
        config
    }

    fn call(&self, command: &str, pod: &Pod, config: &Value) -> crate::node::Answer {
        let path = format!("/none:{}", self.folder.display());
        let more = [
            ("CNI_PATH", path.as_str()),
            ("CNI_ARGS", "IgnoreUnknown=1;A=b"),
        ];
        let input = config.to_string();
        self.node
            .call_with(command, &pod.id, &pod.path(), &input, &more)
    }
}

const GIVES: &str = r#"[ "$CNI_COMMAND" != ADD ] || cat <<END
{"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.9/24", "gateway": "10.1.0.1"},
 "dns": {"nameservers": ["10.96.0.10"]}}
END"#;

#[test]
fn a_plugin_is_asked_for_everything_as_it_stands() {
    let plugins = Plugins::new();
    let input = plugins.node.folder.path().join("input");
    plugins.add("theirs", &format!("cat >{}\n{GIVES}", input.display()));
    let mut config = plugins.config(
        &json!({"type": "theirs", "pool": [1, {"a": 1.5}]}),
        &json!({
            "cniVersion": "1.1.0",
        }),
    );
    let pod = Pod::new("a");
    let result = plugins.call("ADD", &pod, &config).result();
    assert_eq!(result["ips"][0]["address"], "10.1.0.9/24");
    assert_eq!(result["ips"][0]["interface"], 2);
    assert_eq!(result["routes"][0]["gw"], "10.1.0.1");
    assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
    let seen: Value = serde_json::from_slice(&fs::read(&input).unwrap()).unwrap();
    assert_eq!(seen, config, "the whole configuration");

    config["prevResult"] = result;
    plugins.call("CHECK", &pod, &config).result();
    plugins.call("STATUS", &pod, &config).result();
    plugins.call("DEL", &pod, &config).result();
    config["cni.dev/valid-attachments"] = json!([]);
    plugins.call("GC", &pod, &config).result();
    let arguments = "a eth0 IgnoreUnknown=1;A=b";
    let calls = ["ADD", "CHECK", "STATUS", "DEL", "GC"].map(|call| format!("{call} {arguments}"));
    assert_eq!(plugins.calls(), calls);
    plugins.node.assert_empty();
}

#[test]
fn failures_are_passed_on_and_undone() {
    let error =
        |code, msg| format!(r#"echo '{{"code": {code}, "msg": "{msg}", "details": "d"}}'; exit 1"#);
    let endless = "if [ $CNI_COMMAND = ADD ]; then exec yes; fi";
    for (script, code, words) in [
        (error(11, "busy"), 11, "busy d"),
        (error(142, "own"), 142, "own"),
        ("echo broken; exit 3".to_owned(), 5, "exit status: 3"),
        ("kill -9 $$".to_owned(), 5, "signal: 9"),
        ("echo broken".to_owned(), 6, "no JSON"),
        ("echo '{\"cniVersion\": \"7.0.0\"}'".to_owned(), 1, "7.0.0"),
        (
            "echo '{\"ips\": [{\"address\": \"x\"}]}'".to_owned(),
            7,
            "result.ips[0].address",
        ),
        ("echo '{}'".to_owned(), 7, "gave no address"),
        (endless.to_owned(), 5, "printed more than 1048576 bytes"),
    ] {
        let plugins = Plugins::new();
        plugins.add("theirs", &script);
        // More than a pipe holds: a plugin need not read it.
        let config = plugins.config(
            &json!({"type": "theirs", "x": "x".repeat(200_000)}),
            &json!({}),
        );
        let pod = Pod::new("a");
        let (found, text) = plugins.call("ADD", &pod, &config).error();
        assert_eq!(found, code, "{script}: {text}");
        assert!(text.contains(words), "{script}: {text}");
        let calls: Vec<_> = plugins
            .calls()
            .iter()
            .map(|call| call[..3].to_owned())
            .collect();
        assert_eq!(calls, ["ADD", "DEL"], "{script}");
        plugins.node.assert_empty();
        assert!(pod.link("eth0").is_none());
    }
}

#[test]
fn a_later_steps_failure_gives_the_address_back() {
    let plugins = Plugins::new();
    plugins.add("theirs", GIVES);
    // A bridge cannot be made where another link is.
    let config = plugins.config(&json!({"type": "theirs"}), &json!({"bridge": "lo"}));
    assert_eq!(plugins.call("ADD", &Pod::new("a"), &config).error().0, 101);
    assert_eq!(plugins.calls().len(), 2);
    assert!(plugins.calls()[1].starts_with("DEL a eth0"));
}

#[test]
fn del_says_what_the_plugin_says_and_takes_the_rest() {
    let plugins = Plugins::new();
    plugins.add("theirs", GIVES);
    let config = plugins.config(&json!({"type": "theirs"}), &json!({}));
    let pod = Pod::new("a");
    plugins.call("ADD", &pod, &config).result();
    plugins.add("theirs", r#"echo '{"code": 11, "msg": "busy"}'; exit 1"#);
    assert_eq!(plugins.call("DEL", &pod, &config).error().0, 11);
    assert!(plugins.node.ports().is_empty() && pod.link("eth0").is_none());
    fs::remove_file(plugins.folder.join("theirs")).unwrap();
    let (code, text) = plugins.call("DEL", &pod, &config).error();
    assert!(
        code == 2 && text.contains(plugins.folder.to_str().unwrap()),
        "{code} {text}"
    );
}

#[test]
fn own_types_execute_nothing() {
    let plugins = Plugins::new();
    for name in ["host-local", "static"] {
        plugins.add(name, "exit 1");
    }
    let node = &plugins.node;
    let config = node.config(&["10.1.0.0/24"], &json!({}));
    let fixed = plugins.config(
        &json!({"type": "static", "addresses": [{"address": "10.1.0.77/24", "gateway": "10.1.0.1"}]}),
        &json!({}),
    );
    for (config, id) in [(&config, "a"), (&fixed, "b")] {
        let pod = Pod::new(id);
        let result = plugins.call("ADD", &pod, config).result();
        let mut check = config.clone();
        check["prevResult"] = result;
        plugins.call("CHECK", &pod, &check).result();
        plugins.call("DEL", &pod, config).result();
        // Nor do they need a folder of plugins.
        let nowhere = [("CNI_PATH", "")];
        let input = config.to_string();
        node.call_with("ADD", id, &pod.path(), &input, &nowhere)
            .result();
        node.call_with("DEL", id, &pod.path(), &input, &nowhere)
            .result();
    }
    assert_eq!(plugins.calls(), Vec::<String>::new());
    node.assert_empty();
}

#[test]
fn the_references_host_local_by_another_name() {
    let plugins = Plugins::new();
    let theirs = plugins.folder.join("theirs");
    fs::copy("/usr/lib/cni/host-local", &theirs).unwrap();
    let mut config = plugins
        .node
        .config(&["10.1.0.0/30", "fd01::/64"], &json!({}));
    config["ipam"]["type"] = "theirs".into();
    let first = Pod::new("a");
    let call = |command, pod: &Pod| {
        let path = plugins.folder.to_str().unwrap();
        let more = [("CNI_PATH", path)];
        plugins
            .node
            .call_with(command, &pod.id, &pod.path(), &config.to_string(), &more)
    };
    let result = call("ADD", &first).result();
    assert_eq!(result["ips"][1]["address"], "fd01::2/64");
    // Full: the reference takes back what it gave of the other family only by its DEL.
    let (_, text) = call("ADD", &Pod::new("b")).error();
    assert!(text.contains("no IP addresses available"), "{text}");
    assert_eq!(plugins.node.reserved().len(), 2);
    call("DEL", &first).result();
    plugins.node.assert_empty();
}

#[test]
fn static_is_a_plugin_of_its_own() {
    let mut ours = Node::new();
    let link = ours.folder.path().join("static");
    std::os::unix::fs::symlink(&ours.program, &link).unwrap();
    ours.program = link;
    let mut reference = Node::new();
    reference.program = Path::new("/usr/lib/cni/static").to_owned();
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge",
        "ipam": {
            "type": "static", "addresses": [
                {"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd01::5/64"},
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.1.0.77"}],
            "dns": {"nameservers": ["10.96.0.10"], "search": ["svc"]},
        },
    });
    let mut asked = config.clone();
    asked["runtimeConfig"] = json!({"ips": ["10.1.0.6/24"]});
    let mut by_args = config.clone();
    by_args["args"] = json!({"cni": {"ips": ["10.1.0.7/24"]}});
    let arguments = "IP=10.1.0.8/24;GATEWAY=10.1.0.2";
    for (config, arguments) in [
        (&config, ""),
        (&asked, ""),
        (&by_args, ""),
        (&config, arguments),
    ] {
        let pod = Pod::new("a");
        let results = [&ours, &reference].map(|node| {
            let more = [("CNI_ARGS", arguments)];
            let input = config.to_string();
            let result = node
                .call_with("ADD", "a", &pod.path(), &input, &more)
                .result();
            let mut check = config.clone();
            check["prevResult"] = result.clone();
            let check = check.to_string();
            node.call_with("CHECK", "a", &pod.path(), &check, &more)
                .result();
            node.call_with("DEL", "a", &pod.path(), &input, &more)
                .result();
            result
        });
        assert_eq!(results[0], results[1]);
    }
    let mut changed = config;
    changed["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24"}]});
    assert_eq!(ours.call("CHECK", &Pod::new("a"), &changed).error().0, 102);
}
