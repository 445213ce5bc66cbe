//! A run folder of a test's own, and what tests say often.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netns_lab::apiserver::Resource;
use netns_lab::{Lab, Options, Plugins, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The command itself; the plugin and the proxy are beside it.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_netns-lab");

/// A run folder that must be empty of everything in the end.
pub(crate) struct Bed {
    folder: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn options(&self, name: &str) -> Options {
        let program = PathBuf::from(PROGRAM);
        Options {
            name: name.to_owned(),
            run_dir: self.run_dir(),
            settings: Settings {
                workers: 2,
                mode: "nftables".to_owned(),
                plugins: Plugins::Causeway(program.with_file_name("causeway-cni")),
                proxy: Some(program.with_file_name("causeway-proxy")),
                control_plane: None,
            },
            program,
            tied: true,
        }
    }

    pub(crate) fn up(&self, name: &str) -> Lab {
        Lab::up(&self.options(name)).unwrap()
    }

    pub(crate) fn eventually(&self, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "it never came true"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// No folder, no mount, no process of any lab of this bed.
    pub(crate) fn nothing_left(&self) {
        assert!(
            !self.run_dir().exists(),
            "{:?}",
            files_below(&self.run_dir())
        );
        let own = self.folder.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(own), "{mounts}");
        // A daemon that was about to begin finds its folder gone and ends by itself.
        self.eventually(|| processes_naming(own).is_empty());
        assert!(!self.run_dir().exists(), "it began all the same");
    }
}

/// The command lines that name a folder, as every daemon, proxy and pod of a bed does.
fn processes_naming(folder: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(folder)).collect()
}

pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

pub(crate) fn pod(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none", "command": command}],
        },
    })
}

pub(crate) fn redis(name: &str) -> Value {
    let command = [
        "redis-server",
        "--bind",
        "*",
        "-::*",
        "--protected-mode",
        "no",
        "--save",
        "",
    ];
    let mut pod = pod(name, &command);
    pod["metadata"]["labels"] = json!({"app": "redis"});
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 6379}});
    pod
}

/// The addresses of a Service's ready endpoints.
pub(crate) fn ready_endpoints(lab: &Lab, service: &str) -> Vec<Value> {
    let slices = lab.client().list(Resource::EndpointSlice).unwrap();
    let own = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let endpoints = own.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready
        .map(|endpoint| endpoint["addresses"][0].clone())
        .collect()
}
