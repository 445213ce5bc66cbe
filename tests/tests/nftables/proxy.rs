//! The nftables data plane as these tests start it.

use std::collections::BTreeSet;

use causeway_proxy::backend::{NftablesBackend, Settings};
use causeway_tests::packet_bed::Bed;
use lb_model::Family;
use lb_plan::nftables::Balancer;
use nodekit::faulty::Faults;

use crate::world::{Proxy, World};

impl World {
    /// What the table of `family` depends on.
    pub(crate) fn settings(&self, bed: &Bed, family: Family) -> Settings {
        Settings {
            family,
            masquerade_bit: 14,
            detector: self.model.local_detector(family),
            node_port_addresses: BTreeSet::from([bed.node.ip(family)]),
            service_cidrs: self.model.service_cidrs(family).into_iter().collect(),
            balancer: Balancer::Rules,
        }
    }

    fn all_settings(&self, bed: &Bed) -> Vec<Settings> {
        Family::ALL
            .map(|family| self.settings(bed, family))
            .to_vec()
    }
}

impl<'a> Proxy<'a, NftablesBackend> {
    pub(crate) fn start(bed: &'a Bed, world: &World) -> Self {
        let settings = world.all_settings(bed);
        let open = || NftablesBackend::open(settings);
        Self::over(bed, bed.node.netns.run(open).unwrap().unwrap())
    }

    /// With a kernel that fails as `faults` says; `None` if it fails already.
    pub(crate) fn start_faulty(bed: &'a Bed, world: &World, faults: &Faults) -> Option<Self> {
        let settings = world.all_settings(bed);
        let open = || NftablesBackend::with_faults(settings, faults.clone());
        Some(Self::over(bed, bed.node.netns.run(open).unwrap().ok()?))
    }
}
