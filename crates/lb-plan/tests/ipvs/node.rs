//! A node in memory: rules, virtual services, and what the proxy knows of both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_model::{Family, Frontend, LocalDetector, Packet, ServiceName};
use lb_plan::ipvs::{self, Key, Operation, VirtualIpvs};
use lb_plan::nftables::{
    self, Affinity, Balancer, Pass, Step, Target, Verdict, VirtualKernel, skeleton,
};

/// The frontends of Services.
pub(crate) type Cluster = BTreeMap<ServiceName, Vec<Frontend>>;

pub(crate) struct Node {
    pub(crate) settings: ipvs::Settings,
    rules: nftables::Settings,
    pub(crate) kernel: VirtualKernel,
    pub(crate) ipvs: VirtualIpvs,
    in_rules: nftables::Applied,
    pub(crate) applied: ipvs::Applied,
    /// Services whose rules are not changed.
    pub(crate) held: BTreeSet<ServiceName>,
    /// Endpoints that still serve, chosen or not.
    pub(crate) serving: BTreeSet<IpAddr>,
    /// Destinations with connections.
    pub(crate) busy: BTreeSet<(Key, Target)>,
}

impl Node {
    pub(crate) fn new(family: Family, detector: LocalDetector, own: &BTreeSet<IpAddr>) -> Self {
        let rules = nftables::Settings {
            family,
            masquerade_bit: 14,
            detector,
            node_port_addresses: own.clone(),
            service_cidrs: BTreeSet::new(),
            balancer: Balancer::Ipvs { own: own.clone() },
        };
        let mut kernel = VirtualKernel::new(family);
        kernel.apply(&skeleton(&rules)).unwrap();
        let mut in_rules = nftables::Applied::default();
        let addresses = rules.node_port_address_changes(in_rules.node_port_addresses());
        kernel.apply(&addresses).unwrap();
        in_rules.set_addresses(&rules);
        Self {
            settings: ipvs::Settings {
                family,
                scheduler: "rr".to_owned(),
                node_port_addresses: own.clone(),
                own: own.clone(),
            },
            rules,
            kernel,
            ipvs: VirtualIpvs::default(),
            in_rules,
            applied: ipvs::Applied::default(),
            held: BTreeSet::new(),
            serving: BTreeSet::new(),
            busy: BTreeSet::new(),
        }
    }

    /// Whether it would be told to have another table.
    pub(crate) fn has(&self, detector: &LocalDetector) -> bool {
        self.rules.detector == *detector
    }

    /// Brings the kernel to `cluster`, as the daemon does it; gives what IPVS was asked for. `after`
    /// sees the node after each step.
    pub(crate) fn go_to(
        &mut self,
        cluster: &Cluster,
        mut after: impl FnMut(&Self),
    ) -> Vec<Operation> {
        let mut done = Vec::new();
        for (service, frontends) in cluster {
            let serving = |_: &_| self.serving.iter().copied().collect();
            let operations = self
                .applied
                .plan(service, frontends, serving, &self.settings);
            self.perform(operations, &mut done);
        }
        let operations = self.applied.bindings(&self.settings);
        self.perform(operations, &mut done);
        after(self);
        let mut steps = Vec::new();
        let settings = self.rules.clone();
        let mut in_rules = std::mem::take(&mut self.in_rules);
        let mut pass = Pass::new(&mut in_rules, &settings);
        let changed = cluster
            .iter()
            .filter(|(name, _)| !self.held.contains(*name));
        for (service, frontends) in changed.clone() {
            pass.claim(service, frontends);
        }
        for (service, frontends) in changed {
            steps.extend(pass.plan(service, frontends));
        }
        let mut commit = |node: &mut Self, pass: &mut Pass, step: Step| {
            node.kernel.apply(&step.operations).unwrap();
            after(node);
            pass.commit(step);
        };
        for step in steps {
            commit(self, &mut pass, step);
        }
        if let Some(step) = pass.sweep() {
            commit(self, &mut pass, step);
        }
        self.in_rules = in_rules;
        let operations = self.applied.retire(|service| self.held.contains(service));
        self.perform(operations, &mut done);
        let draining: Vec<Key> = self.applied.draining().collect();
        for key in draining {
            let idle = |target: &Target| !self.busy.contains(&(key, *target));
            let operations = self.applied.drained(key, idle);
            self.perform(operations, &mut done);
        }
        let operations = self.applied.bindings(&self.settings);
        self.perform(operations, &mut done);
        after(self);
        done
    }

    fn perform(&mut self, operations: Vec<Operation>, done: &mut Vec<Operation>) {
        for operation in operations {
            self.ipvs.apply(&operation).unwrap();
            self.applied.commit(&operation);
            done.push(operation);
        }
    }

    pub(crate) fn walk(&self, packet: &Packet) -> Verdict {
        let (own, affinity) = (&self.settings.own, Affinity::default());
        ipvs::walk(&self.kernel, &self.ipvs, own, packet, &affinity)
    }
}
