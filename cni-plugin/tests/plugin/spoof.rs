//! Frames with a source address that isn't the pod's.

use nodekit::nft::{Batch, Element, Family, NftSocket};
use nodekit::route::{Handle, LinkChange, Mac};
use serde_json::{Value, json};

use crate::node::{Node, Pod, address, arrives_all_the_same, seen_from};

const SETS: [&str; 2] = ["spoof-addresses", "spoof-ports"];

fn elements(node: &Node) -> Vec<Element> {
    let of = |set| {
        let mut nft = NftSocket::open().unwrap();
        nft.elements(Family::Bridge, "causeway-cni", set)
            .unwrap_or_default()
    };
    node.netns.run(|| SETS.map(of).concat()).unwrap()
}

fn set_mac(pod: &Pod, mac: Mac) {
    let set = || {
        let mut route = Handle::open().unwrap();
        let index = route.link_by_name("eth0").unwrap().index;
        let change = LinkChange {
            mac: Some(mac),
            ..LinkChange::default()
        };
        route.change_link(index, &change).unwrap();
        // The gateway's is forgotten with the old address.
        route.flush_neighbours(index).unwrap();
    };
    pod.netns.run(set).unwrap();
}

#[test]
fn a_frame_with_another_source_address_goes_nowhere() {
    let node = Node::new();
    let config = node.config(
        &["10.1.0.0/24", "fd01::/64"],
        &json!({"macspoofchk": true, "ipMasq": true}),
    );
    let pods = ["a", "b"].map(Pod::new);
    let results = [0, 1].map(|pod| node.call("ADD", &pods[pod], &config).result());
    assert_eq!(elements(&node).len(), 4);
    let [here, there] = pods.each_ref().map(|pod| &pod.netns);
    let both_families_arrive = || {
        for family in [0, 1] {
            let [from, to] = [0, 1].map(|pod| address(&results[pod], family));
            assert_eq!(seen_from(here, there, to), Some(from));
        }
    };
    both_families_arrive();
    let own = pods[0].link("eth0").unwrap().mac.unwrap();
    // Not even as its neighbour.
    set_mac(&pods[0], pods[1].link("eth0").unwrap().mac.unwrap());
    assert!(!arrives_all_the_same(here, there, address(&results[1], 0)));
    set_mac(&pods[0], own);
    both_families_arrive();
}

#[test]
fn the_check_is_checked_and_goes_with_the_pod_whatever_is_known_of_it() {
    let node = Node::new();
    let base = node.config(&["10.1.0.0/24"], &json!({"macspoofchk": true}));
    let with = |key: &str, value: Value| {
        let mut config = base.clone();
        config[key] = value;
        config
    };
    let mut without = base.clone();
    without.as_object_mut().unwrap().remove("ipam");
    let own_mac = with("runtimeConfig", json!({"mac": "02:00:00:00:00:07"}));
    for (config, at_del, netns) in [
        (&base, &base, true),
        (&base, &base, false),
        (&own_mac, &own_mac, false),
        (&without, &without, false),
    ] {
        let pod = Pod::new("a");
        let result = node.call("ADD", &pod, config).result();
        assert_eq!(elements(&node).len(), 2);
        let mut told = config.clone();
        told["prevResult"] = result;
        node.call("CHECK", &pod, &told).result();
        let path = if netns { pod.path() } else { String::new() };
        let input = at_del.to_string();
        node.call_with("DEL", "a", &path, &input, &[]).result();
        assert_eq!(elements(&node), []);
    }
    let pod = Pod::new("a");
    let mut told = base.clone();
    told["prevResult"] = node.call("ADD", &pod, &base).result();
    let lose = || {
        let mut batch = Batch::new(Family::Bridge, "causeway-cni");
        batch.flush_set(0, SETS[1]);
        NftSocket::open().unwrap().commit(&batch).unwrap();
    };
    node.netns.run(lose).unwrap();
    let (code, text) = node.call("CHECK", &pod, &told).error();
    assert!(code == 102 && text.contains("spoof check"), "{code} {text}");
}
