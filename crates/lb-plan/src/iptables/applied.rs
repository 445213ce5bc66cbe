//! What the kernel has: rather its fingerprints than the rules.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use lb_model::ServiceName;

use super::choice::AppliedChoice;
use super::global::{self, Jump};
use super::listing::Listing;
use super::name::{Chain, Table};
use super::port::ServiceRules;
use super::rule::Rule;
use super::settings::Settings;

/// What is in the kernel for each Service of one family.
#[derive(Debug, Default)]
pub struct Applied {
    services: HashMap<ServiceName, AppliedService>,
    /// By table, all rules, kube-proxy's way of counting.
    rules: BTreeMap<Table, u64>,
    endpoints: usize,
}

/// What is in the kernel for one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AppliedService {
    /// Word for word: a rule is removed by its words.
    pub(super) shared: Vec<(Table, Chain, Box<str>)>,
    pub(super) chains: Vec<AppliedChain>,
    choices: Vec<AppliedChoice>,
    endpoints: usize,
}

/// A chain of one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AppliedChain {
    chain: Chain,
    /// Of all its rules.
    fingerprint: u64,
    rules: u32,
}

impl AppliedChain {
    fn of(chain: Chain, rules: &[Rule]) -> Self {
        let mut hasher = DefaultHasher::new();
        let mut text = String::new();
        for rule in rules {
            text.clear();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{rule}");
            hasher.write(text.as_bytes());
        }
        Self {
            chain,
            fingerprint: hasher.finish(),
            rules: u32::try_from(rules.len()).unwrap_or(u32::MAX),
        }
    }
}

impl AppliedService {
    pub(super) fn of(rules: &ServiceRules) -> Self {
        let shared = rules.shared.iter();
        let chains = rules.chains.iter();
        let choices = rules.choices.iter();
        Self {
            shared: shared
                .map(|(table, chain, rule)| (*table, *chain, rule.to_string().into()))
                .collect(),
            chains: chains
                .map(|(chain, rules)| AppliedChain::of(*chain, rules))
                .collect(),
            choices: choices
                .map(|(chain, choice)| choice.applied(*chain))
                .collect(),
            endpoints: rules.endpoints,
        }
    }

    fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.own().next().is_none()
    }

    /// Where it has rules among others'.
    pub(super) fn places(&self) -> impl Iterator<Item = (Table, Chain)> {
        self.shared.iter().map(|(table, chain, _)| (*table, *chain))
    }

    pub(super) fn shared_in(&self, table: Table, chain: Chain) -> impl Iterator<Item = &str> {
        let here = self.shared.iter();
        here.filter(move |(t, c, _)| (*t, *c) == (table, chain))
            .map(|(_, _, rule)| rule.as_ref())
    }

    pub(super) fn choice(&self, chain: Chain) -> Option<&AppliedChoice> {
        self.choices.iter().find(|one| one.chain == chain)
    }

    /// Its own chains, and how many rules are in each.
    fn own(&self) -> impl Iterator<Item = (Chain, u32)> {
        let chains = self.chains.iter().map(|one| (one.chain, one.rules));
        chains.chain(self.choices.iter().map(|one| (one.chain, one.rules)))
    }

    pub(super) fn chains_not_in(&self, other: &Self) -> impl Iterator<Item = Chain> {
        let here = self.own().map(|(chain, _)| chain);
        here.filter(|chain| other.own().all(|(there, _)| there != *chain))
    }

    /// Rules by table.
    fn count(&self) -> impl Iterator<Item = (Table, u64)> {
        let of_chains = self.own().map(|(_, rules)| u64::from(rules)).sum();
        let shared = self.shared.iter().map(|(table, ..)| (*table, 1));
        shared.chain([(Table::Nat, of_chains)])
    }
}

impl Applied {
    /// No Services.
    pub(super) fn fixed(settings: &Settings) -> Self {
        let mut applied = Self::default();
        for table in Table::ALL {
            let rules = global::fixed(settings, table);
            let counted = rules.iter().filter(|(chain, _)| *chain != Chain::Canary);
            applied.rules.insert(table, counted.count() as u64);
        }
        applied
    }

    pub(super) fn service(&self, name: &ServiceName) -> Option<&AppliedService> {
        self.services.get(name)
    }

    pub(super) fn put(&mut self, name: ServiceName, service: AppliedService) {
        for (table, count) in service.count() {
            *self.rules.entry(table).or_default() += count;
        }
        self.endpoints += service.endpoints;
        let old = if service.is_empty() {
            self.services.remove(&name)
        } else {
            self.services.insert(name, service)
        };
        let Some(old) = old else { return };
        for (table, count) in old.count() {
            let rules = self.rules.entry(table).or_default();
            *rules = rules.saturating_sub(count);
        }
        self.endpoints -= old.endpoints;
    }

    /// How many Services have any rules.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether no Service has any rules.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The Services that have rules.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Endpoints of all Services, counted by port.
    pub const fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// How many of them `service` has.
    pub fn endpoints_of(&self, service: &ServiceName) -> usize {
        self.services.get(service).map_or(0, |one| one.endpoints)
    }

    /// The rules in `table`, as kube-proxy counts them.
    pub fn rules(&self, table: Table) -> u64 {
        self.rules.get(&table).copied().unwrap_or(0)
    }

    /// How many rules each chain has at least, the canary's included.
    fn expected(&self, settings: &Settings) -> HashMap<(Table, Chain), u64> {
        let mut expected: HashMap<(Table, Chain), u64> = HashMap::new();
        for table in Table::ALL {
            for chain in global::chains(settings, table) {
                expected.entry((table, chain)).or_default();
            }
            for (chain, _) in global::fixed(settings, table) {
                *expected.entry((table, chain)).or_default() += 1;
            }
        }
        for service in self.services.values() {
            for place in service.places() {
                *expected.entry(place).or_default() += 1;
            }
            for (chain, rules) in service.own() {
                expected.insert((Table::Nat, chain), rules.into());
            }
        }
        expected
    }

    /// Whether `found` has all of it: every chain with as many rules, every jump. What others added
    /// is no business of ours.
    pub fn is_in(&self, settings: &Settings, found: &Listing) -> bool {
        let mut expected = self.expected(settings).into_iter();
        expected.all(|(place, rules)| found.rules(place).is_some_and(|there| there >= rules))
            && Jump::all(settings).iter().all(|jump| found.has_jump(jump))
    }

    /// Chains of Service ports that `found` has and that lead nowhere any more: the input that
    /// removes them, if there are any.
    pub fn leftovers(&self, found: &Listing) -> Option<String> {
        let mut known = std::collections::HashSet::new();
        for service in self.services.values() {
            known.extend(service.own().map(|(chain, _)| chain));
        }
        let stale: Vec<Chain> = found
            .port_chains()
            .filter(|chain| !known.contains(chain))
            .collect();
        let mut text = "*nat\n".to_owned();
        for chain in &stale {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for chain in &stale {
            let _ = writeln!(text, "-X {chain}");
        }
        text.push_str("COMMIT\n");
        (!stale.is_empty()).then_some(text)
    }
}
