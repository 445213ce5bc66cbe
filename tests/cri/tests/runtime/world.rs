//! Host ports and limits: by one plugin, and by a chain of the reference plugins' names.
#![expect(clippy::unwrap_used, reason = "what can't be done fails the test")]

use causeway_cri_tests::bed::Bed;
use causeway_cri_tests::network::{self, NODE_ADDRESS, Network};
use k8s_cri::v1::PortMapping;

/// A port of the node leads to a pod: from outside, from another pod, and from itself.
fn serves_the_world(network: Network<'_>) {
    let bed = Bed::new(network).unwrap();
    let outside = network::outside(&bed.node).unwrap();
    let mut wanted = bed.wanted("web");
    wanted.port_mappings = vec![PortMapping {
        host_port: 8080,
        container_port: 80,
        ..PortMapping::default()
    }];
    let web = bed.pod(&wanted).unwrap();
    let other = bed.pod(&bed.wanted("other")).unwrap();

    assert_eq!(network::fetch(&outside, 8080).unwrap(), "web");
    assert_eq!(bed.fetch(&other, &web.addresses[0]).unwrap(), "web");
    for from in [&other, &web] {
        let by_port = format!("{NODE_ADDRESS}:8080");
        assert_eq!(bed.fetch(from, &by_port).unwrap(), "web");
    }
    // A port that a living pod has isn't given away.
    let mut rival = bed.wanted("rival");
    rival.port_mappings.clone_from(&wanted.port_mappings);
    bed.pod(&rival).unwrap_err();
    assert_eq!(network::fetch(&outside, 8080).unwrap(), "web");

    bed.cri.stop_pod(&web.id).unwrap();
    network::fetch(&outside, 8080).unwrap_err();
    bed.pod(&rival).unwrap();
    assert_eq!(network::fetch(&outside, 8080).unwrap(), "rival");
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}

/// A pod's annotations limit it: one bucket towards it on its link, one from it on a device of
/// its own.
fn is_limited(network: Network<'_>) {
    let bed = Bed::new(network).unwrap();
    let mut wanted = bed.wanted("slow");
    for (direction, rate) in [("ingress", "8M"), ("egress", "4M")] {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        wanted.annotations.insert(name, rate.to_owned());
    }
    let slow = bed.pod(&wanted).unwrap();
    let other = bed.pod(&bed.wanted("other")).unwrap();
    assert_eq!(bed.fetch(&other, &slow.addresses[0]).unwrap(), "slow");
    let buckets = bed.node.run("tc", &["qdisc", "show"]).unwrap();
    for rate in ["rate 8Mbit", "rate 4Mbit"] {
        assert_eq!(buckets.matches(rate).count(), 1, "{rate}: {buckets}");
    }
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}

#[test]
fn one_plugin_has_ports_of_the_host() {
    serves_the_world(Network::Installed("10.1.0.0/24"));
}

#[test]
fn one_plugin_limits() {
    is_limited(Network::Installed("10.1.0.0/24"));
}

#[test]
fn a_chain_of_the_reference_names_has_ports_of_the_host() {
    serves_the_world(Network::Chained("10.1.0.0/24"));
}

#[test]
fn a_chain_of_the_reference_names_limits() {
    is_limited(Network::Chained("10.1.0.0/24"));
}
