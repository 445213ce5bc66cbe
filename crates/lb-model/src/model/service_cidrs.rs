//! The ranges from which ClusterIPs are taken.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use crate::frontend::Family;
use crate::model::Complaint;
use crate::model::door::Door;
use crate::said::ServiceCidr;

/// Ranges of one object; the API allows one for each family.
const MAX_CIDRS: usize = 16;

/// What the ServiceCIDR objects say.
#[derive(Debug, Default)]
pub(super) struct ServiceCidrs {
    /// By name; `true`: named since the list began.
    objects: BTreeMap<String, (bool, Vec<IpNetwork>)>,
    listing: bool,
}

impl ServiceCidrs {
    pub(super) fn list_begins(&mut self) {
        self.listing = true;
        for (named, _) in self.objects.values_mut() {
            *named = false;
        }
    }

    pub(super) fn put(&mut self, said: &ServiceCidr, complaints: &mut Vec<Complaint>) {
        let mut door = Door::new("ServiceCIDR", "", &said.name, complaints);
        let list = door.bounded("spec.cidrs", &said.cidrs, MAX_CIDRS, "at most 16");
        let mut cidrs = Vec::new();
        for (i, text) in list.iter().enumerate() {
            cidrs.extend(door.network(format_args!("spec.cidrs[{i}]"), text));
        }
        self.objects.insert(said.name.clone(), (true, cidrs));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.objects.remove(name);
    }

    pub(super) fn list_ends(&mut self) {
        if std::mem::take(&mut self.listing) {
            self.objects.retain(|_, (named, _)| *named);
        }
    }

    /// Those of `family`, sorted, none inside another.
    pub(super) fn of(&self, family: Family) -> Vec<IpNetwork> {
        let all = self.objects.values().flat_map(|(_, cidrs)| cidrs);
        let own = all.filter(|cidr| Family::of(cidr.ip()) == family);
        let mut sorted: Vec<IpNetwork> = own.copied().collect();
        sorted.sort_unstable_by_key(|cidr| (cidr.network(), cidr.prefix()));
        let mut kept: Vec<IpNetwork> = Vec::with_capacity(sorted.len());
        for cidr in sorted {
            if kept
                .last()
                .is_none_or(|last| !last.contains(cidr.network()))
            {
                kept.push(cidr);
            }
        }
        kept
    }
}
