//! Which Service owns a frontend's address when several claim it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::frontend::{Family, FrontendAddress, FrontendKind, Protocol, ServiceName};
use crate::model::service::Service;

/// The claim of one Service to one address. Of all claims to an address the least wins:
/// a ClusterIP before a load-balancer IP before an external IP, so that nobody can take over a
/// ClusterIP by naming it (CVE-2020-8554); then the older Service; then the lesser name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) address: FrontendAddress,
    rank: u8,
    created: u64,
    pub(super) service: ServiceName,
}

impl Claim {
    /// Where its Service says the address.
    pub(super) const fn kind(&self) -> FrontendKind {
        match self.rank {
            0 => FrontendKind::ClusterIp,
            1 => FrontendKind::LoadBalancer,
            2 => FrontendKind::ExternalIp,
            _ => FrontendKind::NodePort,
        }
    }

    const fn rank(kind: FrontendKind) -> u8 {
        match kind {
            FrontendKind::ClusterIp => 0,
            FrontendKind::LoadBalancer => 1,
            FrontendKind::ExternalIp => 2,
            FrontendKind::NodePort => 3,
        }
    }
}

/// All claims: ordered, so that the first of an address is its owner's.
#[derive(Debug)]
pub(super) struct Claims {
    all: BTreeSet<Claim>,
    /// Sorts before every other name: where a search begins.
    least: ServiceName,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self {
            all: BTreeSet::new(),
            least: ServiceName::new("", ""),
        }
    }

    /// The claim that wins `address`.
    pub(super) fn owner(&self, address: &FrontendAddress) -> Option<&Claim> {
        let first = self.all.range(self.from(*address)..).next()?;
        (first.address == *address).then_some(first)
    }

    /// Whether `service` gets the frontend that it claims as `kind`.
    pub(super) fn owns(
        &self,
        service: &ServiceName,
        kind: FrontendKind,
        address: &FrontendAddress,
    ) -> bool {
        self.owner(address)
            .is_some_and(|claim| claim.service == *service && claim.kind() == kind)
    }

    /// The claims to the address of `owner` that it keeps from being granted.
    pub(super) fn losers<'a>(&'a self, owner: &'a Claim) -> impl Iterator<Item = &'a Claim> {
        let same = self
            .all
            .range(owner..)
            .take_while(|claim| claim.address == owner.address);
        same.filter(|claim| claim.service != owner.service)
    }

    /// Whether `ip` is the ClusterIP of a Service.
    pub(super) fn has_cluster_ip(&self, ip: IpAddr) -> bool {
        let first = FrontendAddress::Vip {
            ip,
            protocol: Protocol::Tcp,
            port: 0,
        };
        let here = |claim: &&Claim| matches!(claim.address, FrontendAddress::Vip { ip: of, .. } if of == ip);
        let mut claims = self.all.range(self.from(first)..).take_while(here);
        claims.any(|claim| claim.kind() == FrontendKind::ClusterIp)
    }

    /// Exchanges the claims of `service`; tells other Services that won or lost an address by it to
    /// `touched`, and every Service whose claim to an address has another standing now, `service`
    /// among them, to `disputed`.
    pub(super) fn exchange(
        &mut self,
        service: &ServiceName,
        before: Option<&Service>,
        now: Option<&Service>,
        mut touched: impl FnMut(&ServiceName),
        mut disputed: impl FnMut(&ServiceName),
    ) {
        let (before, now) = (claims_of(service, before), claims_of(service, now));
        for claim in before
            .iter()
            .filter(|claim| now.binary_search(claim).is_err())
        {
            let owned = self.owner(&claim.address) == Some(claim);
            self.tell_claimants(claim, &mut disputed);
            self.all.remove(claim);
            let heir = self
                .owner(&claim.address)
                .filter(|heir| owned && heir.service != *service);
            heir.map(|heir| &heir.service)
                .into_iter()
                .for_each(&mut touched);
        }
        for claim in now
            .iter()
            .filter(|claim| before.binary_search(claim).is_err())
        {
            self.all.insert(claim.clone());
            self.tell_claimants(claim, &mut disputed);
            let best = self.owner(&claim.address) == Some(claim);
            let lost = self.losers(claim).next().filter(|_| best);
            lost.map(|lost| &lost.service)
                .into_iter()
                .for_each(&mut touched);
        }
    }

    /// Tells those who claim the address of `claim`, if it is not only its own Service.
    fn tell_claimants(&self, claim: &Claim, disputed: &mut impl FnMut(&ServiceName)) {
        let same = self.all.range(self.from(claim.address)..);
        let same = same.take_while(|other| other.address == claim.address);
        let mut others = same.filter(|other| other.service != claim.service);
        if let Some(first) = others.next() {
            disputed(&claim.service);
            disputed(&first.service);
            others.for_each(|other| disputed(&other.service));
        }
    }

    /// What `service`, which is called `name`, claims in vain, and who has it instead.
    pub(super) fn in_vain(
        &self,
        name: &ServiceName,
        service: &Service,
    ) -> impl Iterator<Item = (Claim, &ServiceName)> {
        claims_of(name, Some(service))
            .into_iter()
            .filter_map(move |claim| {
                let owner = self.owner(&claim.address)?;
                (owner.service != claim.service).then_some((claim, &owner.service))
            })
    }

    fn from(&self, address: FrontendAddress) -> Claim {
        Claim {
            address,
            rank: 0,
            created: 0,
            service: self.least.clone(),
        }
    }
}

/// Everything that a Service claims, sorted.
fn claims_of(name: &ServiceName, service: Option<&Service>) -> Vec<Claim> {
    let Some(service) = service else {
        return Vec::new();
    };
    let ports = 0..service.ports.len();
    let addresses = ports.flat_map(|i| {
        Family::ALL
            .into_iter()
            .flat_map(move |f| service.addresses(f, i))
    });
    let claim = |(kind, address)| Claim {
        address,
        rank: Claim::rank(kind),
        created: service.created,
        service: name.clone(),
    };
    let mut claims: Vec<Claim> = addresses.map(claim).collect();
    claims.sort_unstable();
    claims.dedup();
    claims
}
