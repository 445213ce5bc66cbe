//! A node in memory: the kernel, and what the proxy knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use lb_model::{Family, Frontend, LocalDetector, Packet, ServiceName};
use lb_plan::nftables::{
    Affinity, Applied, Balancer, Operation, Pass, Refusal, Settings, Step, Verdict, VirtualKernel,
    skeleton,
};

use crate::cluster::{Cluster, Expected, NODE, v4};

pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) kernel: VirtualKernel,
    pub(crate) applied: Applied,
}

pub(crate) fn settings(detector: LocalDetector) -> Settings {
    Settings {
        family: Family::V4,
        masquerade_bit: 14,
        detector,
        node_port_addresses: BTreeSet::from([v4(NODE)]),
        service_cidrs: BTreeSet::new(),
        balancer: Balancer::Rules,
    }
}

impl Node {
    /// A node with the table but no Services.
    pub(crate) fn new(settings: Settings) -> Self {
        let mut kernel = VirtualKernel::new(settings.family);
        kernel.apply(&skeleton(&settings)).unwrap();
        let mut applied = Applied::default();
        let addresses = settings.node_port_address_changes(applied.node_port_addresses());
        kernel.apply(&addresses).unwrap();
        applied.set_addresses(&settings);
        Self {
            settings,
            kernel,
            applied,
        }
    }

    /// A node with all of `cluster`.
    pub(crate) fn with(settings: Settings, cluster: &Cluster) -> Self {
        let mut node = Self::new(settings);
        node.go_to(cluster, true, |_, _| {});
        node
    }

    /// What a restarted proxy makes of the kernel as it is.
    pub(crate) fn restart(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            kernel: self.kernel.clone(),
            applied: Applied::adopt(self.kernel.found()).unwrap(),
        }
    }

    /// Brings the kernel to `cluster`, calling `after` after each step. Gives the operations.
    pub(crate) fn go_to(
        &mut self,
        cluster: &Cluster,
        all: bool,
        after: impl FnMut(&VirtualKernel, &Step),
    ) -> Vec<Operation> {
        let (operations, failed) = self.try_to(cluster, all, |_| true, after);
        assert_eq!(failed, BTreeSet::new());
        operations
    }

    /// As [`Node::go_to`], but only the steps that `lucky` picks are applied. Gives the operations
    /// that were, and the Services that failed.
    pub(crate) fn try_to(
        &mut self,
        cluster: &Cluster,
        all: bool,
        mut lucky: impl FnMut(&Step) -> bool,
        mut after: impl FnMut(&VirtualKernel, &Step),
    ) -> (Vec<Operation>, BTreeSet<Option<ServiceName>>) {
        let mut pass = Pass::new(&mut self.applied, &self.settings);
        let mut done = Vec::new();
        let mut failed = BTreeSet::new();
        for (service, frontends) in cluster {
            pass.claim(service, frontends);
        }
        let mut steps = Vec::new();
        for (service, frontends) in cluster {
            steps.extend(pass.plan(service, frontends));
        }
        if all {
            steps.extend(pass.prune());
        }
        let mut perform = |pass: &mut Pass, step: Step| {
            if pass.lacks(&step) || !lucky(&step) {
                failed.insert(step.service.clone());
                pass.fail(&step);
                return;
            }
            apply(&mut self.kernel, &step.operations).unwrap();
            after(&self.kernel, &step);
            done.extend(step.operations.iter().cloned());
            pass.commit(step);
        };
        for step in steps {
            perform(&mut pass, step);
        }
        if let Some(step) = pass.sweep() {
            perform(&mut pass, step);
        }
        (done, failed)
    }
}

fn apply(kernel: &mut VirtualKernel, operations: &[Operation]) -> Result<(), (Refusal, String)> {
    let text = || lb_plan::nftables::render(Family::V4, operations);
    kernel
        .apply(operations)
        .map_err(|refusal| (refusal, text()))
}

/// Only the Services of `new` that differ from `old`, as a change tracker would name them.
pub(crate) fn changed(old: &Cluster, new: &Cluster) -> Cluster {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), Vec::new()));
    let changed = new
        .iter()
        .filter(|(name, frontends)| old.get(*name) != Some(*frontends));
    let changed =
        changed.map(|(name, frontends): (_, &Vec<Frontend>)| (name.clone(), frontends.clone()));
    gone.chain(changed).collect::<BTreeMap<_, _>>()
}

/// What the kernel does with `packet`, in the words of the expectation.
pub(crate) fn verdict(kernel: &VirtualKernel, packet: &Packet) -> Expected {
    match kernel.walk(packet, &Affinity::default()) {
        Verdict::Translated {
            targets,
            masquerade,
            hairpin,
            remembered,
        } => {
            let candidates: BTreeSet<_> = targets.iter().map(|t| (t.ip, t.port)).collect();
            assert_eq!(
                candidates.len(),
                targets.len(),
                "an endpoint sits in two slots"
            );
            let hairpin = hairpin.iter().map(|t| (t.ip, t.port)).collect();
            let remembered: Option<NonZeroU32> = remembered;
            Expected::Endpoints {
                candidates,
                masquerade,
                hairpin,
                remembered,
            }
        }
        Verdict::Reject => Expected::Reject,
        Verdict::Drop => Expected::Drop,
        Verdict::Untouched => Expected::NotOurs,
        Verdict::Balanced { .. } => panic!("the rules choose here"),
    }
}
