//! What the kernel holds, as far as it was applied or read back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use lb_model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Protocol, ServiceName, Treatment,
};

use super::class::Class;
use super::element::{Element, Target};
use super::rule::Chain;
use super::settings::{Balancer, Settings};
use super::slots::{place, target};
use crate::ipvs;

/// One frontend as it is in the kernel.
#[derive(Clone, Debug)]
pub(super) struct AppliedFrontend {
    /// Whose it is; `None` after it was read back and until a Service claims it.
    pub(super) owner: Option<ServiceName>,
    pub(super) class: Class,
    /// Seconds that a client is remembered.
    pub(super) affinity: Option<NonZeroU32>,
    /// Its address is in the set of ClusterIPs on its account.
    pub(super) cluster_ip: bool,
    /// Addresses of this node's endpoints among those that IPVS chooses from. Unknown after it was
    /// read back.
    pub(super) balanced: Box<[IpAddr]>,
    /// By slot, from 0.
    pub(super) cluster: Box<[Endpoint]>,
    /// By slot, from [`super::LOCAL_SLOTS`].
    pub(super) local: Box<[Endpoint]>,
    /// Disjoint.
    pub(super) sources: Box<[IpNetwork]>,
}

impl AppliedFrontend {
    /// What `frontend` of `owner` shall be, with slots that move as little as possible.
    pub(super) fn settle(
        owner: &ServiceName,
        frontend: &Frontend,
        old: Option<&Self>,
        balancer: &Balancer,
    ) -> Self {
        if let Balancer::Ipvs { own } = balancer
            && let Some((endpoints, masquerade)) = ipvs::takes(frontend)
        {
            let class = Class::balanced(frontend, masquerade);
            return Self::balanced(owner, frontend, class, endpoints, own);
        }
        let (cluster, local): (&[Endpoint], &[Endpoint]) = match &frontend.treatment {
            Treatment::Forward { endpoints, .. } => (endpoints, &[]),
            Treatment::LocalOnly { cluster, local } => (cluster, local),
            Treatment::Reject | Treatment::Drop => (&[], &[]),
        };
        let cluster = place(old.map_or(&[], |old| &old.cluster), cluster);
        let local = place(old.map_or(&[], |old| &old.local), local);
        let class = Class::of(frontend, cluster.len(), local.len());
        Self {
            owner: Some(owner.clone()),
            class,
            affinity: frontend.affinity.filter(|_| class.affinity()),
            cluster_ip: frontend.kind == FrontendKind::ClusterIp,
            balanced: Box::default(),
            cluster,
            local,
            sources: sources_of(frontend, class),
        }
    }

    /// One whose endpoints IPVS has.
    fn balanced(
        owner: &ServiceName,
        frontend: &Frontend,
        class: Class,
        endpoints: &[Endpoint],
        own: &BTreeSet<IpAddr>,
    ) -> Self {
        let here = endpoints.iter().filter(|endpoint| endpoint.local);
        let balanced: BTreeSet<IpAddr> = here.map(|endpoint| endpoint.ip).collect();
        Self {
            owner: Some(owner.clone()),
            class,
            affinity: None,
            cluster_ip: match frontend.address {
                FrontendAddress::Vip { ip, .. } => !own.contains(&ip),
                FrontendAddress::NodePort { .. } => false,
            },
            balanced: balanced.into_iter().collect(),
            cluster: Box::default(),
            local: Box::default(),
            sources: sources_of(frontend, class),
        }
    }

    /// The same but for the owner.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.class == other.class
            && self.affinity == other.affinity
            && self.cluster_ip == other.cluster_ip
            && self.balanced == other.balanced
            && self.cluster == other.cluster
            && self.local == other.local
            && self.sources == other.sources
    }

    /// The same elements. (What else is known of an endpoint or of an address is not in them.)
    fn leads_where(&self, other: &Self) -> bool {
        let same = |ours: &[Endpoint], theirs: &[Endpoint]| {
            ours.iter().map(target).eq(theirs.iter().map(target))
        };
        self.class == other.class
            && self.affinity == other.affinity
            && same(&self.cluster, &other.cluster)
            && same(&self.local, &other.local)
            && self.sources.len() == other.sources.len()
            && self
                .sources
                .iter()
                .all(|range| other.sources.contains(range))
    }

    /// All endpoints; one that has a cluster and a local slot is named twice.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.cluster.iter().chain(&self.local)
    }

    /// The chains that its elements go to.
    pub(super) fn chains(&self) -> impl Iterator<Item = Chain> + use<> {
        [Chain::Class(self.class)]
            .into_iter()
            .chain(self.affinity.map(Chain::LearnFor))
    }

    /// Addresses that can meet themselves here.
    pub(super) fn hairpins(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.endpoints()
            .filter(|endpoint| endpoint.local)
            .map(|endpoint| endpoint.ip)
            .chain(self.balanced.iter().copied())
    }

    /// Whether a client may go on with `wanted`.
    pub(super) fn has(&self, wanted: Target) -> bool {
        self.endpoints().any(|endpoint| target(endpoint) == wanted)
    }
}

/// The ranges that may enter a frontend of `class`.
fn sources_of(frontend: &Frontend, class: Class) -> Box<[IpNetwork]> {
    match &frontend.allowed_sources {
        Some(sources) if class.restricted() => disjoint(frontend.address.family(), sources),
        _ => Box::default(),
    }
}

/// The ranges of `family` without those that lie in another: the kernel's set takes no overlap, and
/// of two prefixes that overlap one contains the other.
fn disjoint(family: Family, sources: &[IpNetwork]) -> Box<[IpNetwork]> {
    let mut sorted: Vec<IpNetwork> = sources
        .iter()
        .filter(|source| Family::of(source.ip()) == family)
        .filter_map(|source| IpNetwork::new(source.network(), source.prefix()).ok())
        .collect();
    sorted.sort_unstable_by_key(|source| (source.network(), source.prefix()));
    let mut kept: Vec<IpNetwork> = Vec::with_capacity(sorted.len());
    for source in sorted {
        if kept
            .last()
            .is_none_or(|last| !last.contains(source.network()))
        {
            kept.push(source);
        }
    }
    kept.into()
}

/// Things that several frontends lean on: whether the kernel has them, and for how many.
#[derive(Clone, Debug)]
pub(super) struct Shared<K>(HashMap<K, Count>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    present: bool,
    users: u32,
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash + Ord> Shared<K> {
    pub(super) fn present(&self, key: &K) -> bool {
        self.0.get(key).is_some_and(|count| count.present)
    }

    pub(super) fn users(&self, key: &K) -> u32 {
        self.0.get(key).map_or(0, |count| count.users)
    }

    /// Notes that the kernel has it now, or has it no more. Says whether that is new.
    pub(super) fn set_present(&mut self, key: K, present: bool) -> bool {
        let count = self.0.entry(key).or_default();
        let new = count.present != present;
        count.present = present;
        self.forget_if_nothing(key);
        new
    }

    pub(super) fn use_it(&mut self, key: K) {
        self.0.entry(key).or_default().users += 1;
    }

    pub(super) fn leave_it(&mut self, key: K) {
        if let Some(count) = self.0.get_mut(&key) {
            count.users = count.users.saturating_sub(1);
        }
        self.forget_if_nothing(key);
    }

    fn forget_if_nothing(&mut self, key: K) {
        if self.0.get(&key).is_some_and(|c| !c.present && c.users == 0) {
            self.0.remove(&key);
        }
    }

    /// Whether the kernel has the same here and there.
    fn same_present(&self, other: &Self) -> bool {
        self.all().count() == other.all().count() && self.all().all(|key| other.present(key))
    }

    /// What the kernel has.
    pub(super) fn all(&self) -> impl Iterator<Item = &K> {
        let present = self.0.iter().filter(|(_, count)| count.present);
        present.map(|(key, _)| key)
    }

    /// What the kernel has for nobody, sorted.
    pub(super) fn unused(&self) -> Vec<K> {
        let mut unused: Vec<K> = self
            .0
            .iter()
            .filter(|(_, count)| count.present && count.users == 0)
            .map(|(key, _)| *key)
            .collect();
        unused.sort_unstable();
        unused
    }
}

/// What the kernel holds for one family, in a compact form. Changed only by what was applied
/// ([`super::Pass::commit`]) or read back ([`Applied::adopt`]).
#[derive(Clone, Debug, Default)]
pub struct Applied {
    pub(super) frontends: HashMap<FrontendAddress, AppliedFrontend>,
    /// The frontends of each Service.
    pub(super) owned: HashMap<ServiceName, Vec<FrontendAddress>>,
    /// Frontends that no Service claimed since they were read back.
    pub(super) orphans: BTreeSet<FrontendAddress>,
    /// Elements read back that make up no whole frontend.
    pub(super) strays: BTreeMap<FrontendAddress, Vec<Element>>,
    /// Those that come and go.
    pub(super) chains: Shared<Chain>,
    pub(super) hairpins: Shared<IpAddr>,
    pub(super) cluster_ips: Shared<IpAddr>,
    pub(super) node_port_addresses: BTreeSet<IpAddr>,
    pub(super) service_cidrs: BTreeSet<IpNetwork>,
}

impl Applied {
    /// The addresses on which node ports are served.
    pub const fn node_port_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.node_port_addresses
    }

    /// The ranges from which ClusterIPs are taken.
    pub const fn service_cidrs(&self) -> &BTreeSet<IpNetwork> {
        &self.service_cidrs
    }

    /// Notes that node ports are served where `settings` say, and that ClusterIPs are taken from
    /// where they say.
    pub fn set_addresses(&mut self, settings: &Settings) {
        self.node_port_addresses = settings.own_node_port_addresses().collect();
        self.service_cidrs.clone_from(&settings.service_cidrs);
    }

    /// The chains in the kernel that come and go, in no order.
    pub fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.chains.all()
    }

    /// Number of frontends in the kernel.
    pub fn len(&self) -> usize {
        self.frontends.len()
    }

    /// Whether the kernel has no frontend.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// Every frontend in the kernel, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = &FrontendAddress> {
        self.frontends.keys()
    }

    /// The Services that own a frontend in the kernel, in no order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.owned.keys()
    }

    /// The frontend that a packet to `ip` meets.
    pub fn frontend_of(
        &self,
        ip: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<FrontendAddress> {
        let vip = FrontendAddress::Vip { ip, protocol, port };
        let node_port = FrontendAddress::NodePort {
            family: Family::of(ip),
            protocol,
            port,
        };
        if self.frontends.contains_key(&vip) {
            return Some(vip);
        }
        let served = self.node_port_addresses.contains(&ip);
        (served && self.frontends.contains_key(&node_port)).then_some(node_port)
    }

    /// Whether a client of `address` may stay with `target`. With `strict`, for a frontend that
    /// tells sources apart, only with a target that is right for every source.
    pub fn keeps(&self, address: &FrontendAddress, target: Target, strict: bool) -> bool {
        self.frontends.get(address).is_some_and(|frontend| {
            frontend.class.affinity()
                && match frontend.class {
                    Class::LocalOnly { .. } if strict => {
                        let local = |e: &Endpoint| super::slots::target(e) == target;
                        frontend.local.iter().any(local)
                    }
                    _ => frontend.has(target),
                }
        })
    }

    /// Makes `service` responsible for those of `frontends` that the kernel has already.
    pub(super) fn claim(&mut self, service: &ServiceName, frontends: &[Frontend]) {
        for frontend in frontends {
            let address = frontend.address;
            let Some(applied) = self.frontends.get_mut(&address) else {
                continue;
            };
            if applied.owner.as_ref() == Some(service) {
                continue;
            }
            match applied.owner.replace(service.clone()) {
                Some(before) => remove_owned(&mut self.owned, &before, &address),
                None => {
                    self.orphans.remove(&address);
                }
            }
            self.owned.entry(service.clone()).or_default().push(address);
        }
    }

    /// Notes that `address` is now `new` in the kernel.
    pub(super) fn put(&mut self, address: FrontendAddress, new: Option<AppliedFrontend>) {
        self.strays.remove(&address);
        if let Some(new) = &new {
            self.use_all(&address, new);
        }
        let owner = new.as_ref().and_then(|new| new.owner.clone());
        let old = match new {
            Some(new) => self.frontends.insert(address, new),
            None => self.frontends.remove(&address),
        };
        if let Some(old) = &old {
            self.leave_all(&address, old);
            match &old.owner {
                Some(before) => remove_owned(&mut self.owned, before, &address),
                None => {
                    self.orphans.remove(&address);
                }
            }
        }
        if let Some(owner) = owner {
            self.owned.entry(owner).or_default().push(address);
        } else if self.frontends.contains_key(&address) {
            self.orphans.insert(address);
        }
    }

    fn use_all(&mut self, address: &FrontendAddress, frontend: &AppliedFrontend) {
        frontend
            .chains()
            .for_each(|chain| self.chains.use_it(chain));
        frontend.hairpins().for_each(|ip| self.hairpins.use_it(ip));
        if let (FrontendAddress::Vip { ip, .. }, true) = (address, frontend.cluster_ip) {
            self.cluster_ips.use_it(*ip);
        }
    }

    fn leave_all(&mut self, address: &FrontendAddress, frontend: &AppliedFrontend) {
        frontend
            .chains()
            .for_each(|chain| self.chains.leave_it(chain));
        frontend
            .hairpins()
            .for_each(|ip| self.hairpins.leave_it(ip));
        if let (FrontendAddress::Vip { ip, .. }, true) = (address, frontend.cluster_ip) {
            self.cluster_ips.leave_it(*ip);
        }
    }

    /// Whether `found`, read back by [`Applied::adopt`], is what this says: the same elements and
    /// chains, whoever they belong to.
    pub fn is(&self, found: &Self) -> bool {
        let same = |(address, known): (&FrontendAddress, &AppliedFrontend)| {
            let found = found.frontends.get(address);
            found.is_some_and(|found| known.leads_where(found))
        };
        found.strays.is_empty()
            && self.strays.is_empty()
            && self.frontends.len() == found.frontends.len()
            && self.frontends.iter().all(same)
            && self.chains.same_present(&found.chains)
            && self.hairpins.same_present(&found.hairpins)
            && self.cluster_ips.same_present(&found.cluster_ips)
            && self.node_port_addresses == found.node_port_addresses
            && self.service_cidrs == found.service_cidrs
    }

    /// Notes whether the kernel has `chain`, and so uses the one that it leans on.
    pub(super) fn set_chain(&mut self, chain: Chain, present: bool) {
        if self.chains.set_present(chain, present)
            && let Some(other) = chain.leans_on()
        {
            if present {
                self.chains.use_it(other);
            } else {
                self.chains.leave_it(other);
            }
        }
    }
}

fn remove_owned(
    owned: &mut HashMap<ServiceName, Vec<FrontendAddress>>,
    service: &ServiceName,
    address: &FrontendAddress,
) {
    if let Some(addresses) = owned.get_mut(service) {
        addresses.retain(|a| a != address);
        if addresses.is_empty() {
            owned.remove(service);
        }
    }
}
