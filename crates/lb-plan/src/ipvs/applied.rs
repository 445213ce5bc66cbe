//! What the kernel has, and the operations from there to what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use lb_model::{Family, Frontend, FrontendAddress, Protocol, ServiceName};

use super::operation::{Key, Operation, Service};
use super::{Settings, outlives, takes};
use crate::nftables::Target;

/// Virtual services and addresses read back from the kernel.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The virtual services, each with its destinations, and whether they drain.
    pub services: Vec<(Service, Vec<(Target, bool)>)>,
    /// The addresses on [`super::DEVICE`].
    pub bound: BTreeSet<IpAddr>,
}

/// One virtual service in the kernel.
#[derive(Clone, Debug, Default)]
struct Virtual {
    scheduler: String,
    persistence: Option<NonZeroU32>,
    /// By endpoint, whether it drains.
    destinations: BTreeMap<Target, bool>,
}

/// What the kernel has for one family. Changed only by what was applied ([`Applied::commit`]) or read
/// back ([`Applied::adopt`]).
#[derive(Clone, Debug, Default)]
pub struct Applied {
    services: BTreeMap<Key, Virtual>,
    /// Which Service of the cluster wants a virtual service, whether or not that is there.
    owners: HashMap<Key, ServiceName>,
    owned: HashMap<ServiceName, BTreeSet<Key>>,
    /// Those that their owner wants no more, as long as packets may still be sent there.
    given_up: BTreeSet<Key>,
    bound: BTreeSet<IpAddr>,
    /// Virtual services that nobody wants, and those with a destination that drains.
    leaving: BTreeSet<Key>,
    /// Addresses that may have to be bound or unbound.
    unsettled: BTreeSet<IpAddr>,
}

/// What a frontend wants of one virtual service.
struct Wanted {
    persistence: Option<NonZeroU32>,
    targets: BTreeSet<Target>,
    /// Where established flows may go on.
    serving: BTreeSet<IpAddr>,
}

impl Applied {
    /// The state that `found` amounts to. Nothing of it is wanted by a Service yet.
    pub fn adopt(found: Found) -> Self {
        let mut applied = Self {
            bound: found.bound,
            ..Self::default()
        };
        applied.unsettled.clone_from(&applied.bound);
        for (service, destinations) in found.services {
            applied.leaving.insert(service.key);
            applied.unsettled.insert(service.key.ip);
            let found = Virtual {
                scheduler: service.scheduler,
                persistence: service.persistence,
                destinations: destinations.into_iter().collect(),
            };
            applied.services.insert(service.key, found);
        }
        applied
    }

    /// Whether `found`, read back, is what this says.
    pub fn is(&self, found: &Found) -> bool {
        self.bound == found.bound
            && self.services.len() == found.services.len()
            && found.services.iter().all(|(service, destinations)| {
                self.services.get(&service.key).is_some_and(|known| {
                    known.scheduler == service.scheduler
                        && known.persistence == service.persistence
                        && known.destinations.len() == destinations.len()
                        && destinations
                            .iter()
                            .all(|(target, drains)| known.destinations.get(target) == Some(drains))
                })
            })
    }

    /// The operations that give `service` what its `frontends` want; what it wants no more stays, for
    /// [`Applied::retire`] when no packet is sent there. Every destination comes before one goes.
    ///
    /// `serving` gives the endpoints of a frontend that still serve, chosen for new connections or not.
    pub fn plan(
        &mut self,
        service: &ServiceName,
        frontends: &[Frontend],
        serving: impl Fn(&FrontendAddress) -> Vec<IpAddr>,
        settings: &Settings,
    ) -> Vec<Operation> {
        let wanted = wanted(frontends, serving, settings);
        let mut operations = Vec::new();
        for (key, wanted) in &wanted {
            self.claim(service, *key);
            self.change(*key, wanted, settings, &mut operations);
        }
        let owned = self.owned.get(service).into_iter().flatten();
        let gone: Vec<Key> = owned
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        self.given_up.extend(gone);
        operations
    }

    /// The operations that let go of what no Service wants: where connections may go on it drains,
    /// else it is removed. To Services that are `held` packets may still be sent as before.
    pub fn retire(&mut self, held: impl Fn(&ServiceName) -> bool) -> Vec<Operation> {
        for key in std::mem::take(&mut self.given_up) {
            if self.owners.get(&key).is_some_and(&held) {
                self.given_up.insert(key);
            } else {
                self.disown(key);
            }
        }
        let mut operations = Vec::new();
        for key in &self.leaving {
            let Some(service) = self.services.get(key) else {
                continue;
            };
            if self.owners.contains_key(key) {
                continue;
            }
            if service.destinations.is_empty() || !outlives(key.protocol) {
                operations.push(Operation::DeleteService(*key));
                continue;
            }
            let serving = service.destinations.iter().filter(|(_, drains)| !**drains);
            operations.extend(serving.map(|(target, _)| Operation::SetDestination {
                key: *key,
                target: *target,
                drains: true,
            }));
        }
        operations
    }

    /// The virtual services that have destinations which drain: somebody must look whether these
    /// have connections.
    pub fn draining(&self) -> impl Iterator<Item = Key> + '_ {
        self.leaving.iter().copied().filter(|key| {
            let service = self.services.get(key);
            service.is_some_and(|service| service.destinations.values().any(|drains| *drains))
        })
    }

    /// The operations that remove the destinations of `key` which drain and, as `idle` says, have no
    /// connections.
    pub fn drained(&self, key: Key, idle: impl Fn(&Target) -> bool) -> Vec<Operation> {
        let Some(service) = self.services.get(&key) else {
            return Vec::new();
        };
        let idle = |(target, drains): &(&Target, &bool)| **drains && idle(target);
        let gone: Vec<Target> = service
            .destinations
            .iter()
            .filter(idle)
            .map(|(target, _)| *target)
            .collect();
        if !self.owners.contains_key(&key) && gone.len() == service.destinations.len() {
            return vec![Operation::DeleteService(key)];
        }
        let gone = gone.into_iter();
        gone.map(|target| Operation::DeleteDestination { key, target })
            .collect()
    }

    /// The operations that make every address with a virtual service the node's, and take away those
    /// without.
    pub fn bindings(&self, settings: &Settings) -> Vec<Operation> {
        let operation = |ip: &IpAddr| {
            let wanted = self.serves(*ip) && !settings.own.contains(ip);
            match (wanted, self.bound.contains(ip)) {
                (true, false) => Some(Operation::Bind(*ip)),
                (false, true) => Some(Operation::Unbind(*ip)),
                _ => None,
            }
        };
        self.unsettled.iter().filter_map(operation).collect()
    }

    /// Every address is looked at by the next [`Applied::bindings`]: the node's own are others now.
    pub fn unsettle(&mut self) {
        let ips = self.services.keys().map(|key| key.ip);
        self.unsettled = ips.chain(self.bound.iter().copied()).collect();
    }

    /// Notes that `operation` was applied.
    pub fn commit(&mut self, operation: &Operation) {
        match operation {
            Operation::AddService(service) | Operation::SetService(service) => {
                let known = self.services.entry(service.key).or_default();
                known.scheduler.clone_from(&service.scheduler);
                known.persistence = service.persistence;
                self.unsettled.insert(service.key.ip);
                self.settle(service.key);
            }
            Operation::DeleteService(key) => {
                self.services.remove(key);
                self.unsettled.insert(key.ip);
                self.settle(*key);
            }
            Operation::AddDestination { key, target } => self.note(*key, *target, Some(false)),
            Operation::SetDestination {
                key,
                target,
                drains,
            } => self.note(*key, *target, Some(*drains)),
            Operation::DeleteDestination { key, target } => self.note(*key, *target, None),
            Operation::Bind(ip) => {
                self.bound.insert(*ip);
                self.unsettled.remove(ip);
            }
            Operation::Unbind(ip) => {
                self.bound.remove(ip);
                self.unsettled.remove(ip);
            }
        }
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.bound.is_empty()
    }

    fn note(&mut self, key: Key, target: Target, drains: Option<bool>) {
        let Some(service) = self.services.get_mut(&key) else {
            return;
        };
        match drains {
            Some(drains) => service.destinations.insert(target, drains),
            None => service.destinations.remove(&target),
        };
        self.settle(key);
    }

    /// Notes whether `key` is to be let go of, or something of it.
    fn settle(&mut self, key: Key) {
        let leaves = self.services.get(&key).is_some_and(|service| {
            !self.owners.contains_key(&key) || service.destinations.values().any(|drains| *drains)
        });
        if leaves {
            self.leaving.insert(key);
        } else {
            self.leaving.remove(&key);
        }
    }

    /// Makes `service` responsible for `key`.
    fn claim(&mut self, service: &ServiceName, key: Key) {
        self.given_up.remove(&key);
        if self.owners.get(&key) == Some(service) {
            return;
        }
        self.disown(key);
        self.owners.insert(key, service.clone());
        self.owned.entry(service.clone()).or_default().insert(key);
        self.settle(key);
    }

    fn disown(&mut self, key: Key) {
        let Some(owner) = self.owners.remove(&key) else {
            return;
        };
        if let Some(keys) = self.owned.get_mut(&owner) {
            keys.remove(&key);
            if keys.is_empty() {
                self.owned.remove(&owner);
            }
        }
        self.settle(key);
    }

    /// From what `key` has to what is wanted of it.
    fn change(
        &self,
        key: Key,
        wanted: &Wanted,
        settings: &Settings,
        operations: &mut Vec<Operation>,
    ) {
        let service = || Service {
            key,
            scheduler: settings.scheduler.clone(),
            persistence: wanted.persistence,
        };
        let nothing = BTreeMap::new();
        let known = match self.services.get(&key) {
            None => {
                operations.push(Operation::AddService(service()));
                &nothing
            }
            Some(known) => {
                if known.scheduler != settings.scheduler || known.persistence != wanted.persistence
                {
                    operations.push(Operation::SetService(service()));
                }
                &known.destinations
            }
        };
        for target in &wanted.targets {
            match known.get(target) {
                None => operations.push(Operation::AddDestination {
                    key,
                    target: *target,
                }),
                Some(true) => operations.push(Operation::SetDestination {
                    key,
                    target: *target,
                    drains: false,
                }),
                Some(false) => {}
            }
        }
        let gone = known.iter().filter(|(t, _)| !wanted.targets.contains(t));
        for (target, draining) in gone {
            let target = *target;
            if !outlives(key.protocol) && !wanted.serving.contains(&target.ip) {
                operations.push(Operation::DeleteDestination { key, target });
            } else if !draining {
                operations.push(Operation::SetDestination {
                    key,
                    target,
                    drains: true,
                });
            }
        }
    }

    /// Whether an address has a virtual service.
    fn serves(&self, ip: IpAddr) -> bool {
        let first = Key {
            ip,
            protocol: Protocol::Tcp,
            port: 0,
        };
        let next = self.services.range(first..).next();
        next.is_some_and(|(key, _)| key.ip == ip)
    }
}

/// What `frontends` want of virtual services, by what these are aimed at. An address and port that is
/// a Service's own is that, also where it is a node port's as well.
fn wanted(
    frontends: &[Frontend],
    serving: impl Fn(&FrontendAddress) -> Vec<IpAddr>,
    settings: &Settings,
) -> BTreeMap<Key, Wanted> {
    let mut wanted = BTreeMap::new();
    let own = frontends
        .iter()
        .filter(|f| f.address.family() == settings.family);
    let (vips, node_ports): (Vec<&Frontend>, Vec<&Frontend>) =
        own.partition(|f| matches!(f.address, FrontendAddress::Vip { .. }));
    let mut taken = HashSet::new();
    for frontend in vips.into_iter().chain(node_ports) {
        let Some((endpoints, _)) = takes(frontend) else {
            continue;
        };
        let targets = endpoints.iter().map(|endpoint| Target {
            ip: endpoint.ip,
            port: endpoint.port,
        });
        let targets: BTreeSet<Target> = targets.collect();
        let serving: BTreeSet<IpAddr> = serving(&frontend.address).into_iter().collect();
        for key in keys(&frontend.address, settings) {
            if taken.insert(key) {
                let wanted_here = Wanted {
                    persistence: frontend.affinity,
                    targets: targets.clone(),
                    serving: serving.clone(),
                };
                wanted.insert(key, wanted_here);
            }
        }
    }
    wanted
}

/// What is aimed at where `address` is meant.
fn keys(address: &FrontendAddress, settings: &Settings) -> Vec<Key> {
    let (protocol, port) = (address.protocol(), address.port());
    match address {
        FrontendAddress::Vip { ip, .. } => vec![Key {
            ip: *ip,
            protocol,
            port,
        }],
        FrontendAddress::NodePort { family, .. } => {
            let addresses = settings.node_port_addresses.iter().copied();
            addresses
                .filter(|ip| Family::of(*ip) == *family)
                .map(|ip| Key { ip, protocol, port })
                .collect()
        }
    }
}
