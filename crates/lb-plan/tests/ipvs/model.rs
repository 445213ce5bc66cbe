//! Rules and IPVS together do with every packet what the model says, whatever happened before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_model::generate::Cluster as Generated;
use lb_model::{Family, Model, Packet, Route};
use lb_plan::ipvs::Applied;
use lb_plan::nftables::Verdict;

use crate::agree::agree;
use crate::node::{Cluster, Node};

fn all(model: &Model, family: Family) -> Cluster {
    let services = model.services();
    services
        .map(|service| (service.clone(), model.frontends(service, family)))
        .collect()
}

/// `packet` must fare as the model says; gives whether that was to be seen.
#[track_caller]
fn fares(node: &Node, model: &Model, packet: &Packet) -> bool {
    // From an address of a Service only the node itself can send.
    if node.ipvs.bound().contains(&packet.source) {
        return false;
    }
    let verdict = node.walk(packet);
    // An address that the node has for a Service answers on no other port, as in kube-proxy's mode
    // ipvs (chain KUBE-IPVS-FILTER).
    let bound = node.ipvs.bound().contains(&packet.destination);
    if bound && model.route_packet(packet) == Route::NotOurs {
        assert_eq!(verdict, Verdict::Reject, "{packet:?}");
        return false;
    }
    agree(&verdict, model, packet);
    true
}

fn fresh(model: &Model, family: Family, own: &BTreeSet<IpAddr>) -> Node {
    let mut node = Node::new(family, model.local_detector(family), own);
    node.go_to(&all(model, family), |_| {});
    node
}

#[test]
fn the_kernel_does_what_the_model_says() {
    let mut agreed = 0;
    for seed in 0..60 {
        let mut generated = Generated::new(seed, 12);
        let mut model = Model::new(generated.config.clone());
        for event in generated.events() {
            model.apply(event);
        }
        model.take_changes();
        let mut packets: Vec<Packet> = (0..300).map(|_| generated.packet()).collect();
        let ports = packets
            .iter()
            .filter(|packet| packet.destination_is_node_port_address);
        let own: BTreeSet<IpAddr> = ports.map(|p| p.destination).collect();
        for packet in &mut packets {
            packet.destination_is_node_port_address = own.contains(&packet.destination);
        }
        let mut nodes = Family::ALL.map(|family| (family, fresh(&model, family, &own)));
        for _ in 0..12 {
            for packet in &packets {
                let family = Family::of(packet.destination);
                let (_, node) = nodes.iter().find(|(of, _)| *of == family).unwrap();
                agreed += usize::from(fares(node, &model, packet));
            }
            for _ in 0..3 {
                model.apply(generated.change());
            }
            let changes = model.take_changes();
            for (family, node) in &mut nodes {
                if node.has(&model.local_detector(*family)) {
                    let frontends = |s: &_| model.frontends(s, *family);
                    let changed = changes.services.iter().map(|s| (s.clone(), frontends(s)));
                    node.go_to(&changed.collect(), |_| {});
                } else {
                    *node = fresh(&model, *family, &own);
                }
                assert!(node.applied.is(&node.ipvs.found()));
                assert_eq!(node.ipvs, fresh(&model, *family, &own).ipvs);
            }
        }
        // A restarted proxy finds all of it wanted.
        for (family, mut node) in nodes {
            node.applied = Applied::adopt(node.ipvs.found());
            assert_eq!(node.go_to(&all(&model, family), |_| {}), []);
        }
    }
    assert!(agreed > 100_000);
}
