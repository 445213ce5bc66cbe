//! Labs in mode ebpf: each node has a cgroup and a folder on a bpffs, and nothing of that is left.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

#[path = "lab/bed.rs"]
#[expect(dead_code, reason = "tests/lab.rs uses the rest")]
mod bed;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bed::{Bed, PROGRAM, pod, redis};
use netns_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::json;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn up(bed: &Bed) -> Lab {
    let mut options = bed.options("lab");
    options.settings.mode = "ebpf".to_owned();
    Lab::up(&options).unwrap()
}

/// The lab's own cgroup, which exists.
fn cgroup(lab: &Lab) -> PathBuf {
    let cgroup = lab.state().unwrap().cgroup.unwrap();
    assert!(cgroup.is_dir(), "{}", cgroup.display());
    cgroup
}

/// The cgroup of whoever runs `cat /proc/self/cgroup`, by the end of its path.
fn ends_in(stdout: &[u8], end: &str) -> bool {
    let text = String::from_utf8_lossy(stdout);
    let own = text.lines().find(|line| line.starts_with("0::"));
    own.unwrap().ends_with(end)
}

#[test]
fn processes_are_in_the_cgroup_of_their_node_and_reach_services() {
    let bed = Bed::new();
    let lab = up(&bed);
    let cgroup = cgroup(&lab);
    lab.apply(&redis("redis-1")).unwrap();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis-service"},
        "spec": {"selector": {"app": "redis"}, "ports": [{"port": 6379}]},
    });
    lab.apply(&service).unwrap();
    lab.apply(&pod("frontend", &["sleep", "1000"])).unwrap();
    lab.wait_ready("redis-1", LIMIT).unwrap();
    lab.wait_ready("frontend", LIMIT).unwrap();
    let ping = ["redis-cli", "-h", "redis-service", "ping"];
    bed.eventually(|| lab.exec("frontend", &ping).unwrap().stdout == b"PONG\n");

    let state = lab.state().unwrap();
    let own = ["cat", "/proc/self/cgroup"];
    let name = cgroup.file_name().unwrap().to_str().unwrap();
    let node = &state.sandbox("frontend").unwrap().node;
    let of_pod = lab.exec("frontend", &own).unwrap().stdout;
    assert!(ends_in(&of_pod, &format!("/{name}/{node}")), "{of_pod:?}");
    let of_node = lab.node_exec("control", &own).unwrap().stdout;
    assert!(ends_in(&of_node, &format!("/{name}/control")));
    let outside = lab.client_exec(&own).unwrap().stdout;
    assert!(!String::from_utf8_lossy(&outside).contains(name));
    for proxy in &state.proxies {
        let members = fs::read_to_string(cgroup.join(&proxy.node).join("cgroup.procs")).unwrap();
        let pid = proxy.process.unwrap().pid.to_string();
        assert!(members.lines().any(|member| member == pid), "{members}");
        let pins = lab.folder().pins(&proxy.node);
        assert!(pins.join("links").is_dir(), "{}", pins.display());
    }
    lab.down().unwrap();
    assert!(!cgroup.exists());
    bed.nothing_left();
}

#[test]
fn status_says_where_cgroups_and_maps_are() {
    let bed = Bed::new();
    let lab = up(&bed);
    let mut status = Command::new(PROGRAM);
    let status = status.arg("status").arg("--run-dir").arg(bed.run_dir());
    let text = String::from_utf8(status.output().unwrap().stdout).unwrap();
    let cgroup = cgroup(&lab);
    let places = [cgroup.to_str().unwrap(), "/lab/bpf", "mode ebpf"];
    for place in places {
        assert!(text.contains(place), "{place} in:\n{text}");
    }
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn a_killed_daemon_leaves_nothing_that_down_would_not_take() {
    let bed = Bed::new();
    let lab = up(&bed);
    let cgroup = cgroup(&lab);
    // Whoever is in a node's cgroup is the lab's, wherever its network is.
    let mut strayed = Command::new("sleep").arg("1000").spawn().unwrap();
    let members = cgroup.join("worker-1/cgroup.procs");
    fs::write(members, strayed.id().to_string()).unwrap();
    lab.state().unwrap().daemon.signal(Signal::SIGKILL).unwrap();
    let mut down = Command::new(PROGRAM);
    let down = down.arg("down").arg("--run-dir").arg(bed.run_dir());
    let output = down.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!strayed.wait().unwrap().success());
    assert!(!cgroup.exists());
    drop(lab);
    bed.nothing_left();
}
