//! The decision, once for every data plane: which endpoints, which policy, which source.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::frontend::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Masquerade, ServiceName,
    ServicePort, Treatment,
};
use crate::model::Model;
use crate::model::claims::Claim;
use crate::model::service::{Port, Service};
use crate::model::slice::Traits;
use crate::model::tracker::Known;

impl Model {
    /// What the frontends of `service` in `family` do now, sorted by address; empty when it is
    /// gone. A frontend that another Service claimed first is left out.
    ///
    /// Of several claims to one address a ClusterIP wins before a load-balancer IP before an
    /// external IP; then the Service created first; then the lesser `namespace/name`.
    pub fn frontends(&self, service: &ServiceName, family: Family) -> Vec<Frontend> {
        let ports = self.decided(service, family);
        let mut frontends: Vec<Frontend> = ports.into_iter().flat_map(|(_, f)| f).collect();
        frontends.sort_by_key(|frontend| frontend.address);
        frontends
    }

    /// The same by port, for data planes that name what they make after the port. Ports without any
    /// frontend in `family` are left out.
    pub fn ports(&self, service: &ServiceName, family: Family) -> Vec<ServicePort> {
        let Some(spec) = self.spec(service) else {
            return Vec::new();
        };
        let ports = self.decided(service, family).into_iter();
        let named = ports.map(|(port, frontends)| ServicePort {
            name: port.name.to_string(),
            protocol: port.protocol,
            internal_local: spec.internal_local,
            frontends,
        });
        named.collect()
    }

    fn spec(&self, service: &ServiceName) -> Option<&Service> {
        self.trackers.known(service)?.service.as_deref()
    }

    /// The frontends of each port of `service` that has any. Of two ports that claim one address the
    /// first keeps it.
    fn decided(&self, service: &ServiceName, family: Family) -> Vec<(&Port, Vec<Frontend>)> {
        let Some(known) = self.trackers.known(service) else {
            return Vec::new();
        };
        let Some(spec) = known.service.as_deref() else {
            return Vec::new();
        };
        let mut taken = BTreeSet::new();
        let mut decided = Vec::new();
        for (index, port) in spec.ports.iter().enumerate() {
            let mut owned = |(kind, address): &(FrontendKind, FrontendAddress)| {
                self.claims.owns(service, *kind, address) && taken.insert(*address)
            };
            let addresses: Vec<_> = spec.addresses(family, index).filter(&mut owned).collect();
            if addresses.is_empty() {
                continue;
            }
            let candidates = self.candidates(known, port, family);
            let at = |at| self.frontend_at(at, spec, family, &candidates);
            decided.push((port, addresses.into_iter().map(at).collect()));
        }
        decided
    }

    /// What the frontend at `address` does now; `None` when there is none.
    pub fn frontend(&self, address: &FrontendAddress) -> Option<Frontend> {
        let claim = self.claims.owner(address)?;
        let (known, spec, port) = self.behind(claim)?;
        let family = address.family();
        let candidates = self.candidates(known, port, family);
        Some(self.frontend_at((claim.kind(), *address), spec, family, &candidates))
    }

    /// Every endpoint behind the port that `claim` is about, chosen or not.
    pub(super) fn endpoints_behind(&self, claim: &Claim) -> Vec<Said> {
        let port = self.behind(claim);
        let said = port.map(|(known, _, port)| self.said(known, port, claim.address.family()));
        said.unwrap_or_default()
    }

    /// The addresses of endpoints behind that port that cannot be chosen.
    pub(super) fn idle_behind(&self, claim: &Claim) -> Vec<IpAddr> {
        let Some((known, _, port)) = self.behind(claim) else {
            return Vec::new();
        };
        let slices = known.slices(claim.address.family());
        slices
            .flat_map(|slice| slice.idle(&port.name, port.protocol))
            .collect()
    }

    /// The Service and its port that `claim` is about.
    fn behind(&self, claim: &Claim) -> Option<(&Known, &Service, &Port)> {
        let known = self.trackers.known(&claim.service)?;
        let spec = known.service.as_deref()?;
        let (kind, family) = (claim.kind(), claim.address.family());
        let mut ports = spec.ports.iter().enumerate();
        let (_, port) = ports.find(|(index, _)| {
            spec.addresses(family, *index)
                .any(|at| at == (kind, claim.address))
        })?;
        Some((known, spec, port))
    }

    fn frontend_at(
        &self,
        (kind, address): (FrontendKind, FrontendAddress),
        spec: &Service,
        family: Family,
        candidates: &Candidates,
    ) -> Frontend {
        let node = self.node.as_ref().and_then(|node| node.address(family));
        Frontend {
            address,
            kind,
            affinity: spec.affinity,
            allowed_sources: match kind {
                FrontendKind::LoadBalancer => spec.allowed_sources(family, node),
                _ => None,
            },
            treatment: match kind {
                FrontendKind::ClusterIp => self.internal(spec, candidates),
                _ => external(spec, candidates),
            },
        }
    }

    fn internal(&self, spec: &Service, candidates: &Candidates) -> Treatment {
        let endpoints = if spec.internal_local {
            &candidates.local
        } else {
            &candidates.cluster
        };
        if candidates.cluster.is_empty() {
            Treatment::Reject
        } else if endpoints.is_empty() {
            Treatment::Drop
        } else {
            let masquerade = if self.config.masquerade_all {
                Masquerade::Always
            } else {
                Masquerade::OffCluster
            };
            Treatment::Forward {
                endpoints: endpoints.clone(),
                masquerade,
            }
        }
    }

    /// Who can be chosen for `port`.
    fn candidates(&self, known: &Known, port: &Port, family: Family) -> Candidates {
        Candidates::choose(&self.said(known, port, family))
    }

    /// What the slices say about the endpoints of `port`.
    fn said(&self, known: &Known, port: &Port, family: Family) -> Vec<Said> {
        let zone = self.node.as_ref().map_or("", |node| &node.zone);
        let slices = known.slices(family);
        merged(
            slices
                .flat_map(|slice| slice.endpoints(&port.name, port.protocol, zone))
                .collect(),
        )
    }
}

/// `externalTrafficPolicy`.
fn external(spec: &Service, candidates: &Candidates) -> Treatment {
    let Candidates { cluster, local } = candidates;
    if cluster.is_empty() {
        Treatment::Reject
    } else if spec.external_local {
        Treatment::LocalOnly {
            cluster: cluster.clone(),
            local: local.clone(),
        }
    } else {
        Treatment::Forward {
            endpoints: cluster.clone(),
            masquerade: Masquerade::Always,
        }
    }
}

/// An endpoint, and what is said about it.
pub(super) type Said = (IpAddr, u16, Traits);

/// Sorted, and one entry per address and port: what any slice says of it holds.
fn merged(mut said: Vec<Said>) -> Vec<Said> {
    said.sort_unstable();
    said.dedup_by(|next, kept| {
        let same = (next.0, next.1) == (kept.0, kept.1);
        if same {
            kept.2 = kept.2.with(next.2);
        }
        same
    });
    said
}

/// The endpoints that can be chosen under either traffic policy, sorted.
struct Candidates {
    /// Policy Cluster. Empty only if no endpoint anywhere is usable.
    cluster: Vec<Endpoint>,
    /// Policy Local.
    local: Vec<Endpoint>,
}

impl Candidates {
    /// Ready ones (those that the hints prefer, for policy Cluster), or else, decided for each
    /// policy by itself, those that still serve while they terminate.
    fn choose(said: &[Said]) -> Self {
        let preferred = Traits::READY.with(topology(said));
        let alike = ![Traits::NODE_HINT, Traits::ZONE_HINT]
            .into_iter()
            .any(|hint| all_ready(said, hint));
        let pick = |traits: Traits| -> Vec<Endpoint> {
            said.iter()
                .filter(|said| said.2.has(traits))
                .map(|said| endpoint(said, alike))
                .collect()
        };
        let or = |first: Vec<Endpoint>, then: Traits| {
            if first.is_empty() { pick(then) } else { first }
        };
        Self {
            cluster: or(pick(preferred), Traits::DRAINING),
            local: or(
                pick(Traits::LOCAL.with(Traits::READY)),
                Traits::LOCAL.with(Traits::DRAINING),
            ),
        }
    }
}

/// What an endpoint must be hinted for to get traffic of policy Cluster, by all ready endpoints:
/// this node if all are hinted for nodes and one for this, else this zone likewise, else nothing.
fn topology(said: &[Said]) -> Traits {
    let holds = |hint: Traits, here: Traits| {
        let mut ready = said.iter().filter(|said| said.2.has(Traits::READY));
        all_ready(said, hint) && ready.any(|said| said.2.has(here))
    };
    if holds(Traits::NODE_HINT, Traits::THIS_NODE) {
        Traits::THIS_NODE
    } else if holds(Traits::ZONE_HINT, Traits::THIS_ZONE) {
        Traits::THIS_ZONE
    } else {
        Traits::default()
    }
}

/// Whether all ready endpoints are hinted so, which may lead some node to other ones than this.
fn all_ready(said: &[Said], hint: Traits) -> bool {
    let mut ready = said.iter().filter(|said| said.2.has(Traits::READY));
    ready.all(|said| said.2.has(hint))
}

/// `alike`: every node has the same candidates.
fn endpoint((ip, port, traits): &Said, alike: bool) -> Endpoint {
    let local = traits.has(Traits::LOCAL);
    Endpoint {
        ip: *ip,
        port: *port,
        local,
        delegable: alike && !local && traits.has(Traits::ELSEWHERE),
    }
}
