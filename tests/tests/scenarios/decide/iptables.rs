//! The iptables data plane in memory.

use std::collections::{BTreeMap, BTreeSet};

use lb_model::{Family, Packet, ServiceName};
use lb_plan::iptables::{
    Applied, Listing, Noted, Restore, ServiceRules, Settings, Verdict, VirtualTables,
};

use super::{Decided, node_port_addresses};
use crate::world::World;

/// Both families, as far as they were ever asked for.
#[derive(Default)]
pub(super) struct Iptables(BTreeMap<Family, Node>);

struct Node {
    settings: Settings,
    applied: Applied,
    tables: VirtualTables,
}

impl Iptables {
    /// Brings the tables to what `world` says: everything under new settings, else what `changed`.
    pub(super) fn follow(&mut self, world: &World, changed: &BTreeSet<ServiceName>) {
        for settings in world.plane_settings(&node_port_addresses(world)) {
            let settings = Settings::from(&settings);
            let node = self.0.entry(settings.family).or_insert_with(|| Node {
                settings: settings.clone(),
                applied: Applied::default(),
                tables: VirtualTables::default(),
            });
            let fresh = node.settings != settings || node.tables == VirtualTables::default();
            node.settings = settings;
            let all: BTreeSet<ServiceName> = world.model.services().cloned().collect();
            node.go(world, fresh, if fresh { &all } else { changed });
        }
    }

    /// Whether no Service has left anything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.values().all(|node| node.applied.is_empty())
    }

    /// What becomes of `packet`, and whether its sender is remembered.
    pub(super) fn walk(&self, packet: &Packet) -> (Decided, bool) {
        let node = &self.0[&Family::of(packet.destination)];
        match node.tables.walk(packet, &Noted::new()) {
            Verdict::Reject => (Decided::Refused, false),
            Verdict::Drop => (Decided::Silence, false),
            Verdict::Untouched => (Decided::Untouched, false),
            Verdict::Translated(ways) => {
                let stays = ways.iter().all(|way| way.noted.is_some());
                let to = ways.into_iter();
                let to = to.map(|way| ((way.to.ip(), way.to.port()), way.masquerade));
                (Decided::Reaches(to.collect()), stays)
            }
        }
    }
}

impl Node {
    fn go(&mut self, world: &World, everything: bool, services: &BTreeSet<ServiceName>) {
        let mut found = Listing::default();
        self.tables.save().lines().for_each(|line| found.line(line));
        let mut restore = if everything {
            Restore::full(&self.settings, &found)
        } else {
            Restore::partial(&self.settings, &self.applied)
        };
        let family = self.settings.family;
        for service in services {
            let ports = world.model.ports(service, family);
            let health = world.model.health_check_port(service, family);
            let rules = ServiceRules::new(&self.settings, false, service, &ports, health);
            restore.add(service, rules);
        }
        let input = restore.finish();
        self.tables.restore(&input.text).unwrap();
        input.commit(&self.settings, &mut self.applied);
        if let Some(leftovers) = self.applied.leftovers(&found) {
            self.tables.restore(&leftovers).unwrap();
        }
    }
}
