//! The own Node as it is kept.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::frontend::Family;
use crate::model::door::Door;
use crate::said;

/// Pod CIDRs and addresses of one Node, each.
const MAX_ENTRIES: usize = 64;

/// The own Node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Empty: none.
    pub(super) zone: Box<str>,
    pub(super) pod_cidrs: Vec<IpNetwork>,
    addresses: Vec<IpAddr>,
    /// Neither being deleted nor about to be removed by the autoscaler.
    pub(super) staying: bool,
}

impl Node {
    pub(super) fn read(said: &said::Node, door: &mut Door<'_>) -> Self {
        let mut pod_cidrs = Vec::new();
        let list = door.bounded("spec.podCIDRs", &said.pod_cidrs, MAX_ENTRIES, "at most 64");
        for (i, text) in list.iter().enumerate() {
            pod_cidrs.extend(door.network(format_args!("spec.podCIDRs[{i}]"), text));
        }
        let mut addresses = Vec::new();
        let list = door.bounded(
            "status.addresses",
            &said.addresses,
            MAX_ENTRIES,
            "at most 64",
        );
        for (i, text) in list.iter().enumerate() {
            addresses.extend(door.address(format_args!("status.addresses[{i}]"), text));
        }
        let field = format_args!("metadata.labels[topology.kubernetes.io/zone]");
        let zone = door.label(field, &said.zone).unwrap_or_default();
        Self {
            zone,
            pod_cidrs,
            addresses,
            staying: !said.deleting && !said.to_be_deleted,
        }
    }

    /// The node's own address in `family`: the first one that its status names.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
    }
}
