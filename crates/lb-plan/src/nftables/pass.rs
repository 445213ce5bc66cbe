//! One pass: from what is applied to what is wanted, in steps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use lb_model::{Frontend, FrontendAddress, Protocol, ServiceName};

use super::applied::{Applied, AppliedFrontend};
use super::element::{Element, Target};
use super::operation::Operation;
use super::rule::Chain;
use super::settings::Settings;
use super::slots::{LOCAL_SLOTS, target};

/// Operations that must be applied whole or not at all, in their order.
#[derive(Debug)]
pub struct Step {
    /// The Service whose frontends change; `None`: what several lean on, or leftovers.
    pub service: Option<ServiceName>,
    /// What to do.
    pub operations: Vec<Operation>,
    /// Frontends whose remembered clients must be looked at afterwards, and whether all of them are
    /// to be forgotten (`true`) or only those of endpoints that left.
    pub affinity: Vec<(FrontendAddress, bool)>,
    /// UDP frontends whose established flows must be looked at afterwards.
    pub udp: Vec<FrontendAddress>,
    effects: Vec<Effect>,
}

#[derive(Debug)]
enum Effect {
    Chain(Chain, bool),
    Hairpin(IpAddr, bool),
    ClusterIp(IpAddr, bool),
    Frontend(FrontendAddress, Option<AppliedFrontend>),
}

impl Step {
    fn new(service: Option<&ServiceName>) -> Self {
        Self {
            service: service.cloned(),
            operations: Vec::new(),
            affinity: Vec::new(),
            udp: Vec::new(),
            effects: Vec::new(),
        }
    }
}

/// A pass over one family. [`Pass::claim`] for every Service, then [`Pass::plan`] for every Service,
/// then [`Pass::prune`] if everything wanted was named, then [`Pass::sweep`].
///
/// Steps are applied in the order in which they came, any number at once, and each is then handed
/// back to [`Pass::commit`] or [`Pass::fail`]. A step that failed changes nothing: planning its
/// Service again in a later pass gives it again.
#[derive(Debug)]
pub struct Pass<'a> {
    applied: &'a mut Applied,
    settings: &'a Settings,
    /// Planned by this pass, not yet known to be there.
    promised_chains: HashSet<Chain>,
    promised_hairpins: HashSet<IpAddr>,
    /// By how many users the plans of this pass change a ClusterIP.
    cluster_ip_users: HashMap<IpAddr, i64>,
    /// Removed by a plan of this pass.
    cluster_ips_removed: HashSet<IpAddr>,
}

impl<'a> Pass<'a> {
    /// A pass from `applied`, which must be of the table that has `settings`.
    pub fn new(applied: &'a mut Applied, settings: &'a Settings) -> Self {
        Self {
            applied,
            settings,
            promised_chains: HashSet::new(),
            promised_hairpins: HashSet::new(),
            cluster_ip_users: HashMap::new(),
            cluster_ips_removed: HashSet::new(),
        }
    }

    /// What is known to be in the kernel.
    pub const fn applied(&self) -> &Applied {
        self.applied
    }

    /// Makes `service` responsible for those of `frontends` that the kernel has already, so that a
    /// frontend that goes from one Service to another is changed once, without a gap.
    pub fn claim(&mut self, service: &ServiceName, frontends: &[Frontend]) {
        self.applied.claim(service, frontends);
    }

    /// The steps that give `service` these `frontends` and no others: at most one that makes what
    /// it leans on, and one for the rest. Frontends of the other family are left out.
    pub fn plan(&mut self, service: &ServiceName, frontends: &[Frontend]) -> Vec<Step> {
        let mut wanted = HashSet::with_capacity(frontends.len());
        let mut step = Step::new(Some(service));
        let mut changes = Changes::default();
        for frontend in frontends {
            let address = frontend.address;
            if address.family() != self.settings.family || !wanted.insert(address) {
                continue;
            }
            let old = self.applied.frontends.get(&address);
            let new = AppliedFrontend::settle(service, frontend, old, &self.settings.balancer);
            if old.is_none_or(|old| !old.same(&new)) {
                self.change(&mut step, &mut changes, address, Some(new));
            }
        }
        let owned = self.applied.owned.get(service);
        let gone: Vec<FrontendAddress> = owned
            .into_iter()
            .flatten()
            .filter(|address| !wanted.contains(*address))
            .copied()
            .collect();
        for address in gone {
            self.change(&mut step, &mut changes, address, None);
        }
        self.finish(step, changes)
    }

    /// The steps that remove what was read back and no Service claimed.
    pub fn prune(&mut self) -> Vec<Step> {
        let orphans: Vec<FrontendAddress> = self.applied.orphans.iter().copied().collect();
        let mut steps = Vec::new();
        for address in orphans {
            let mut step = Step::new(None);
            let mut changes = Changes::default();
            self.change(&mut step, &mut changes, address, None);
            steps.extend(self.finish(step, changes));
        }
        let strays = self.applied.strays.iter();
        for (address, elements) in strays.filter(|(a, _)| !self.applied.frontends.contains_key(a)) {
            let mut step = Step::new(None);
            let delete = elements.iter().copied().map(Operation::DeleteElement);
            step.operations.extend(delete);
            step.effects.push(Effect::Frontend(*address, None));
            steps.push(step);
        }
        steps
    }

    /// The step that removes what nobody leans on any more, if there is any. To be asked when all
    /// steps before are committed or failed.
    pub fn sweep(&mut self) -> Option<Step> {
        let mut step = Step::new(None);
        for ip in self.applied.hairpins.unused() {
            step.operations
                .push(Operation::DeleteElement(Element::Hairpin(ip)));
            step.effects.push(Effect::Hairpin(ip, false));
        }
        for ip in self.applied.cluster_ips.unused() {
            step.operations
                .push(Operation::DeleteElement(Element::ClusterIp(ip)));
            step.effects.push(Effect::ClusterIp(ip, false));
        }
        let mut leaving: BTreeMap<Chain, u32> = BTreeMap::new();
        for chain in self.applied.chains.unused() {
            step.drop_chain(chain);
            if let Some(other) = chain.leans_on() {
                *leaving.entry(other).or_default() += 1;
            }
        }
        for (chain, users) in leaving {
            if self.applied.chains.users(&chain) == users {
                step.drop_chain(chain);
            }
        }
        (!step.operations.is_empty()).then_some(step)
    }

    /// Whether `step` leans on something that could not be made: applying it is of no use then.
    pub fn lacks(&self, step: &Step) -> bool {
        step.effects.iter().any(|effect| match effect {
            Effect::Frontend(_, Some(new)) => {
                new.chains().any(|chain| !self.has_chain(&chain))
                    || new.hairpins().any(|ip| !self.has_hairpin(&ip))
            }
            Effect::Chain(chain, true) => chain.leans_on().is_some_and(|c| !self.has_chain(&c)),
            _ => false,
        })
    }

    /// Notes that `step` was applied.
    pub fn commit(&mut self, step: Step) {
        for effect in step.effects {
            match effect {
                Effect::Chain(chain, present) => {
                    self.promised_chains.remove(&chain);
                    self.applied.set_chain(chain, present);
                }
                Effect::Hairpin(ip, present) => {
                    self.promised_hairpins.remove(&ip);
                    self.applied.hairpins.set_present(ip, present);
                }
                Effect::ClusterIp(ip, present) => {
                    self.applied.cluster_ips.set_present(ip, present);
                }
                Effect::Frontend(address, new) => self.settle_cluster_ip(address, new),
            }
        }
    }

    /// Notes that `step` could not be applied.
    pub fn fail(&mut self, step: &Step) {
        for effect in &step.effects {
            match effect {
                Effect::Chain(chain, _) => {
                    self.promised_chains.remove(chain);
                }
                Effect::Hairpin(ip, _) => {
                    self.promised_hairpins.remove(ip);
                }
                Effect::Frontend(address, new) => {
                    self.note_cluster_ip(*address, new.as_ref(), -1);
                }
                Effect::ClusterIp(..) => {}
            }
        }
    }

    fn has_chain(&self, chain: &Chain) -> bool {
        self.promised_chains.contains(chain) || self.applied.chains.present(chain)
    }

    fn has_hairpin(&self, ip: &IpAddr) -> bool {
        self.promised_hairpins.contains(ip) || self.applied.hairpins.present(ip)
    }

    /// The change of one frontend from what is applied to `new`.
    fn change(
        &mut self,
        step: &mut Step,
        changes: &mut Changes,
        address: FrontendAddress,
        new: Option<AppliedFrontend>,
    ) {
        let old = self.applied.frontends.get(&address);
        if let Some(strays) = self.applied.strays.get(&address) {
            changes.delete.extend(strays);
        }
        changes.frontend(address, old, new.as_ref());
        if let Some(all) = forgotten(old, new.as_ref()) {
            step.affinity.push((address, all));
        }
        if address.protocol() == Protocol::Udp {
            step.udp.push(address);
        }
        self.note_cluster_ip(address, new.as_ref(), 1);
        step.effects.push(Effect::Frontend(address, new));
    }

    /// Counts what a plan does to the users of a ClusterIP (`sign` 1), or takes that back (-1).
    fn note_cluster_ip(
        &mut self,
        address: FrontendAddress,
        new: Option<&AppliedFrontend>,
        sign: i64,
    ) {
        let FrontendAddress::Vip { ip, .. } = address else {
            return;
        };
        let old = self.applied.frontends.get(&address);
        let uses =
            |frontend: Option<&AppliedFrontend>| i64::from(frontend.is_some_and(|f| f.cluster_ip));
        let change = uses(new) - uses(old);
        if change != 0 {
            *self.cluster_ip_users.entry(ip).or_default() += sign * change;
        }
    }

    fn settle_cluster_ip(&mut self, address: FrontendAddress, new: Option<AppliedFrontend>) {
        // What was promised is in the books now.
        self.note_cluster_ip(address, new.as_ref(), -1);
        self.applied.put(address, new);
    }

    /// Adds what `step` needs from ClusterIPs, and makes the step before it if there must be one.
    fn finish(&mut self, mut step: Step, changes: Changes) -> Vec<Step> {
        let mut steps = Vec::new();
        if step.effects.is_empty() {
            return steps;
        }
        steps.extend(self.prepare(&step));
        step.operations
            .extend(changes.delete.into_iter().map(Operation::DeleteElement));
        step.operations
            .extend(changes.add.into_iter().map(Operation::AddElement));
        self.cluster_ips(&mut step);
        steps.push(step);
        steps
    }

    /// The chains and hairpin addresses that `step` leans on and that nobody made yet.
    fn prepare(&mut self, step: &Step) -> Option<Step> {
        let mut before = Step::new(None);
        for effect in &step.effects {
            let Effect::Frontend(_, Some(new)) = effect else {
                continue;
            };
            for chain in new.chains() {
                for chain in chain.leans_on().into_iter().chain([chain]) {
                    if !self.has_chain(&chain) {
                        before.make_chain(chain, self.settings);
                        self.promised_chains.insert(chain);
                    }
                }
            }
            for ip in new.hairpins() {
                if !self.has_hairpin(&ip) {
                    before
                        .operations
                        .push(Operation::AddElement(Element::Hairpin(ip)));
                    before.effects.push(Effect::Hairpin(ip, true));
                    self.promised_hairpins.insert(ip);
                }
            }
        }
        (!before.operations.is_empty()).then_some(before)
    }

    /// A ClusterIP comes with its first frontend and goes with its last, in the same step.
    fn cluster_ips(&mut self, step: &mut Step) {
        let mut seen = HashSet::new();
        let ips: Vec<(IpAddr, bool)> = step
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Frontend(FrontendAddress::Vip { ip, .. }, new) => {
                    Some((*ip, new.as_ref().is_some_and(|new| new.cluster_ip)))
                }
                _ => None,
            })
            .collect();
        let used: HashSet<IpAddr> = ips
            .iter()
            .filter(|(_, uses)| *uses)
            .map(|(ip, _)| *ip)
            .collect();
        for (ip, _) in ips {
            if !seen.insert(ip) {
                continue;
            }
            let present = self.applied.cluster_ips.present(&ip);
            if used.contains(&ip) {
                // Adding twice is harmless: another step of this pass may fail to.
                if !present || self.cluster_ips_removed.remove(&ip) {
                    step.operations
                        .push(Operation::AddElement(Element::ClusterIp(ip)));
                    step.effects.push(Effect::ClusterIp(ip, true));
                }
            } else if present && !self.cluster_ips_removed.contains(&ip) && self.deserted(ip) {
                self.cluster_ips_removed.insert(ip);
                step.operations
                    .push(Operation::DeleteElement(Element::ClusterIp(ip)));
                step.effects.push(Effect::ClusterIp(ip, false));
            }
        }
    }

    /// Whether nobody uses a ClusterIP any more when all plans so far are applied.
    fn deserted(&self, ip: IpAddr) -> bool {
        let change = self.cluster_ip_users.get(&ip).copied().unwrap_or(0);
        i64::from(self.applied.cluster_ips.users(&ip)) + change == 0
    }
}

impl Step {
    fn make_chain(&mut self, chain: Chain, settings: &Settings) {
        self.operations.push(Operation::AddChain(chain));
        for rule in chain.rules(settings) {
            self.operations.push(Operation::AddRule { chain, rule });
        }
        self.effects.push(Effect::Chain(chain, true));
    }

    fn drop_chain(&mut self, chain: Chain) {
        self.operations.push(Operation::DeleteChain(chain));
        self.effects.push(Effect::Chain(chain, false));
    }
}

/// Elements that go and come: all goes before anything comes, since an element changes its data by
/// going and coming.
#[derive(Default)]
struct Changes {
    delete: Vec<Element>,
    add: Vec<Element>,
}

impl Changes {
    fn frontend(
        &mut self,
        address: FrontendAddress,
        old: Option<&AppliedFrontend>,
        new: Option<&AppliedFrontend>,
    ) {
        let class = |frontend: &AppliedFrontend| Element::Frontend {
            address,
            class: frontend.class,
        };
        self.one(old.map(class), new.map(class));
        let learn = |frontend: &AppliedFrontend| {
            let seconds = frontend.affinity?;
            Some(Element::Learn { address, seconds })
        };
        self.one(old.and_then(learn), new.and_then(learn));
        let slots = |frontend: Option<&AppliedFrontend>, local: bool| -> Vec<Target> {
            let slots = frontend.map(|f| if local { &f.local } else { &f.cluster });
            slots.into_iter().flatten().map(target).collect()
        };
        for (local, offset) in [(false, 0), (true, LOCAL_SLOTS)] {
            let (old, new) = (slots(old, local), slots(new, local));
            let last = old.len().max(new.len());
            for (slot, at) in (offset..=u16::MAX).zip(0..last) {
                let element = |target: &Target| Element::Endpoint {
                    address,
                    slot,
                    target: *target,
                };
                self.one(old.get(at).map(element), new.get(at).map(element));
            }
        }
        let empty: &[_] = &[];
        let old = old.map_or(empty, |old| &old.sources);
        let new = new.map_or(empty, |new| &new.sources);
        let element = |source: &_| Element::SourceRange {
            address,
            source: *source,
        };
        self.delete
            .extend(old.iter().filter(|s| !new.contains(s)).map(element));
        self.add
            .extend(new.iter().filter(|s| !old.contains(s)).map(element));
    }

    fn one(&mut self, old: Option<Element>, new: Option<Element>) {
        if old != new {
            self.delete.extend(old);
            self.add.extend(new);
        }
    }
}

/// Whether clients remembered for a frontend may have to be forgotten: all of them, or those of the
/// endpoints that left.
fn forgotten(old: Option<&AppliedFrontend>, new: Option<&AppliedFrontend>) -> Option<bool> {
    let old = old?;
    old.affinity?;
    let Some(new) = new.filter(|new| new.affinity.is_some()) else {
        return Some(true);
    };
    if old.class.short_circuit().is_some() != new.class.short_circuit().is_some() {
        return Some(true);
    }
    let left = old.endpoints().any(|endpoint| !new.has(target(endpoint)));
    left.then_some(false)
}
