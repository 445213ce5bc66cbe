//! The story that must always work: a Python frontend pod reaches Redis through a Service, a Redis
//! pod dies, a proxy dies, and nobody notices. Real plugin, real proxies, real Redis.
#![expect(clippy::expect_used, reason = "what can't be done fails the test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_tests::binary;
use netns_lab::teardown::Traces;
use netns_lab::{Folder, Lab, Options, Plugins, Settings};
use serde_json::json;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PYTHON: &str = "/usr/bin/python3";

/// Connects to a Redis (address, port) so many times and prints who answered: its `run_id`.
const ASK: &str = r#"
import socket, sys
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as s:
        s.sendall(b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n")
        data = b""
        while b"run_id:" not in data or not data.split(b"run_id:")[1].count(b"\r\n"):
            data += s.recv(65536)
        print(data.split(b"run_id:")[1].split(b"\r\n")[0].decode())
"#;

fn lab(run_dir: &Path) -> Lab {
    let settings = Settings {
        workers: 2,
        mode: "nftables".into(),
        plugins: Plugins::Causeway(binary("causeway-cni")),
        proxy: Some(binary("causeway-proxy")),
        control_plane: None,
    };
    Lab::up(&Options {
        name: "story".into(),
        run_dir: run_dir.to_owned(),
        settings,
        program: binary("netns-lab"),
        tied: true,
    })
    .expect("the lab comes up")
}

fn pod(lab: &Lab, name: &str, labels: &serde_json::Value, command: &[&str]) {
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "debian", "command": command}]},
    }))
    .expect("the pod is created");
}

fn redis(lab: &Lab, name: &str) {
    let command = [
        "redis-server",
        "--save",
        "",
        "--protected-mode",
        "no",
        "--bind",
        "*",
    ];
    pod(lab, name, &json!({"app": "redis"}), &command);
}

fn service(lab: &Lab) -> serde_json::Value {
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "redis-service", "namespace": "default"},
        "spec": {"type": "NodePort", "selector": {"app": "redis"},
                 "ports": [{"port": 6379, "targetPort": 6379, "nodePort": 30679}]},
    }))
    .expect("the service is created")
}

/// Asks `count` times from the frontend pod; who answered.
fn ask(lab: &Lab, count: u32) -> Vec<String> {
    let count = count.to_string();
    let output = lab.exec(
        "frontend",
        &[PYTHON, "-c", ASK, "redis-service", "6379", &count],
    );
    let output = output.expect("python runs in the pod");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a request failed: {error}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Asks until exactly `pods` different ones answer over 40 requests without a failure in between.
fn until_answered_by(lab: &Lab, pods: usize) -> BTreeSet<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let words = [PYTHON, "-c", ASK, "redis-service", "6379", "40"];
        let output = lab
            .exec("frontend", &words)
            .expect("python runs in the pod");
        let answers = String::from_utf8_lossy(&output.stdout);
        let answered: BTreeSet<String> = answers.lines().map(str::to_owned).collect();
        if output.status.success() && answered.len() == pods {
            return answered;
        }
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            Instant::now() < deadline,
            "want {pods} pods, saw {answered:?}; {error}"
        );
    }
}

#[test]
fn a_frontend_reaches_redis_whatever_dies() {
    let run_dir = tempfile::tempdir().expect("a folder");
    let lab = lab(run_dir.path());
    let folder: Folder = lab.folder().clone();
    for name in ["redis-a", "redis-b", "redis-c"] {
        redis(&lab, name);
    }
    service(&lab);
    pod(
        &lab,
        "frontend",
        &json!({"app": "frontend"}),
        &["sleep", "infinity"],
    );
    for name in ["redis-a", "redis-b", "redis-c", "frontend"] {
        lab.wait_ready(name, PATIENCE).expect("the pod is ready");
    }

    // Name, ClusterIP, pod, answer: every pod gets its share.
    let first = until_answered_by(&lab, 3);
    assert_eq!(ask(&lab, 100).len(), 100);

    // From outside, by the node port of every node.
    for node in ["worker-1", "worker-2"] {
        let state = lab
            .client()
            .get(netns_lab::apiserver::Resource::Node, "", node);
        let node = state.expect("the API answers").expect("the node is there");
        let ip = node["status"]["addresses"][0]["address"]
            .as_str()
            .expect("an address")
            .to_owned();
        let words = [PYTHON, "-c", ASK, &ip, "30679", "5"];
        let output = lab.client_exec(&words).expect("python runs outside");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "node port of {ip}: {error}");
    }

    // A Redis pod dies: once its endpoint has left, nothing fails.
    lab.kill_pod_process("redis-a")
        .expect("the pod's process is killed");
    let second = until_answered_by(&lab, 2);
    assert!(second.is_subset(&first));
    assert_eq!(ask(&lab, 100).len(), 100);

    // Another one comes: it is used.
    redis(&lab, "redis-d");
    lab.wait_ready("redis-d", PATIENCE)
        .expect("the pod is ready");
    let third = until_answered_by(&lab, 3);
    assert_eq!(third.difference(&first).count(), 1);

    // The proxy of the frontend's node is killed: the rules stay, nothing fails.
    for node in ["worker-1", "worker-2"] {
        lab.kill_proxy(node).expect("the proxy is killed");
    }
    assert_eq!(ask(&lab, 100).len(), 100);
    // The next one adopts them and goes on.
    lab.delete_pod("default", "redis-d", PATIENCE)
        .expect("the pod goes");
    let fourth = until_answered_by(&lab, 2);
    assert_eq!(fourth, second);

    let traces = Traces::of(&folder);
    lab.down().expect("the lab goes down");
    assert_eq!(traces.remains().expect("looked"), Vec::<String>::new());
}
