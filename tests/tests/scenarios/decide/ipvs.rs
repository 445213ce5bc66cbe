//! The IPVS data plane in memory: the rules, and the virtual services that these leave packets to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_model::{Family, Packet, ServiceName};
use lb_plan::ipvs::{self, Applied, Key, Operation, VirtualIpvs};
use lb_plan::nftables::{Affinity, Balancer, Settings};

use super::{Decided, Nftables, decided, node_port_addresses, own_addresses};
use crate::world::World;

/// Both families.
#[derive(Default)]
pub(super) struct Ipvs(BTreeMap<Family, Node>);

struct Node {
    rules: Nftables,
    settings: ipvs::Settings,
    applied: Applied,
    kernel: VirtualIpvs,
}

impl Ipvs {
    /// Brings it to what `world` says: everything under new settings, else what `changed`.
    pub(super) fn follow(&mut self, world: &World, changed: &BTreeSet<ServiceName>) {
        let own: BTreeSet<IpAddr> = own_addresses().into();
        for told in world.plane_settings(&node_port_addresses(world)) {
            let family = told.family;
            let rules = Settings {
                balancer: Balancer::Ipvs { own: own.clone() },
                ..told.into()
            };
            match self.0.get_mut(&family) {
                Some(node) if node.rules.settings == rules => node.go(world, changed),
                _ => {
                    let mut node = Node::new(rules, own.clone());
                    node.go(world, &world.model.services().cloned().collect());
                    self.0.insert(family, node);
                }
            }
        }
    }

    /// Whether no Service has left anything.
    pub(super) fn is_empty(&self) -> bool {
        let mut nodes = self.0.values();
        nodes.all(|node| node.applied.is_empty() && node.rules.is_empty())
    }

    /// What becomes of `packet`, and whether its sender is remembered.
    pub(super) fn walk(&self, packet: &Packet) -> (Decided, bool) {
        let node = &self.0[&Family::of(packet.destination)];
        let (rules, own) = (&node.rules.kernel, &node.settings.own);
        let affinity = Affinity::default();
        // A process of the node asks from the very address, which is the node's.
        let local = packet.interface.is_none() && node.kernel.bound().contains(&packet.destination);
        let packet = &Packet {
            source: if local {
                packet.destination
            } else {
                packet.source
            },
            ..packet.clone()
        };
        decided(ipvs::walk(rules, &node.kernel, own, packet, &affinity))
    }
}

impl Node {
    fn new(rules: Settings, own: BTreeSet<IpAddr>) -> Self {
        Self {
            settings: ipvs::Settings {
                family: rules.family,
                scheduler: "rr".to_owned(),
                node_port_addresses: rules.node_port_addresses.clone(),
                own,
            },
            rules: Nftables::new(rules),
            applied: Applied::default(),
            kernel: VirtualIpvs::default(),
        }
    }

    fn go(&mut self, world: &World, services: &BTreeSet<ServiceName>) {
        for service in services {
            let frontends = world.model.frontends(service, self.settings.family);
            let serving = |address: &_| world.model.serving(address).unwrap_or_default();
            let operations = self
                .applied
                .plan(service, &frontends, serving, &self.settings);
            self.perform(operations);
        }
        self.perform(self.applied.bindings(&self.settings));
        self.rules.go(world, services);
        let operations = self.applied.retire(|_| false);
        self.perform(operations);
        let draining: Vec<Key> = self.applied.draining().collect();
        for key in draining {
            self.perform(self.applied.drained(key, |_| true));
        }
        self.perform(self.applied.bindings(&self.settings));
    }

    fn perform(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            self.kernel.apply(&operation).unwrap();
            self.applied.commit(&operation);
        }
    }
}
