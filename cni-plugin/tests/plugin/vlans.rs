//! VLANs where the kernel may have none, and interfaces that are left down. What VLANs do is shown by
//! the test `vlans`, which needs a kernel that has them.

use nodekit::route::Handle;
use serde_json::json;

use crate::node::{Node, Pod, link};

#[test]
fn vlans_are_served_or_refused_before_anything_is_made() {
    let node = Node::new();
    let ask = || {
        let mut route = Handle::open().unwrap();
        route.has_vlan_filtering().unwrap() && route.has_vlan_devices().unwrap()
    };
    let has = node.netns.run(ask).unwrap();
    for more in [
        json!({"vlan": 7}),
        json!({"vlanTrunk": [{"minID": 10, "maxID": 20}], "isGateway": false}),
    ] {
        let mut config = node.config(&["10.1.0.0/24"], &more);
        config["cniVersion"] = "1.1.0".into();
        let pod = Pod::new("a");
        let status = node.call("STATUS", &pod, &config);
        let added = node.call("ADD", &pod, &config);
        if has {
            assert!(status.succeeded && added.succeeded);
            node.call("DEL", &pod, &config).result();
        } else {
            let ((code, text), (unavailable, _)) = (added.error(), status.error());
            assert_eq!((code, unavailable), (2, 50), "{text}");
            assert!(
                text.starts_with("vlan") && text.contains("CONFIG_"),
                "{text}"
            );
            assert!(link(&node.netns, "br0").is_none());
        }
        node.assert_empty();
    }
}

#[test]
fn a_pods_interface_can_be_left_down() {
    let node = Node::new();
    let pod = Pod::new("a");
    let mut config = node.config(
        &["10.1.0.0/24"],
        &json!({"disableContainerInterface": true}),
    );
    let (code, text) = node.call("ADD", &pod, &config).error();
    assert!(
        code == 7 && text.contains("disableContainerInterface") && text.contains("ipam"),
        "{code} {text}"
    );
    assert!(link(&node.netns, "br0").is_none());
    config.as_object_mut().unwrap().remove("ipam");
    let mut told = config.clone();
    told["prevResult"] = node.call("ADD", &pod, &config).result();
    assert!(!pod.link("eth0").unwrap().up);
    assert!(node.call("CHECK", &pod, &told).result().is_null());
    node.call("DEL", &pod, &config).result();
    node.assert_empty();
}
