//! GC and STATUS.

use nodekit::route::{Handle, LinkChange};
use serde_json::{Value, json};

use crate::node::{Node, Pod};

#[test]
fn gc_keeps_what_is_listed_and_nothing_else() {
    let node = Node::new();
    let more = json!({"ipMasq": true, "cniVersion": "1.1.0"});
    let mut config = node.config(&["10.1.0.0/24", "fd01::/64"], &more);
    let pods = ["a", "b", "c"].map(Pod::new);
    for pod in &pods {
        node.call("ADD", pod, &config).result();
    }
    assert_eq!(
        node.call("GC", &pods[0], &config).error().0,
        7,
        "without a list"
    );
    assert_eq!(node.ports().len(), 3);

    config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    assert!(node.call("GC", &pods[0], &config).result().is_null());
    assert_eq!((node.ports().len(), node.reserved().len()), (1, 2));
    assert!(pods[1].link("eth0").is_some() && pods[0].link("eth0").is_none());
    let owners: Vec<_> = node
        .masqueraded()
        .into_iter()
        .map(|e| e.comment.unwrap())
        .collect();
    assert_eq!(owners, ["b eth0 net", "b eth0 net"]);

    config["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", &pods[0], &config).result();
    node.assert_empty();
    let old = node.config(&["10.1.0.0/24"], &json!({"cni.dev/attachments": []}));
    assert_eq!(
        node.call("GC", &pods[0], &old).error().0,
        1,
        "1.0.0 has no GC"
    );
}

#[test]
fn gc_leaves_other_networks_alone() {
    let node = Node::new();
    let common = json!({"ipMasq": true, "cniVersion": "1.1.0"});
    let kept = node.config(&["10.1.0.0/24"], &common);
    let mut other = node.config(&["10.2.0.0/24"], &common);
    other["name"] = "other".into();
    other["bridge"] = "br1".into();
    let pods = ["a", "b"].map(Pod::new);
    node.call("ADD", &pods[0], &kept).result();
    node.call("ADD", &pods[1], &other).result();
    other["cni.dev/attachments"] = json!([]);
    node.call("GC", &Pod::new("x"), &other).result();
    assert_eq!(
        (
            node.ports().len(),
            node.reserved().len(),
            node.masqueraded().len()
        ),
        (1, 1, 1)
    );
}

/// Has the host's end of a pod say something, or nothing.
fn mark(node: &Node, result: &Value, alias: &str) {
    let mark = || {
        let mut route = Handle::open().unwrap();
        let name = result["interfaces"][1]["name"].as_str().unwrap();
        let index = route.link_by_name(name).unwrap().index;
        let change = LinkChange {
            alias: Some(alias),
            ..LinkChange::default()
        };
        route.change_link(index, &change).unwrap();
    };
    node.netns.run(mark).unwrap();
}

/// Two networks of different names on one bridge; their pods' addresses are apart.
fn two_networks(node: &Node) -> [Value; 2] {
    [("net", "10.1.0.0/24"), ("other", "10.2.0.0/24")].map(|(name, subnet)| {
        let more = json!({
            "name": name, "isGateway": false, "isDefaultGateway": false, "type": "bridge",
            "cniVersion": "1.1.0", "cni.dev/attachments": [],
        });
        node.config(&[subnet], &more)
    })
}

#[test]
fn networks_may_share_a_bridge() {
    let node = Node::new();
    let [net, other] = two_networks(&node);
    let [a, b, c] = ["a", "b", "c"].map(Pod::new);
    node.call("ADD", &a, &net).result();
    node.call("ADD", &b, &other).result();
    // As an ADD that was killed, or an older version, leaves them.
    mark(&node, &node.call("ADD", &c, &other).result(), "");
    node.call("GC", &a, &net).result();
    let alive = [&a, &b, &c].map(|pod| pod.link("eth0").is_some());
    assert_eq!(alive, [false, true, true]);
    node.call("GC", &a, &other).result();
    node.assert_empty();

    // Whose an end without a word is shows its reservation; without one it is left.
    let result = node.call("ADD", &a, &net).result();
    mark(&node, &result, "");
    std::fs::remove_file(node.folder.path().join("net/10.1.0.3")).unwrap();
    for config in [&net, &other] {
        node.call("GC", &a, config).result();
        assert!(a.link("eth0").is_some());
    }
    node.call("DEL", &a, &net).result();
    node.assert_empty();
}

#[test]
fn an_end_that_takes_a_crashed_ones_place_is_its_networks() {
    let node = Node::new();
    let [net, other] = two_networks(&node);
    // One container's id and interface, twice: the first ADD's runtime went down.
    let [before, after] = ["a", "a"].map(Pod::new);
    let first = node.call("ADD", &before, &net).result();
    let second = node.call("ADD", &after, &other).result();
    assert_eq!(
        first["interfaces"][1]["name"],
        second["interfaces"][1]["name"]
    );
    assert!(before.link("eth0").is_none());
    node.call("GC", &before, &net).result();
    assert!(after.link("eth0").is_some());
    assert_eq!(node.reserved(), [""; 0]);
    node.call("GC", &before, &other).result();
    node.assert_empty();
}

#[test]
fn status_says_whether_add_could_be_served() {
    let node = Node::new();
    let more = json!({"ipMasq": true, "cniVersion": "1.1.0"});
    let config = node.config(&["10.1.0.0/24"], &more);
    let nobody = Pod::new("x");
    assert!(node.call("STATUS", &nobody, &config).result().is_null());
    let mut in_the_way = config.clone();
    in_the_way["bridge"] = "lo".into();
    assert_eq!(node.call("STATUS", &nobody, &in_the_way).error().0, 50);
    let old = node.config(&["10.1.0.0/24"], &json!({}));
    assert_eq!(
        node.call("STATUS", &nobody, &old).error().0,
        1,
        "1.0.0 has no STATUS"
    );
}
