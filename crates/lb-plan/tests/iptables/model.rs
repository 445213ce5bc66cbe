//! The rules do with every packet what the model says, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_model::generate::Cluster as Generated;
use lb_model::{Family, FrontendAddress, Model, Packet, Route};
use lb_plan::iptables::{Noted, Verdict};

use crate::node::{Node, settings};

/// What kube-proxy's iptables mode does not do: reject a port that a ClusterIP does not have.
fn is_undefined_port(model: &Model, packet: &Packet) -> bool {
    let ip = packet.destination;
    let vip = FrontendAddress::Vip {
        ip,
        protocol: packet.protocol,
        port: packet.port,
    };
    model.is_live_cluster_ip(ip) && model.frontend(&vip).is_none()
}

/// Whether the node does with `packet` what the model says.
#[track_caller]
fn agree(node: &Node, model: &Model, packet: &Packet) {
    let route = model.route_packet(packet);
    let verdict = node.tables.walk(packet, &Noted::new());
    match (&route, &verdict) {
        (Route::Reject, Verdict::Reject)
        | (Route::Drop, Verdict::Drop)
        | (Route::NotOurs, Verdict::Untouched) => {}
        (Route::Reject, Verdict::Untouched) if is_undefined_port(model, packet) => {}
        (Route::Endpoints { candidates, .. }, Verdict::Translated(ways)) => {
            let found: BTreeSet<SocketAddr> = ways.iter().map(|way| way.to).collect();
            let at = |e: &lb_model::Endpoint| SocketAddr::new(e.ip, e.port);
            assert_eq!(found, candidates.iter().map(at).collect(), "{packet:?}");
            assert_eq!(ways.len(), candidates.len(), "{packet:?}");
            for way in ways {
                let fair = 1.0 / f64::from(u32::try_from(ways.len()).unwrap());
                assert!((way.chance - fair).abs() < 1e-6, "{ways:?}");
            }
            for endpoint in candidates {
                let way = ways.iter().find(|way| way.to == at(endpoint)).unwrap();
                // Every endpoint's own address is marked, wherever the endpoint is: another node's
                // pod cannot come this way.
                let itself = endpoint.ip == packet.source;
                assert_eq!(
                    way.masquerade,
                    route.masqueraded_to(endpoint, packet.source) || itself,
                    "{packet:?} to {endpoint:?}"
                );
            }
        }
        _ => panic!(
            "{packet:?}: the model says {route:?}, the rules do {verdict:?}\n{}",
            node.tables.save()
        ),
    }
}

/// The settings of both families.
fn nodes(model: &Model, addresses: Option<&BTreeSet<IpAddr>>) -> BTreeMap<Family, Node> {
    Family::ALL
        .into_iter()
        .map(|family| {
            let mut node = Node::new(settings(model, family, addresses));
            node.full(model);
            (family, node)
        })
        .collect()
}

#[test]
fn the_rules_do_what_the_model_says() {
    let mut agreed = 0;
    for seed in 0..40 {
        let mut generated = Generated::new(seed, 12);
        let mut model = Model::new(generated.config.clone());
        for event in generated.events() {
            model.apply(event);
        }
        model.take_changes();
        let mut packets: Vec<Packet> = (0..200).map(|_| generated.packet()).collect();
        let ports = packets
            .iter()
            .filter(|packet| packet.destination_is_node_port_address);
        let mut addresses: BTreeSet<IpAddr> = ports.map(|p| p.destination).collect();
        if seed % 5 == 0 {
            addresses.clear();
        }
        for packet in &mut packets {
            packet.destination_is_node_port_address = addresses.contains(&packet.destination);
            // What the node sends is from an address of its own.
            packet.source_is_node |= packet.interface.is_none();
        }
        let named = (seed % 2 == 0).then_some(&addresses);
        let mut nodes = nodes(&model, named);
        for _ in 0..12 {
            for packet in &packets {
                agree(&nodes[&Family::of(packet.destination)], &model, packet);
                agreed += 1;
            }
            for _ in 0..3 {
                model.apply(generated.change());
            }
            let changes = model.take_changes();
            for (family, node) in &mut nodes {
                let settings = settings(&model, *family, named);
                if settings == node.settings {
                    node.partial(&model, &changes.services);
                } else {
                    node.settings = settings;
                    node.full(&model);
                }
                assert!(node.applied.is_in(&node.settings, &node.listing()));
            }
        }
        for (family, node) in nodes {
            let mut fresh = Node::new(settings(&model, family, named));
            fresh.full(&model);
            assert_eq!(node.regardless_of_order(), fresh.regardless_of_order());
        }
    }
    assert!(agreed > 50_000);
}
