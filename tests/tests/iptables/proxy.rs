//! The iptables data plane as these tests start it.

use std::collections::BTreeSet;
use std::process::Command;

use causeway_proxy::backend::{DataPlane, IptablesBackend, PlaneSettings};
use causeway_tests::packet_bed::Bed;
use lb_model::Family;
use nodekit::faulty::Faults;
use nodekit::xtables::{self, Variant, Xtables};

use crate::world::{Proxy, World};

/// Runs `test` with a bed of its own for either variant.
pub(crate) fn each_variant(test: impl Fn(&Bed, Variant)) {
    for variant in Variant::ALL {
        test(&Bed::new(), variant);
    }
}

impl World {
    pub(crate) fn settings(&self, bed: &Bed) -> Vec<PlaneSettings> {
        let settings = Family::ALL.map(|family| PlaneSettings {
            family,
            masquerade_bit: 14,
            detector: self.model.local_detector(family),
            node_port_addresses: BTreeSet::from([bed.node.ip(family)]),
            service_cidrs: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            localhost_node_ports: true,
            tcp_be_liberal: false,
        });
        settings.to_vec()
    }
}

impl<'a> Proxy<'a, IptablesBackend> {
    pub(crate) fn start(bed: &'a Bed, world: &World, variant: Variant) -> Self {
        let open = || IptablesBackend::of(variant, world.settings(bed)).unwrap();
        Self::over(bed, bed.node.netns.run(open).unwrap())
    }

    /// With programs that fail as `faults` says.
    pub(crate) fn start_faulty(
        bed: &'a Bed,
        world: &World,
        variant: Variant,
        faults: &Faults,
    ) -> Self {
        let open = || IptablesBackend::of(variant, world.settings(bed)).unwrap();
        let backend = bed.node.netns.run(open).unwrap();
        Self::over(bed, backend.with_faults(faults))
    }

    /// Whether somebody changed what is ours.
    pub(crate) fn drifted(&mut self, bed: &Bed) -> bool {
        bed.node
            .netns
            .run(|| self.backend.check())
            .unwrap()
            .unwrap()
    }
}

/// Every line of both families' listings that names a chain of kube-proxy's, without counters.
pub(crate) fn rules(bed: &Bed, variant: Variant) -> Vec<String> {
    let mut rules = Vec::new();
    for family in [xtables::Family::Ip, xtables::Family::Ip6] {
        let programs = Xtables::of(family, variant).unwrap();
        let mut keep = |line: &str| {
            let line = line.split(" [").next().unwrap_or(line);
            if line.contains("KUBE-") {
                rules.push(format!("{family:?} {line}"));
            }
        };
        bed.node
            .netns
            .run(|| programs.save(None, &mut keep))
            .unwrap()
            .unwrap();
    }
    rules
}

/// One of iptables' programs with these words on the node.
pub(crate) fn iptables(bed: &Bed, variant: Variant, words: &str) {
    for program in ["iptables", "ip6tables"] {
        let program = format!("{program}-{variant}");
        let run = || {
            Command::new(&program)
                .arg("-w")
                .args(words.split(' '))
                .output()
        };
        let output = bed.node.netns.run(run).unwrap().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {words}: {errors}");
    }
}

/// Removes all of it, as `--cleanup` does.
pub(crate) fn cleanup(bed: &Bed) {
    bed.node
        .netns
        .run(IptablesBackend::cleanup)
        .unwrap()
        .unwrap();
}
