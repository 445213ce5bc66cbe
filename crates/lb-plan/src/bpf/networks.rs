//! Maps of networks: whose longest prefix says what an address is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use causeway_ebpf_abi::{PodNetwork, UNSERVED_DROPPED, UNSERVED_LEFT, UNSERVED_REFUSED};
use ipnetwork::IpNetwork;
use lb_model::{Frontend, FrontendAddress, FrontendKind, ServiceName};

use super::wanted::address;

/// A network as a key has it: IPv4 is inside `::ffff:0:0/96`.
pub fn network(network: IpNetwork) -> PodNetwork {
    let shift = match network {
        IpNetwork::V4(_) => 96,
        IpNetwork::V6(_) => 0,
    };
    PodNetwork {
        length: u32::from(network.prefix()) + shift,
        address: address(network.network()),
    }
}

/// What becomes of what aims at Services' addresses and at no frontend.
///
/// An address that several Services had after one another is refused as long as any of them has
/// it.
#[derive(Debug, Default)]
pub struct Unserved {
    cluster_ips: HashMap<ServiceName, BTreeSet<IpAddr>>,
    /// Services whose frontends are not in the maps.
    left: BTreeSet<ServiceName>,
    users: HashMap<IpAddr, Users>,
    cidrs: BTreeSet<IpNetwork>,
    /// What the map shall have.
    wanted: BTreeMap<PodNetwork, u32>,
    /// What it has.
    applied: BTreeMap<PodNetwork, u32>,
    /// Where the two may differ.
    touched: BTreeSet<PodNetwork>,
}

/// How many Services have an address.
#[derive(Clone, Copy, Debug, Default)]
struct Users {
    all: usize,
    /// Those of them that are left.
    left: usize,
}

/// What a network shall be in the map; `None`: not there.
pub type Change = (PodNetwork, Option<u32>);

impl Unserved {
    /// The map's entries when the daemon started: those that are not wanted go once everything was
    /// said.
    pub fn adopt(found: impl IntoIterator<Item = (PodNetwork, u32)>) -> Self {
        let applied: BTreeMap<_, _> = found.into_iter().collect();
        Self {
            touched: applied.keys().copied().collect(),
            applied,
            ..Self::default()
        }
    }

    /// `service` has these frontends now.
    pub fn set<'a>(
        &mut self,
        service: &ServiceName,
        frontends: impl Iterator<Item = &'a Frontend>,
    ) {
        let new: BTreeSet<IpAddr> = frontends.filter_map(cluster_ip).collect();
        let old = self.cluster_ips.remove(service).unwrap_or_default();
        let was_left = self.left.remove(service);
        for ip in &new {
            self.users.entry(*ip).or_default().all += 1;
        }
        for ip in &old {
            let users = self.users.entry(*ip).or_default();
            users.all -= 1;
            users.left -= usize::from(was_left);
        }
        for ip in old.union(&new) {
            self.settle(*ip);
        }
        if !new.is_empty() {
            self.cluster_ips.insert(service.clone(), new);
        }
    }

    /// The frontends of `service` could not be written, and another data plane has them.
    pub fn leave(&mut self, service: &ServiceName) {
        let ips = self.cluster_ips.get(service).cloned().unwrap_or_default();
        if !ips.is_empty() && self.left.insert(service.clone()) {
            for ip in ips {
                self.users.entry(ip).or_default().left += 1;
                self.settle(ip);
            }
        }
    }

    /// ClusterIPs are taken from these networks now.
    pub fn set_cidrs(&mut self, cidrs: BTreeSet<IpNetwork>) {
        for cidr in self.cidrs.symmetric_difference(&cidrs) {
            let key = network(*cidr);
            if cidrs.contains(cidr) {
                self.wanted.insert(key, UNSERVED_DROPPED);
            } else {
                self.wanted.remove(&key);
            }
            self.touched.insert(key);
        }
        self.cidrs = cidrs;
    }

    /// What is to be written, what is new first.
    pub fn changes(&self) -> Vec<Change> {
        let touched = self.touched.iter();
        let mut changes: Vec<Change> = touched
            .filter(|key| self.wanted.get(key) != self.applied.get(key))
            .map(|key| (*key, self.wanted.get(key).copied()))
            .collect();
        changes.sort_by_key(|(_, wanted)| wanted.is_none());
        changes
    }

    /// The networks that are in the map.
    pub fn networks(&self) -> impl Iterator<Item = &PodNetwork> {
        self.applied.keys()
    }

    /// All of [`Unserved::changes`] is in the map.
    pub fn commit(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            match self.wanted.get(&key) {
                Some(wanted) => self.applied.insert(key, *wanted),
                None => self.applied.remove(&key),
            };
        }
    }

    fn settle(&mut self, ip: IpAddr) {
        let key = network(IpNetwork::from(ip));
        match self.users.get(&ip).copied().unwrap_or_default() {
            Users { all: 0, .. } => {
                self.users.remove(&ip);
                self.wanted.remove(&key);
            }
            Users { left: 0, .. } => {
                self.wanted.insert(key, UNSERVED_REFUSED);
            }
            _ => {
                self.wanted.insert(key, UNSERVED_LEFT);
            }
        }
        self.touched.insert(key);
    }
}

fn cluster_ip(frontend: &Frontend) -> Option<IpAddr> {
    match (frontend.kind, frontend.address) {
        (FrontendKind::ClusterIp, FrontendAddress::Vip { ip, .. }) => Some(ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lb_model::{Protocol, Treatment};

    use super::*;

    fn at(kind: FrontendKind, ip: &str) -> Frontend {
        Frontend {
            address: FrontendAddress::Vip {
                ip: ip.parse().unwrap(),
                protocol: Protocol::Tcp,
                port: 80,
            },
            kind,
            affinity: None,
            allowed_sources: None,
            treatment: Treatment::Reject,
        }
    }

    fn key(text: &str) -> PodNetwork {
        network(text.parse().unwrap())
    }

    fn changes(unserved: &mut Unserved) -> Vec<Change> {
        let changes = unserved.changes();
        unserved.commit();
        changes
    }

    #[test]
    fn ipv4_counts_from_96() {
        assert_eq!(key("10.96.0.0/12").length, 108);
        assert_eq!(key("10.96.0.0/12"), key("10.97.3.4/12"));
        assert_eq!(key("fd00::/64").length, 64);
    }

    #[test]
    fn an_address_is_refused_while_anybody_has_it() {
        let mut unserved = Unserved::default();
        let [a, b] = ["a", "b"].map(|name| ServiceName::new("default", name));
        let ours = [
            at(FrontendKind::ClusterIp, "10.96.0.1"),
            at(FrontendKind::ExternalIp, "203.0.113.1"),
        ];
        unserved.set(&a, ours.iter());
        assert_eq!(changes(&mut unserved), [(key("10.96.0.1/32"), Some(1))]);
        unserved.set(&b, ours.iter());
        unserved.set(&a, [].iter());
        assert_eq!(changes(&mut unserved), []);
        unserved.set(&b, ours.iter());
        assert_eq!(changes(&mut unserved), []);
        unserved.set(&b, [].iter());
        assert_eq!(changes(&mut unserved), [(key("10.96.0.1/32"), None)]);
    }

    #[test]
    fn an_address_is_left_while_a_service_of_it_is() {
        let mut unserved = Unserved::default();
        let [a, b] = ["a", "b"].map(|name| ServiceName::new("default", name));
        let ours = [at(FrontendKind::ClusterIp, "10.96.0.1")];
        let key = key("10.96.0.1/32");
        unserved.set(&a, ours.iter());
        unserved.leave(&a);
        unserved.leave(&a);
        assert_eq!(changes(&mut unserved), [(key, Some(UNSERVED_LEFT))]);
        unserved.set(&b, ours.iter());
        assert_eq!(changes(&mut unserved), []);
        // It is tried again with each look, and fails again.
        unserved.set(&a, ours.iter());
        unserved.leave(&a);
        assert_eq!(changes(&mut unserved), []);
        unserved.set(&a, ours.iter());
        assert_eq!(changes(&mut unserved), [(key, Some(UNSERVED_REFUSED))]);
        unserved.leave(&a);
        unserved.set(&a, [].iter());
        assert_eq!(changes(&mut unserved), []);
        unserved.set(&b, [].iter());
        assert_eq!(changes(&mut unserved), [(key, None)]);
    }

    #[test]
    fn networks_come_and_go_and_leftovers_go_last() {
        let mut unserved = Unserved::adopt([
            (key("10.0.0.0/8"), 2),
            (key("10.96.0.0/16"), 2),
            (key("10.97.0.0/16"), 1),
        ]);
        let cidrs = ["10.96.0.0/16", "10.97.0.0/16"];
        unserved.set_cidrs(cidrs.map(|cidr| cidr.parse().unwrap()).into());
        assert_eq!(
            changes(&mut unserved),
            [(key("10.97.0.0/16"), Some(2)), (key("10.0.0.0/8"), None)]
        );
        unserved.set_cidrs(["10.96.0.0/16".parse().unwrap()].into());
        assert_eq!(changes(&mut unserved), [(key("10.97.0.0/16"), None)]);
        unserved.set_cidrs(BTreeSet::new());
        assert_eq!(changes(&mut unserved), [(key("10.96.0.0/16"), None)]);
    }
}
