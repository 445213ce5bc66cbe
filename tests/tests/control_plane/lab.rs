//! A whole lab on a real control plane.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use causeway_tests::binary;
use causeway_tests::proxy_bed::wait_until;
use netns_lab::apiserver::Resource;
use netns_lab::process::ProcessId;
use netns_lab::{Lab, Options, Plugins, Settings, teardown};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::site::{PATIENCE, assets};

fn up(run_dir: &Path) -> Lab {
    Lab::up(&Options {
        name: "lab".to_owned(),
        run_dir: run_dir.to_owned(),
        settings: Settings {
            workers: 2,
            mode: "nftables".to_owned(),
            plugins: Plugins::Causeway(binary("causeway-cni")),
            proxy: Some(binary("causeway-proxy")),
            control_plane: Some(assets()),
        },
        program: binary("netns-lab"),
        tied: true,
    })
    .unwrap()
}

fn pod(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "none", "command": command}],
        },
    })
}

/// The command lines that name a folder.
fn processes_naming(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let own = folder.display().to_string();
    lines.filter(|line| line.contains(&own)).collect()
}

pub(crate) fn a_lab_works_on_it_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let lab = up(&run_dir);
    let serve = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=80)";
    let mut web = pod("web", &["/usr/bin/python3", "-c", serve]);
    web["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 80}});
    lab.apply(&web).unwrap();
    lab.apply(&pod("visitor", &["sleep", "1000"])).unwrap();
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))
    .unwrap();
    for pod in ["web", "visitor"] {
        lab.wait_ready(pod, PATIENCE).unwrap();
    }
    let fetch = "import urllib.request as u; print(u.urlopen('http://web', timeout=2).status)";
    let fetch = ["/usr/bin/python3", "-c", fetch];
    wait_until("answer by the Service's name", PATIENCE, || {
        lab.exec("visitor", &fetch).unwrap().stdout == b"200\n"
    })
    .unwrap();

    let kubectl = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(lab.kubeconfig())
        .args([
            "get",
            "nodes,pods,services,clusterroles",
            "-A",
            "-o",
            "name",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&kubectl.stdout).into_owned();
    for name in [
        "node/worker-2",
        "pod/visitor",
        "service/kubernetes",
        "/causeway-proxy",
    ] {
        assert!(said.contains(name), "{name}: {said} {kubectl:?}");
    }

    lab.delete_pod("default", "web", PATIENCE).unwrap();
    let ready = || {
        let slices = lab.client().list(Resource::EndpointSlice).unwrap();
        let own = slices
            .iter()
            .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        own.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .count()
    };
    wait_until("end of its endpoint", PATIENCE, || ready() == 0).unwrap();
    lab.down().unwrap();
    assert!(!run_dir.exists());
    assert_eq!(processes_naming(folder.path()), [""; 0]);
}

pub(crate) fn a_daemon_that_is_killed_takes_it_along() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let lab = up(&run_dir);
    let kept = lab.folder().clone();
    let daemon: ProcessId = lab.state().unwrap().daemon;
    let servers = || {
        let all = processes_naming(folder.path());
        let all = all.iter();
        all.filter(|line| line.contains("--etcd-servers=") || line.contains("--data-dir="))
            .count()
    };
    assert_eq!(servers(), 2);
    assert!(daemon.signal(Signal::SIGKILL).unwrap());
    let limit = Duration::from_secs(20);
    wait_until("end of the control plane", limit, || servers() == 0).unwrap();
    teardown::take_down(&kept).unwrap();
    assert!(!run_dir.exists());
    drop(lab);
    assert_eq!(processes_naming(folder.path()), [""; 0]);
}
