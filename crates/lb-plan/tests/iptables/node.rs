//! A node in memory: its tables, and what the proxy knows of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_model::{Family, Model, ServiceName};
use lb_plan::iptables::{
    Applied, Listing, NodePortAddresses, Restore, ServiceRules, Settings, VirtualTables,
};

pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) tables: VirtualTables,
    pub(crate) applied: Applied,
    /// Endpoints' rules without words.
    pub(crate) large: bool,
}

/// As `model` has them; node ports at `addresses`, or everywhere.
pub(crate) fn settings(
    model: &Model,
    family: Family,
    addresses: Option<&BTreeSet<IpAddr>>,
) -> Settings {
    Settings {
        family,
        masquerade_bit: 14,
        detector: model.local_detector(family),
        node_port_addresses: addresses.map_or(NodePortAddresses::EveryLocal, |addresses| {
            NodePortAddresses::These(addresses.clone())
        }),
        localhost_node_ports: true,
        tcp_be_liberal: false,
        counters: false,
    }
}

impl Node {
    /// Nothing there yet.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            tables: VirtualTables::default(),
            applied: Applied::default(),
            large: false,
        }
    }

    pub(crate) fn rules(&self, model: &Model, service: &ServiceName) -> ServiceRules {
        let family = self.settings.family;
        let ports = model.ports(service, family);
        let health = model.health_check_port(service, family);
        ServiceRules::new(&self.settings, self.large, service, &ports, health)
    }

    /// Everything that the model says; gives the input.
    pub(crate) fn full(&mut self, model: &Model) -> String {
        let mut found = Listing::default();
        self.tables.save().lines().for_each(|line| found.line(line));
        let mut restore = Restore::full(&self.settings, &found);
        for service in model.services() {
            restore.add(service, self.rules(model, service));
        }
        let input = restore.finish();
        let text = input.text.clone();
        self.tables.restore(&text).unwrap();
        input.commit(&self.settings, &mut self.applied);
        if let Some(leftovers) = self.applied.leftovers(&found) {
            self.tables.restore(&leftovers).unwrap();
        }
        text
    }

    /// What changed; gives the input.
    pub(crate) fn partial(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> String {
        let mut restore = Restore::partial(&self.settings, &self.applied);
        for service in services {
            restore.add(service, self.rules(model, service));
        }
        let input = restore.finish();
        let text = input.text.clone();
        self.tables
            .restore(&text)
            .unwrap_or_else(|e| panic!("{e} of\n{text}"));
        assert_eq!(input.lines(), text.lines().count());
        input.commit(&self.settings, &mut self.applied);
        text
    }

    pub(crate) fn listing(&self) -> Listing {
        let mut listing = Listing::default();
        self.tables
            .save()
            .lines()
            .for_each(|line| listing.line(line));
        listing
    }

    /// Everything there, whatever the order in chains that all Services share and in those that
    /// choose an endpoint; there the chance of each depends on it.
    pub(crate) fn regardless_of_order(&self) -> Vec<String> {
        const UNORDERED: [&str; 6] = [
            "-A KUBE-SERVICES ",
            "-A KUBE-NODEPORTS ",
            "-A KUBE-EXTERNAL-SERVICES ",
            "-A KUBE-PROXY-FIREWALL ",
            "-A KUBE-SVC-",
            "-A KUBE-SVL-",
        ];
        let saved = self.tables.save();
        let mut table = String::new();
        let mut lines: Vec<String> = Vec::new();
        for (number, line) in saved.lines().enumerate() {
            if line.starts_with('*') {
                table = line.to_owned();
            }
            let unordered = UNORDERED.iter().any(|chain| line.starts_with(chain));
            let place = if unordered {
                String::new()
            } else {
                format!("{number:06}")
            };
            let line = match line.split_once("-m statistic --mode random --probability ") {
                Some((before, after)) => {
                    let (_, after) = after.split_once(' ').unwrap();
                    format!("{before}{after}")
                }
                None => line.to_owned(),
            };
            lines.push(format!("{table} {place} {line}"));
        }
        lines.sort();
        lines
    }
}
