//! Many pods at once, on a node that has nothing yet.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use nodekit::route::Handle;
use serde_json::{Value, json};

use crate::node::{Node, Pod, address, link};

/// Runs `work` for every pod, so many at a time.
pub(crate) fn at_once(pods: &[Pod], concurrency: usize, work: impl Fn(&Pod) + Sync) {
    let next = Mutex::new(pods.iter());
    thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                loop {
                    let Some(pod) = next.lock().unwrap().next() else {
                        return;
                    };
                    work(pod);
                }
            });
        }
    });
}

fn come_and_go(node: &Node, config: &Value, concurrency: usize) {
    let pods: Vec<_> = (0..50)
        .map(|number| Pod::new(&format!("pod-{number}")))
        .collect();
    let given = Mutex::new(BTreeSet::new());
    at_once(&pods, concurrency, |pod| {
        let result = node.call("ADD", pod, config).result();
        for index in [0, 1] {
            let address = address(&result, index);
            assert!(
                given.lock().unwrap().insert(address),
                "{address} was given twice"
            );
        }
    });
    assert_eq!(node.ports().len(), 50);
    assert_eq!(node.reserved().len(), 100);
    assert_eq!(node.masqueraded().len(), 100);
    at_once(&pods, concurrency, |pod| {
        assert!(node.call("DEL", pod, config).result().is_null());
    });
    node.assert_empty();
}

#[test]
fn fifty_pods_sixteen_at_a_time() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}));
    come_and_go(&node, &config, 16);
    // A second round finds everything there already.
    come_and_go(&node, &config, 16);
}

#[test]
fn fifty_pods_at_once_make_one_bridge_and_one_set_of_rules() {
    let node = Node::new();
    let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}));
    come_and_go(&node, &config, 50);
    let rules = |family| {
        let mut nft = nodekit::nft::NftSocket::open().unwrap();
        nft.rules(family, "causeway-cni").unwrap().len()
    };
    for family in [nodekit::nft::Family::Ip, nodekit::nft::Family::Ip6] {
        // One that leads to the map; own subnet, multicast and masquerade in the network's chain.
        assert_eq!(node.netns.run(|| rules(family)).unwrap(), 4);
    }
    let bridge = link(&node.netns, "br0").unwrap().index;
    let held = node
        .netns
        .run(|| Handle::open().unwrap().addresses(Some(bridge)).unwrap())
        .unwrap();
    let global = held.iter().filter(|a| u8::from(a.scope) == 0).count();
    assert_eq!(global, 2, "{held:?}");
}
