//! Who holds a host port.

use std::net::UdpSocket;

use nodekit::route::Handle;
use serde_json::json;

use super::bed::{Served, both_protocols, client, elements, network};
use crate::masquerade::{NETWORKS, outside};
use crate::node::{Node, Pod};

#[test]
fn a_port_of_a_living_pod_is_refused_by_name() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let (a, b) = (Served::new("a"), Served::new("b"));
    let config = network(&node, &both_protocols(), &json!({"ipMasq": true}));
    node.call("ADD", &a.pod, &config).result();
    let before = (node.ports(), node.reserved(), elements(&node).len());
    let (code, said) = node.call("ADD", &b.pod, &config).error();
    assert_eq!(code, 101, "{said}");
    for part in ["host port 8080/tcp", "container a", "eth0"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Nothing of the refused pod is left, and the port is where it was.
    assert_eq!(
        (node.ports(), node.reserved(), elements(&node).len()),
        before
    );
    assert!(a.by_tcp(&outside, "192.0.2.1:8080").is_some());
    // What the refused pod's runtime asks then is not at the other's cost.
    node.call("DEL", &b.pod, &config).result();
    assert!(a.by_tcp(&outside, "192.0.2.1:8080").is_some());
    node.call("DEL", &a.pod, &config).result();
    node.call("ADD", &b.pod, &config).result();
    assert!(b.by_tcp(&outside, "192.0.2.1:8080").is_some());
}

#[test]
fn a_port_of_a_pod_that_is_gone_is_taken_over() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let (a, b) = (Served::new("a"), Served::new("b"));
    let config = network(&node, &both_protocols(), &json!({}));
    node.call("ADD", &a.pod, &config).result();
    // Its namespace ended without DEL, and its link with it.
    let mut links = node.ports().into_iter();
    let link = links.find(|name| name.starts_with("veth")).unwrap();
    let delete = || Handle::open().unwrap().delete_link_by_name(&link).unwrap();
    node.netns.run(delete).unwrap();
    node.call("ADD", &b.pod, &config).result();
    assert!(b.by_tcp(&outside, "192.0.2.1:8080").is_some());
    // A late DEL of the old one takes nothing of the new one's.
    node.call("DEL", &a.pod, &config).result();
    assert!(b.by_tcp(&outside, "192.0.2.1:8080").is_some());
    node.call("DEL", &b.pod, &config).result();
    assert_eq!(elements(&node), []);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let node = Node::new();
    let pod = Pod::new("a");
    for (ports, more, code, part) in [
        (
            json!([{"hostPort": 1, "containerPort": 2}, {"hostPort": 1, "containerPort": 3}]),
            json!({}),
            7,
            "host port 1/tcp leads to container port 2",
        ),
        (
            json!([{"hostPort": 1, "containerPort": 0}]),
            json!({}),
            7,
            "containerPort",
        ),
        (json!([]), json!({"markMasqBit": 32}), 7, "markMasqBit"),
        (
            json!([]),
            json!({"externalSetMarkChain": "X"}),
            2,
            "externalSetMarkChain",
        ),
        (
            json!([]),
            json!({"externalSetMarkChain": "X", "markMasqBit": 1}),
            7,
            "externalSetMarkChain",
        ),
        (json!([]), json!({"backend": "iptables"}), 2, "backend"),
        (json!([]), json!({"backend": "ipfw"}), 7, "backend"),
        (
            json!([]),
            json!({"conditionsV4": ["-m", "owner"]}),
            2,
            "\"-m\"",
        ),
    ] {
        let config = network(&node, &ports, &more);
        let (got, said) = node.call("ADD", &pod, &config).error();
        assert!(got == code && said.contains(part), "{got} {said}");
    }
    node.assert_empty();
    // The same twice is once; a host port of 0 asks for none.
    let ports = json!([
        {"hostPort": 1, "containerPort": 2}, {"hostPort": 1, "containerPort": 2},
        {"hostPort": 0, "containerPort": 2},
    ]);
    node.call("ADD", &pod, &network(&node, &ports, &json!({})))
        .result();
    assert_eq!(elements(&node).len(), 8);
}

/// A client that goes on with its source port must not be led to where the port led before.
#[test]
fn clients_of_udp_follow_a_port_that_moves() {
    let node = Node::new();
    let outside = outside(&node, NETWORKS);
    let (a, b) = (Served::new("a"), Served::new("b"));
    let config = network(&node, &both_protocols(), &json!({}));
    // The kernel tracks connections from the first rule that needs it on.
    let none = network(
        &node,
        &json!([{"hostPort": 9, "containerPort": 9}]),
        &json!({}),
    );
    node.call("ADD", &Pod::new("first"), &none).result();
    let own = node
        .netns
        .run(|| UdpSocket::bind("192.0.2.1:8080").unwrap());
    let own = own.unwrap();
    let clients = [client(&outside, true), client(&node.netns, true)];
    for client in &clients {
        client.send_to(b"?", "192.0.2.1:8080").unwrap();
        let (_, peer) = own.recv_from(&mut [0; 8]).unwrap();
        own.send_to(b"!", peer).unwrap();
    }
    drop(own);
    for served in [&a, &b] {
        node.call("ADD", &served.pod, &config).result();
        for client in &clients {
            client.set_nonblocking(true).unwrap();
            while client.recv_from(&mut [0; 8]).is_ok() {}
            client.set_nonblocking(false).unwrap();
            assert!(served.by_udp(client, "192.0.2.1:8080").is_some());
        }
        node.call("DEL", &served.pod, &config).result();
    }
}
