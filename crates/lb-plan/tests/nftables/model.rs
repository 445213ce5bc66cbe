//! The kernel does with every packet what the model says, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_model::generate::Cluster as Generated;
use lb_model::{Family, Model, Packet};
use lb_plan::nftables::{Affinity, Balancer, Settings};

use crate::agree::agree;
use crate::cluster::Cluster;
use crate::node::Node;

fn settings(model: &Model, family: Family, node_port_addresses: &BTreeSet<IpAddr>) -> Settings {
    Settings {
        family,
        masquerade_bit: 14,
        detector: model.local_detector(family),
        node_port_addresses: node_port_addresses.clone(),
        service_cidrs: BTreeSet::new(),
        balancer: Balancer::Rules,
    }
}

fn all(model: &Model, family: Family) -> Cluster {
    let services = model.services();
    services
        .map(|service| (service.clone(), model.frontends(service, family)))
        .collect()
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
        let mut node_port_addresses: BTreeSet<IpAddr> = ports.map(|p| p.destination).collect();
        if seed % 5 == 0 {
            node_port_addresses.clear();
        }
        for packet in &mut packets {
            let served = node_port_addresses.contains(&packet.destination);
            packet.destination_is_node_port_address = served;
        }
        let mut nodes: BTreeMap<Family, Node> = Family::ALL
            .into_iter()
            .map(|family| {
                let settings = settings(&model, family, &node_port_addresses);
                (family, Node::with(settings, &all(&model, family)))
            })
            .collect();
        for _ in 0..12 {
            for packet in &packets {
                let node = &nodes[&Family::of(packet.destination)];
                let verdict = node.kernel.walk(packet, &Affinity::default());
                agree(&verdict, &model, packet);
                agreed += 1;
            }
            for _ in 0..3 {
                model.apply(generated.change());
            }
            let changes = model.take_changes();
            for (family, node) in &mut nodes {
                let settings = settings(&model, *family, &node_port_addresses);
                if settings.signature() == node.settings.signature() {
                    let frontends = |s: &_| model.frontends(s, *family);
                    let changed = changes.services.iter().map(|s| (s.clone(), frontends(s)));
                    node.go_to(&changed.collect(), false, |_, _| {});
                } else {
                    *node = Node::with(settings, &all(&model, *family));
                }
            }
        }
    }
    assert!(agreed > 100_000);
}
