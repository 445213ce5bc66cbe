//! Labs made whole, with the real plugin and the real proxy, and taken down from every state.
//! Needs root and the workspace's binaries beside the test. Each test has a run folder of its
//! own, so that all run at once.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

#[path = "lab/bed.rs"]
mod bed;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bed::{Bed, pod, redis};
use netns_lab::apiserver::Resource;
use netns_lab::process::ProcessId;
use netns_lab::{Plugins, teardown};
use serde_json::json;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn redis_lab() -> (Bed, netns_lab::Lab) {
    let bed = Bed::new();
    let lab = bed.up("lab");
    lab.apply(&redis("redis-1")).unwrap();
    lab.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis-service"},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "redis"},
            "ports": [{"port": 6379, "nodePort": 30379}],
        },
    }))
    .unwrap();
    lab.apply(&pod("frontend", &["sleep", "1000"])).unwrap();
    lab.wait_ready("redis-1", LIMIT).unwrap();
    lab.wait_ready("frontend", LIMIT).unwrap();
    (bed, lab)
}

#[test]
fn a_service_is_reached_by_name_by_node_and_from_outside() {
    let (bed, lab) = redis_lab();
    let ping = ["redis-cli", "-h", "redis-service", "ping"];
    bed.eventually(|| lab.exec("frontend", &ping).unwrap().stdout == b"PONG\n");
    let service = lab
        .client()
        .get(Resource::Service, "default", "redis-service")
        .unwrap()
        .unwrap();
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();
    for node in ["control", "worker-1", "worker-2"] {
        let ping = ["redis-cli", "-h", cluster_ip, "ping"];
        assert_eq!(
            lab.node_exec(node, &ping).unwrap().stdout,
            b"PONG\n",
            "from {node}"
        );
    }
    for node in lab.state().unwrap().topology.nodes {
        for address in [node.addresses.v4.to_string(), node.addresses.v6.to_string()] {
            let ping = ["redis-cli", "-h", &address, "-p", "30379", "ping"];
            let output = lab.client_exec(&ping).unwrap();
            // The Service is IPv4 only: there is no node port on IPv6 addresses.
            let expected = if address.contains(':') { "" } else { "PONG\n" };
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                expected,
                "{address}"
            );
        }
    }
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn a_pod_has_its_own_network_files_and_addresses() {
    let (bed, lab) = redis_lab();
    let say = |words: &[&str]| {
        let output = lab.exec("frontend", words).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let resolver = say(&["cat", "/etc/resolv.conf"]);
    assert!(resolver.contains("nameserver 10.96.0.10"), "{resolver}");
    assert!(
        resolver.contains("search default.svc.cluster.local"),
        "{resolver}"
    );
    assert!(say(&["cat", "/etc/hosts"]).contains("frontend"));
    assert_eq!(say(&["ls", "/sys/class/net"]), "eth0\nlo\n");
    let state = lab.state().unwrap();
    let sandbox = state.sandbox("frontend").unwrap();
    let addresses = say(&["ip", "-o", "address"]);
    for ip in &sandbox.ips {
        assert!(addresses.contains(&ip.to_string()), "{ip} in {addresses}");
    }
    assert_eq!(sandbox.ips.len(), 2, "one of each family");
    let other = state.sandbox("redis-1").unwrap();
    for ip in &other.ips {
        let ping = lab
            .exec("frontend", &["ping", "-c1", "-W2", &ip.to_string()])
            .unwrap();
        assert!(
            ping.status.success(),
            "from {} to {ip}: {ping:?}",
            sandbox.node
        );
    }
    assert_ne!(sandbox.node, other.node, "pods spread over the workers");
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn a_pod_that_ends_is_reported_and_leaves_its_service() {
    let (bed, lab) = redis_lab();
    let endpoints = || bed::ready_endpoints(&lab, "redis-service");
    bed.eventually(|| endpoints().len() == 1);
    lab.kill_pod_process("redis-1").unwrap();
    bed.eventually(|| endpoints().is_empty());
    let pod = lab
        .client()
        .get(Resource::Pod, "default", "redis-1")
        .unwrap()
        .unwrap();
    assert_eq!(pod["status"]["phase"], "Failed");
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&state["exitCode"], &state["reason"]),
        (&json!(137), &json!("Error"))
    );

    let container = lab
        .state()
        .unwrap()
        .sandbox("redis-1")
        .unwrap()
        .container_id
        .clone();
    lab.delete_pod("default", "redis-1", LIMIT).unwrap();
    assert!(lab.state().unwrap().sandbox("redis-1").is_err());
    let files = bed::files_below(lab.folder().root());
    assert!(
        !files.iter().any(|path| path.contains(&container)),
        "{files:?}"
    );
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn what_a_pod_leaves_running_dies_with_it() {
    let bed = Bed::new();
    let lab = bed.up("lab");
    let shell = [
        "sh",
        "-c",
        "sleep 1000 & echo $!; trap '' TERM; exec 2>&1; echo up; wait; wait",
    ];
    let mut object = pod("stubborn", &shell);
    object["spec"]["terminationGracePeriodSeconds"] = json!(1);
    lab.apply(&object).unwrap();
    lab.wait_ready("stubborn", LIMIT).unwrap();
    let state = lab.state().unwrap();
    let log = lab
        .folder()
        .pod(&state.sandbox("stubborn").unwrap().uid)
        .join("log");
    bed.eventually(|| fs::read_to_string(&log).unwrap().contains("up"));
    let child: u32 = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let child = ProcessId::of(child).unwrap();
    lab.delete_pod("default", "stubborn", LIMIT).unwrap();
    assert!(!child.runs());
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn a_pod_that_cannot_start_says_why() {
    let bed = Bed::new();
    let lab = bed.up("lab");
    lab.apply(&pod("lost", &["/no/such/program"])).unwrap();
    lab.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "empty"},
        "spec": {"containers": [{"name": "a", "image": "busybox"}]},
    }))
    .unwrap();
    for (name, words) in [
        ("lost", "/no/such/program"),
        ("empty", "command is missing"),
    ] {
        let message = || {
            let pod = lab
                .client()
                .get(Resource::Pod, "default", name)
                .unwrap()
                .unwrap();
            let state = pod["status"]["containerStatuses"][0]["state"].clone();
            state["terminated"]["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        bed.eventually(|| message().contains(words));
        let error = lab.wait_ready(name, LIMIT).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn a_killed_proxy_comes_back_and_services_go_on() {
    let (bed, lab) = redis_lab();
    let ping = || {
        lab.exec("frontend", &["redis-cli", "-h", "redis-service", "ping"])
            .unwrap()
    };
    bed.eventually(|| ping().stdout == b"PONG\n");
    let node = lab
        .state()
        .unwrap()
        .sandbox("frontend")
        .unwrap()
        .node
        .clone();
    lab.kill_proxy(&node).unwrap();
    assert_eq!(
        ping().stdout,
        b"PONG\n",
        "without a proxy, the kernel goes on"
    );
    bed.eventually(|| {
        let state = lab.state().unwrap();
        let proxy = state
            .proxies
            .iter()
            .find(|proxy| proxy.node == node)
            .unwrap();
        proxy.restarts == 1 && proxy.process.is_some_and(|process| process.runs())
    });
    lab.apply(&redis("redis-2")).unwrap();
    lab.wait_ready("redis-2", LIMIT).unwrap();
    lab.delete_pod("default", "redis-1", LIMIT).unwrap();
    bed.eventually(|| ping().stdout == b"PONG\n");
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn two_labs_with_the_same_addresses_do_not_meet() {
    let bed = Bed::new();
    let (one, two) = (bed.up("one"), bed.up("two"));
    one.apply(&pod("only-here", &["sleep", "1000"])).unwrap();
    one.wait_ready("only-here", LIMIT).unwrap();
    assert!(two.client().list(Resource::Pod).unwrap().is_empty());
    one.down().unwrap();
    let connect = two
        .node_exec("worker-1", &["ping", "-c1", "-W2", "10.89.0.2"])
        .unwrap();
    assert!(connect.status.success(), "the second lab goes on");
    two.down().unwrap();
    bed.nothing_left();
}

#[test]
fn a_name_in_use_leaves_the_lab_that_has_it_alone() {
    let bed = Bed::new();
    let lab = bed.up("lab");
    let error = netns_lab::Lab::up(&bed.options("lab")).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("is there a lab lab already"), "{text}");
    assert!(lab.state().unwrap().daemon.runs());
    lab.down().unwrap();
    bed.nothing_left();
}

#[test]
fn missing_binaries_and_a_proxy_that_ends_are_named_and_leave_nothing() {
    let bed = Bed::new();
    let mut options = bed.options("lab");
    options.settings.plugins = Plugins::Causeway(PathBuf::from("/nowhere/causeway-cni"));
    let text = format!("{:#}", netns_lab::Lab::up(&options).unwrap_err());
    assert!(
        text.contains("/nowhere/causeway-cni") && text.contains("--cni"),
        "{text}"
    );
    bed.nothing_left();

    let mut options = bed.options("lab");
    options.settings.proxy = Some(PathBuf::from("/bin/false"));
    let text = format!("{:#}", netns_lab::Lab::up(&options).unwrap_err());
    assert!(
        text.contains("the proxy of control ended 3 times"),
        "{text}"
    );
    bed.nothing_left();
}

#[test]
fn a_lab_without_a_proxy_runs_pods_all_the_same() {
    let bed = Bed::new();
    let mut options = bed.options("lab");
    options.settings.proxy = None;
    let lab = netns_lab::Lab::up(&options).unwrap();
    lab.apply(&pod("alone", &["sleep", "1000"])).unwrap();
    lab.wait_ready("alone", LIMIT).unwrap();
    teardown::take_down(lab.folder()).unwrap();
    bed.nothing_left();
}
