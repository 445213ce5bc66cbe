//! Ports of the host.
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

#[test]
fn one_plugin_has_ports_of_the_host() {
    serves_the_world(Network::Installed("10.1.0.0/24"));
}
