//! GC and STATUS.

use serde_json::json;

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
