//! Bad input: the right code, a message that helps, and nothing left behind.

use serde_json::{Value, json};

use crate::node::{Node, Pod};

#[test]
fn a_full_range_is_said_and_nothing_is_left() {
    let node = Node::new();
    let config = node.config(&["fd01::/64", "10.1.0.0/30"], &json!({"ipMasq": true}));
    let first = Pod::new("a");
    node.call("ADD", &first, &config).result();
    let before = (node.ports(), node.reserved(), node.masqueraded());
    let pod = Pod::new("b");
    let (code, text) = node.call("ADD", &pod, &config).error();
    assert!(code == 11 && text.contains("10.1.0.0/30"), "{code} {text}");
    assert_eq!((node.ports(), node.reserved(), node.masqueraded()), before);
    assert!(pod.link("eth0").is_none());
    node.call("DEL", &first, &config).result();
    node.call("ADD", &pod, &config).result();
}

#[test]
fn namespaces_that_are_none() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24"], &json!({})).to_string();
    let file = node.folder.path().join("plain");
    std::fs::write(&file, "").unwrap();
    let (code, text) = node
        .call_with("ADD", "a", "/run/netns/none-such", &config, &[])
        .error();
    assert!(code == 3 && text.contains("none-such"), "{code} {text}");
    assert_eq!(
        node.call_with("ADD", "a", file.to_str().unwrap(), &config, &[])
            .error()
            .0,
        8
    );
    assert_eq!(
        node.call_with("ADD", "a", "/proc/self/ns/uts", &config, &[])
            .error()
            .0,
        8
    );
    let (code, text) = node
        .call_with("ADD", "a", "/proc/self/ns/net", &config, &[])
        .error();
    assert!(code == 8 && text.contains("own namespace"), "{code} {text}");
    assert_eq!(
        node.call_with("DEL", "a", "/proc/self/ns/net", &config, &[])
            .error()
            .0,
        8
    );
    assert!(
        node.call_with("DEL", "a", file.to_str().unwrap(), &config, &[])
            .succeeded
    );
    node.assert_empty();
}

#[test]
fn configurations_that_are_none() {
    let node = Node::new();
    let pod = Pod::new("a");
    let with = |key: &str, value: Value| {
        let mut config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": true}));
        config[key] = value;
        config.to_string()
    };
    for (input, code, words) in [
        (String::new(), 6, "JSON"),
        ("{\"name\":".to_owned(), 6, "JSON"),
        ("[1]".to_owned(), 6, "object"),
        (" ".repeat((1 << 20) + 1), 6, "1048576"),
        (
            with("cniVersion", json!("9.9.9")),
            1,
            "supported are 0.1.0, ",
        ),
        (with("cniVersion", json!(1)), 6, "cniVersion"),
        (with("name", json!("../../etc")), 7, "../../etc"),
        (with("name", Value::Null), 7, "name"),
        (with("type", json!("macvlan")), 2, "macvlan"),
        (with("vlan", json!(7)), 2, "vlan: 7"),
        (with("mtu", json!("big")), 6, "mtu"),
        (with("mtu", json!(20)), 7, "mtu: 20"),
        (
            with("ipam", json!({"type": "none-such"})),
            2,
            "ipam.type: \"none-such\"",
        ),
        // Bridges have no addresses to give, and would execute themselves for ever.
        (
            with("ipam", json!({"type": "bridge"})),
            2,
            "ipam.type: \"bridge\"",
        ),
        (with("ipam", json!({"type": "a/b"})), 7, "ipam.type"),
        (
            with("ipam", json!({"type": "host-local"})),
            7,
            "ipam.ranges",
        ),
        (with("bridge", json!("lo")), 101, "lo"),
        (
            with("runtimeConfig", json!({"mac": "x"})),
            7,
            "runtimeConfig.mac",
        ),
        (
            with("runtimeConfig", json!({"ips": ["192.0.2.1"]})),
            7,
            "192.0.2.1",
        ),
    ] {
        let (found, text) = node.call_with("ADD", "a", &pod.path(), &input, &[]).error();
        assert_eq!(found, code, "{text}");
        assert!(text.contains(words), "{text}");
        node.assert_empty();
        assert!(pod.link("eth0").is_none());
    }
}

#[test]
fn environments_that_are_none() {
    let node = Node::new();
    let pod = Pod::new("a");
    let config = node.config(&["10.1.0.0/24"], &json!({})).to_string();
    for (name, value) in [
        ("CNI_COMMAND", "ATTACH"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../x"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_NETNS", ""),
        ("CNI_ARGS", "FOO=1"),
        ("CNI_ARGS", "MAC=zz"),
    ] {
        let (code, text) = node
            .call_with("ADD", "a", &pod.path(), &config, &[(name, value)])
            .error();
        assert_eq!(code, 4, "{name}={value}: {text}");
        node.assert_empty();
    }
}

#[test]
fn a_second_add_takes_nothing_from_the_first() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": true}));
    let pod = Pod::new("a");
    node.call("ADD", &pod, &config).result();
    let before = (node.ports(), node.reserved(), node.masqueraded());
    assert_eq!(node.call("ADD", &pod, &config).error().0, 7);
    // The same interface for another container: refused after the address was reserved.
    let other = node.call_with("ADD", "b", &pod.path(), &config.to_string(), &[]);
    assert_eq!(other.error().0, 101);
    assert_eq!((node.ports(), node.reserved(), node.masqueraded()), before);
    assert!(pod.link("eth0").unwrap().up);
}
