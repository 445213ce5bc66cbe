//! Calls that come all at once.

use std::thread;

use nodekit::route::Handle;
use serde_json::{Value, json};

use crate::crash::{config_of_everything, owned};
use crate::node::{Answer, Node, Pod};

/// Makes all calls at the same time.
fn at_once(node: &Node, calls: &[(&str, &Pod, Value)]) -> Vec<Answer> {
    thread::scope(|scope| {
        let calls: Vec<_> = calls
            .iter()
            .map(|(command, pod, config)| scope.spawn(|| node.call(command, pod, config)))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

/// A configuration with everything, and one host port.
fn with_port(node: &Node, port: usize) -> Value {
    let mut config = config_of_everything(node);
    config["runtimeConfig"]["portMappings"] = json!([
        {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": port, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
    ]);
    config
}

/// Links beside the loopback interface and the bridge.
fn links(node: &Node) -> Vec<String> {
    let links = node.netns.run(|| Handle::open().unwrap().links().unwrap());
    let names = links.unwrap().into_iter().map(|link| link.name);
    names.filter(|name| name != "lo" && name != "br0").collect()
}

#[test]
fn fifty_pods_with_everything_on_an_empty_node() {
    let node = Node::new();
    let pods: Vec<_> = (0..50).map(|n| Pod::new(&format!("pod-{n}"))).collect();
    let calls = |command| {
        let pods = pods.iter().enumerate();
        pods.map(|(n, pod)| (command, pod, with_port(&node, 8000 + n)))
            .collect::<Vec<_>>()
    };
    for answer in at_once(&node, &calls("ADD")) {
        answer.result();
    }
    assert_eq!((node.ports().len(), node.reserved().len()), (50, 100));
    // A pair's end, and a device for its limits.
    assert_eq!(links(&node).len(), 100);
    let all = owned(&node);
    for pod in &pods {
        let owner = format!(" {} eth0 net", pod.id);
        let mine: Vec<_> = all.iter().filter(|e| e.contains(&owner)).collect();
        for set in [
            "host-ports:",
            "host-ports-of-address:",
            "masquerade-pods:",
            "isolated-pods:",
        ] {
            assert!(mine.iter().any(|e| e.starts_with(set)), "{set} {mine:?}");
        }
    }
    for answer in at_once(&node, &calls("DEL")) {
        answer.result();
    }
    assert_eq!(node.reserved(), [""; 0]);
    assert_eq!(owned(&node), [""; 0]);
    assert_eq!(links(&node), [""; 0]);
}

#[test]
fn one_of_many_gets_a_host_port() {
    let node = Node::new();
    let pods: Vec<_> = (0..10).map(|n| Pod::new(&format!("pod-{n}"))).collect();
    let calls: Vec<_> = pods
        .iter()
        .map(|pod| ("ADD", pod, with_port(&node, 8080)))
        .collect();
    let answers = at_once(&node, &calls);
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.succeeded);
    assert_eq!(won.len(), 1);
    for answer in lost {
        let (code, text) = answer.error();
        assert!(code == 101 && text.contains("host port"), "{code} {text}");
    }
    assert_eq!((node.ports().len(), node.reserved().len()), (1, 2));
    let up: Vec<_> = pods
        .iter()
        .filter(|pod| pod.link("eth0").is_some())
        .collect();
    assert_eq!(up.len(), 1);
    assert!(owned(&node).iter().all(|line| line.contains(&up[0].id)));
    node.call("DEL", up[0], &with_port(&node, 8080)).result();
    assert_eq!(owned(&node), [""; 0]);
}

#[test]
fn one_of_many_equal_adds_is_served() {
    let node = Node::new();
    let pod = Pod::new("a");
    let config = with_port(&node, 8080);
    let calls: Vec<_> = (0..8).map(|_| ("ADD", &pod, config.clone())).collect();
    let answers = at_once(&node, &calls);
    assert_eq!(answers.iter().filter(|answer| answer.succeeded).count(), 1);
    for answer in answers.into_iter().filter(|answer| !answer.succeeded) {
        let (code, text) = answer.error();
        assert!(code == 7 || code == 101, "{code} {text}");
    }
    // What the refused ones undid was not the served one's.
    assert!(pod.link("eth0").unwrap().up);
    assert_eq!((node.ports().len(), node.reserved().len()), (1, 2));
    assert!(owned(&node).len() > 2);
    let del: Vec<_> = (0..8).map(|_| ("DEL", &pod, config.clone())).collect();
    for answer in at_once(&node, &del) {
        answer.result();
    }
    assert_eq!((owned(&node), links(&node)), (Vec::new(), Vec::new()));
}
