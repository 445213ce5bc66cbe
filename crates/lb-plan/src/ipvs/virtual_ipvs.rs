//! IPVS in memory, strict about what the kernel is strict about, and the way of a packet through it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use lb_model::Packet;

use super::operation::{Key, Operation, Service};
use crate::nftables::{Affinity, Target, Verdict, VirtualKernel};

/// The virtual services and bound addresses of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualIpvs {
    services: BTreeMap<Key, (Service, BTreeMap<Target, bool>)>,
    bound: BTreeSet<IpAddr>,
}

/// An operation that the kernel would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Operation);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {:?}", self.0)
    }
}

impl std::error::Error for Refusal {}

impl VirtualIpvs {
    /// Does `operation`.
    ///
    /// # Errors
    /// It adds what is there, or changes what is not.
    pub fn apply(&mut self, operation: &Operation) -> Result<(), Refusal> {
        let done = match operation {
            Operation::AddService(service) => {
                let new = (service.clone(), BTreeMap::new());
                self.services.insert(service.key, new).is_none()
            }
            Operation::SetService(service) => match self.services.get_mut(&service.key) {
                Some((known, _)) => {
                    known.clone_from(service);
                    true
                }
                None => false,
            },
            Operation::DeleteService(key) => {
                self.services.remove(key);
                true
            }
            Operation::AddDestination { key, target } => {
                let service = self.services.get_mut(key);
                service.is_some_and(|(_, known)| known.insert(*target, false).is_none())
            }
            Operation::SetDestination {
                key,
                target,
                drains,
            } => {
                let service = self.services.get_mut(key);
                service.is_some_and(|(_, known)| known.insert(*target, *drains).is_some())
            }
            Operation::DeleteDestination { key, target } => {
                if let Some((_, known)) = self.services.get_mut(key) {
                    known.remove(target);
                }
                true
            }
            Operation::Bind(ip) => {
                self.bound.insert(*ip);
                true
            }
            Operation::Unbind(ip) => {
                self.bound.remove(ip);
                true
            }
        };
        if done {
            Ok(())
        } else {
            Err(Refusal(operation.clone()))
        }
    }

    /// The addresses that it made the node's.
    pub const fn bound(&self) -> &BTreeSet<IpAddr> {
        &self.bound
    }

    /// The destinations of a virtual service, and whether they drain.
    pub fn destinations(&self, key: &Key) -> Option<&BTreeMap<Target, bool>> {
        self.services.get(key).map(|(_, destinations)| destinations)
    }

    /// What there is, as [`super::Found`] says it.
    pub fn found(&self) -> super::Found {
        let services = self.services.values();
        super::Found {
            services: services
                .map(|(service, known)| {
                    let known = known.iter().map(|(target, drains)| (*target, *drains));
                    (service.clone(), known.collect())
                })
                .collect(),
            bound: self.bound.clone(),
        }
    }
}

/// The way of `packet` through the rules and then, where these leave it to IPVS, through that, with
/// `affinity` remembered from before. Addresses in `own` are the node's anyway.
pub fn walk(
    rules: &VirtualKernel,
    ipvs: &VirtualIpvs,
    own: &BTreeSet<IpAddr>,
    packet: &Packet,
    affinity: &Affinity,
) -> Verdict {
    let Verdict::Balanced { masquerade } = rules.walk(packet, affinity) else {
        return rules.walk(packet, affinity);
    };
    let key = Key {
        ip: packet.destination,
        protocol: packet.protocol,
        port: packet.port,
    };
    if !ipvs.bound.contains(&key.ip) && !own.contains(&key.ip) {
        return Verdict::Untouched;
    }
    let Some((service, known)) = ipvs.services.get(&key) else {
        return Verdict::Reject;
    };
    let serving = known.iter().filter(|(_, drains)| !**drains);
    let mut targets: Vec<Target> = serving.map(|(target, _)| *target).collect();
    let client = (packet.source, key.ip, key.protocol.number(), key.port);
    if let Some(stays) = affinity.entries.get(&client)
        && targets.contains(stays)
    {
        targets = vec![*stays];
    }
    if targets.is_empty() {
        return Verdict::Reject;
    }
    let hairpin = targets.iter().filter(|t| rules.is_hairpin(packet, t));
    Verdict::Translated {
        hairpin: hairpin.copied().collect(),
        masquerade,
        remembered: service.persistence,
        targets,
    }
}
