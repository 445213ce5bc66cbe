//! What a table that is there already holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use lb_model::{Endpoint, FrontendAddress};

use super::applied::{Applied, AppliedFrontend};
use super::class::{Class, UnknownChain};
use super::element::{Element, Target};
use super::slots::LOCAL_SLOTS;

/// Chains and elements read back from a table whose signature is the wanted one.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Names of the chains that come and go: all but those of [`super::skeleton`].
    pub chains: Vec<String>,
    /// The elements, those of [`super::Set::Affinity`] left out.
    pub elements: Vec<Element>,
}

/// The elements of one frontend.
#[derive(Default)]
struct Parts {
    class: Option<Class>,
    affinity: Option<NonZeroU32>,
    slots: BTreeMap<u16, Target>,
    sources: Vec<IpNetwork>,
}

impl Applied {
    /// The state that `found` amounts to, whatever was going on when it was left. Nothing of it is
    /// owned by a Service yet.
    ///
    /// # Errors
    /// A chain that no class of this version has: the table must be replaced then.
    pub fn adopt(found: Found) -> Result<Self, UnknownChain> {
        let mut applied = Self::default();
        for name in &found.chains {
            applied.set_chain(name.parse()?, true);
        }
        let mut parts: BTreeMap<FrontendAddress, Parts> = BTreeMap::new();
        let mut hairpins: HashSet<IpAddr> = HashSet::new();
        let mut cluster_ips = BTreeSet::new();
        for element in found.elements {
            match element {
                Element::Frontend { address, class } => {
                    parts.entry(address).or_default().class = Some(class);
                }
                Element::Endpoint {
                    address,
                    slot,
                    target,
                } => {
                    parts.entry(address).or_default().slots.insert(slot, target);
                }
                Element::Learn { address, seconds } => {
                    parts.entry(address).or_default().affinity = Some(seconds);
                }
                Element::SourceRange { address, source } => {
                    parts.entry(address).or_default().sources.push(source);
                }
                Element::NodePortAddress(ip) => {
                    applied.node_port_addresses.insert(ip);
                }
                Element::ServiceCidr(cidr) => {
                    applied.service_cidrs.insert(cidr);
                }
                Element::ClusterIp(ip) => {
                    cluster_ips.insert(ip);
                }
                Element::Hairpin(ip) => {
                    hairpins.insert(ip);
                }
            }
        }
        for ip in &hairpins {
            applied.hairpins.set_present(*ip, true);
        }
        for ip in &cluster_ips {
            applied.cluster_ips.set_present(*ip, true);
        }
        for (address, parts) in parts {
            let cluster_ip =
                matches!(address, FrontendAddress::Vip { ip, .. } if cluster_ips.contains(&ip));
            match parts.whole(cluster_ip, &hairpins) {
                Some(frontend) if frontend.chains().all(|c| applied.chains.present(&c)) => {
                    applied.put(address, Some(frontend));
                }
                _ => {
                    applied.strays.insert(address, parts.elements(address));
                }
            }
        }
        Ok(applied)
    }
}

impl Parts {
    /// The frontend, if every slot that its class draws from is there and no other.
    fn whole(&self, cluster_ip: bool, hairpins: &HashSet<IpAddr>) -> Option<AppliedFrontend> {
        let class = self.class?;
        let (cluster, local) = class.slots();
        if self.slots.len() != cluster + local
            || (!self.sources.is_empty() && !class.restricted())
            || self.affinity.is_some() != class.affinity()
        {
            return None;
        }
        let take = |offset: u16, count: usize| -> Option<Box<[Endpoint]>> {
            (offset..=u16::MAX)
                .take(count)
                .map(|slot| {
                    self.slots.get(&slot).map(|target| Endpoint {
                        ip: target.ip,
                        port: target.port,
                        local: hairpins.contains(&target.ip),
                        delegable: false,
                    })
                })
                .collect()
        };
        let mut sources = self.sources.clone();
        sources.sort_unstable_by_key(|source| (source.network(), source.prefix()));
        Some(AppliedFrontend {
            owner: None,
            class,
            affinity: self.affinity,
            cluster_ip,
            balanced: Box::default(),
            cluster: take(0, cluster)?,
            local: take(LOCAL_SLOTS, local)?,
            sources: sources.into(),
        })
    }

    fn elements(self, address: FrontendAddress) -> Vec<Element> {
        let class = self.class.map(|class| Element::Frontend { address, class });
        let slots = self
            .slots
            .into_iter()
            .map(|(slot, target)| Element::Endpoint {
                address,
                slot,
                target,
            });
        let sources = self
            .sources
            .into_iter()
            .map(|source| Element::SourceRange { address, source });
        let learn = self
            .affinity
            .map(|seconds| Element::Learn { address, seconds });
        class
            .into_iter()
            .chain(learn)
            .chain(slots)
            .chain(sources)
            .collect()
    }
}
