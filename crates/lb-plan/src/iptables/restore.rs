//! The input of one `iptables-restore --noflush`, and who is to blame for each of its lines.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use lb_model::ServiceName;

use super::applied::{Applied, AppliedService};
use super::global::{self, Jump};
use super::listing::Listing;
use super::name::{Chain, Table};
use super::port::ServiceRules;
use super::rule::Rule;
use super::settings::Settings;

/// The owner of lines that belong to no Service.
const NOBODY: u32 = u32::MAX;

/// Lines and their owners, by number of the Service.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    owners: Vec<u32>,
}

impl Lines {
    fn push(&mut self, owner: u32, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
        self.owners.push(owner);
    }

    fn append(&mut self, other: Self) {
        self.text.push_str(&other.text);
        self.owners.extend(other.owners);
    }
}

/// What is asked of one table.
#[derive(Debug, Default)]
struct Section {
    /// Made or emptied.
    chains: Lines,
    rules: Lines,
    /// Removed, when nothing leads there any more.
    removals: Lines,
    /// Rules added.
    written: u64,
}

impl Section {
    fn chain(&mut self, owner: u32, chain: Chain) {
        self.chains.push(owner, format_args!(":{chain} - [0:0]"));
    }

    fn rule(&mut self, owner: u32, how: &str, chain: Chain, rule: &dyn Display) {
        self.rules.push(owner, format_args!("{how} {chain} {rule}"));
        // The canary stands for nothing, and is not counted; neither is what leads to our chains.
        let counts = how != "-D" && chain != Chain::Canary && !chain.is_built_in();
        self.written += u64::from(counts);
    }

    fn is_empty(&self) -> bool {
        [&self.chains, &self.rules, &self.removals]
            .iter()
            .all(|lines| lines.owners.is_empty())
    }
}

/// What is written of a Service.
#[derive(Clone, Copy, Debug)]
enum Extent<'a> {
    /// Everything.
    Whole,
    /// Its own chains, where nothing leads to them yet.
    Chains,
    /// What leads to its chains, which are there.
    Shared,
    /// What differs.
    From(&'a Applied),
}

/// An input on its way. [`Restore::full`] or [`Restore::partial`], then [`Restore::add`] for the
/// Services, then [`Restore::finish`].
///
/// Everything can also be written in parts: [`Restore::chains`] of some Services at a time, whole
/// Services each, and [`Restore::shared`] of all at last. Nobody meets half a Service so, either; and
/// iptables-nft, whose time grows with the square of an input's chains, takes a fraction of it.
#[derive(Debug)]
pub struct Restore<'a> {
    settings: &'a Settings,
    extent: Extent<'a>,
    filter: Section,
    nat: Section,
    mangle: Section,
    services: Vec<(ServiceName, AppliedService)>,
}

/// A finished input.
#[derive(Debug)]
pub struct Input {
    /// What the program reads; empty: nothing is to be done.
    pub text: String,
    /// By table: the rules that are added, kube-proxy's way of counting.
    pub written: BTreeMap<Table, u64>,
    owners: Vec<u32>,
    services: Vec<(ServiceName, AppliedService)>,
    full: bool,
}

impl<'a> Restore<'a> {
    /// Everything: what always is there, with the jumps that `found` lacks. Every chain of ours that
    /// is added is emptied first.
    pub fn full(settings: &'a Settings, found: &Listing) -> Self {
        Self::new(settings, Extent::Whole).with_fixed(found)
    }

    /// As [`Restore::full`], for Services whose chains are written.
    pub fn shared(settings: &'a Settings, found: &Listing) -> Self {
        Self::new(settings, Extent::Shared).with_fixed(found)
    }

    /// The chains of Services, and those of all that they lead to.
    pub fn chains(settings: &'a Settings) -> Self {
        let mut restore = Self::new(settings, Extent::Chains);
        for (chain, rule) in global::fixed(settings, Table::Nat) {
            if chain == Chain::MarkMasq {
                restore.nat.chain(NOBODY, chain);
                // It is counted where everything is finished.
                let line = format_args!("-A {chain} {rule}");
                restore.nat.rules.push(NOBODY, line);
            }
        }
        restore
    }

    fn with_fixed(mut self, found: &Listing) -> Self {
        let restore = &mut self;
        let settings = restore.settings;
        for jump in Jump::all(settings) {
            if !found.has_jump(&jump) {
                let section = restore.section(jump.table);
                section.rule(NOBODY, "-I", jump.from, &jump);
            }
        }
        for table in Table::ALL {
            for chain in global::chains(settings, table) {
                restore.section(table).chain(NOBODY, chain);
            }
        }
        self
    }

    /// The difference to `applied`.
    pub fn partial(settings: &'a Settings, applied: &'a Applied) -> Self {
        Self::new(settings, Extent::From(applied))
    }

    fn new(settings: &'a Settings, extent: Extent<'a>) -> Self {
        Self {
            settings,
            extent,
            filter: Section::default(),
            nat: Section::default(),
            mangle: Section::default(),
            services: Vec::new(),
        }
    }

    fn section(&mut self, table: Table) -> &mut Section {
        match table {
            Table::Filter => &mut self.filter,
            Table::Nat => &mut self.nat,
            Table::Mangle => &mut self.mangle,
        }
    }

    /// What leads to `rules` for `service`, which may be nothing: then it goes.
    pub fn add(&mut self, service: &ServiceName, mut rules: ServiceRules) {
        let none = AppliedService::default();
        let old = match self.extent {
            Extent::From(applied) => applied.service(service).unwrap_or(&none),
            _ => &none,
        };
        rules.arrange(old);
        let new = AppliedService::of(&rules);
        if matches!(self.extent, Extent::From(_)) && *old == new {
            return;
        }
        let owner = u32::try_from(self.services.len()).unwrap_or(NOBODY);
        match self.extent {
            Extent::From(_) => self.change_shared(owner, old, &new),
            Extent::Whole | Extent::Shared => {
                for (table, chain, rule) in &new.shared {
                    self.section(*table).rule(owner, "-A", *chain, rule);
                }
            }
            Extent::Chains => {}
        }
        if !matches!(self.extent, Extent::Shared) {
            self.change_own(owner, old, (&rules, &new));
        }
        for gone in old.chains_not_in(&new) {
            self.nat.chain(owner, gone);
            self.nat.removals.push(owner, format_args!("-X {gone}"));
        }
        self.services.push((service.clone(), new));
    }

    /// In chains of its own, too, only what differs is touched.
    fn change_own(
        &mut self,
        owner: u32,
        old: &AppliedService,
        (rules, new): (&ServiceRules, &AppliedService),
    ) {
        for ((chain, rules), made) in rules.chains.iter().zip(&new.chains) {
            if !old.chains.contains(made) {
                self.chain(owner, *chain, rules);
            }
        }
        for (chain, choice) in &rules.choices {
            let edits = old.choice(*chain).and_then(|old| choice.edits(old));
            let Some(edits) = edits else {
                self.chain(owner, *chain, &choice.rules());
                continue;
            };
            for edit in edits {
                self.nat.rule(owner, edit.how, *chain, &edit.rule);
            }
        }
    }

    fn chain(&mut self, owner: u32, chain: Chain, rules: &[Rule]) {
        self.nat.chain(owner, chain);
        for rule in rules {
            self.nat.rule(owner, "-A", chain, rule);
        }
    }

    /// In chains that all Services share only this Service's rules are touched. New ones go to the
    /// beginning; their order matters within a Service, so all of a Service's in one chain change
    /// together.
    fn change_shared(&mut self, owner: u32, old: &AppliedService, new: &AppliedService) {
        let mut places: Vec<(Table, Chain)> = old.places().chain(new.places()).collect();
        places.sort_unstable();
        places.dedup();
        for (table, chain) in places {
            let before: Vec<&str> = old.shared_in(table, chain).collect();
            let after: Vec<&str> = new.shared_in(table, chain).collect();
            if before == after {
                continue;
            }
            let section = self.section(table);
            for rule in before {
                section.rule(owner, "-D", chain, &rule);
            }
            for rule in after.into_iter().rev() {
                section.rule(owner, "-I", chain, &rule);
            }
        }
    }

    /// How many rules there are so far.
    pub fn rules(&self) -> usize {
        let sections = [&self.filter, &self.nat, &self.mangle];
        sections
            .map(|section| section.rules.owners.len())
            .iter()
            .sum()
    }

    /// The input.
    pub fn finish(mut self) -> Input {
        let full = matches!(self.extent, Extent::Whole | Extent::Shared);
        if full {
            for table in Table::ALL {
                for (chain, rule) in global::fixed(self.settings, table) {
                    self.section(table).rule(NOBODY, "-A", chain, &rule);
                }
            }
        }
        let mut written = BTreeMap::new();
        let mut lines = Lines::default();
        for (table, section) in Table::ALL
            .into_iter()
            .zip([self.filter, self.nat, self.mangle])
        {
            written.insert(table, section.written);
            if section.is_empty() {
                continue;
            }
            lines.push(NOBODY, format_args!("*{}", table.name()));
            lines.append(section.chains);
            lines.append(section.rules);
            lines.append(section.removals);
            lines.push(NOBODY, format_args!("COMMIT"));
        }
        Input {
            text: lines.text,
            written,
            owners: lines.owners,
            services: self.services,
            full,
        }
    }
}

impl Input {
    /// How many lines there are.
    pub fn lines(&self) -> usize {
        self.owners.len()
    }

    /// The Service that line number `line`, from 1, belongs to.
    pub fn owner(&self, line: usize) -> Option<&ServiceName> {
        let owner = *self.owners.get(line.checked_sub(1)?)?;
        let (name, _) = self.services.get(usize::try_from(owner).ok()?)?;
        Some(name)
    }

    /// The Services that it is about.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().map(|(name, _)| name)
    }

    /// Notes in `applied` that it was applied.
    pub fn commit(self, settings: &Settings, applied: &mut Applied) {
        if self.full {
            *applied = Applied::fixed(settings);
        }
        for (name, service) in self.services {
            applied.put(name, service);
        }
    }
}
