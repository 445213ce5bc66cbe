//! Pods talk to each other, and leave nothing.

use causeway_cri_tests::bed::{Bed, Pod};
use causeway_cri_tests::containerd::{NETWORKS, PLUGINS};
use causeway_cri_tests::network::{self, Network};

#[test]
fn pods_reach_each_other_by_both_families() {
    let bed = Bed::new(Network::Installed("10.1.0.0/24,fd01::/64")).unwrap();
    let pods = bed.pods(&["a", "b"].map(str::to_owned)).unwrap();
    let [a, b]: [Pod; 2] = pods.try_into().unwrap();
    assert_eq!(b.addresses.len(), 2);
    for address in &b.addresses {
        let ping = ["ping", "-c1", "-W10", address];
        bed.cri.exec(&a.container, &ping).unwrap();
    }
    assert_eq!(bed.fetch(&a, &b.addresses[0]).unwrap(), "b");
    let six = format!("[{}]", a.addresses[1]);
    assert_eq!(bed.fetch(&b, &six).unwrap(), "a");
    let resolver = bed.cri.exec(&a.container, &["cat", "/etc/resolv.conf"]);
    assert_eq!(
        resolver.unwrap(),
        "search default.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    );
    let plugin = format!("{PLUGINS}/causeway-cni");
    let state = bed.node.run(&plugin, &["state"]).unwrap();
    for pod in [&a, &b] {
        assert!(state.contains(&pod.addresses[0]), "{state}");
    }
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
    let state = bed.node.run(&plugin, &["state", "--json"]).unwrap();
    assert_eq!(state.trim(), "[]");
    let uninstall = ["uninstall", "--bin-dir", PLUGINS, "--conf-dir", NETWORKS];
    bed.node.run(&plugin, &uninstall).unwrap();
    assert_eq!(bed.node.names(PLUGINS), [""; 0]);
    assert_eq!(bed.node.names(NETWORKS), [""; 0]);
}
