//! One pass: inputs into the kernel, and what becomes of those that are refused.

use std::collections::{BTreeMap, BTreeSet};

use lb_model::ServiceName;
use lb_plan::iptables::{Applied, Input, Listing, Restore, Table};
use nodekit::xtables::{self, Variant, Xtables};

use super::family::{Desired, rule_counts};
use super::listing;
use crate::backend::{BackendError, FamilyReport, RestoreReport};

/// How many refused inputs a pass bears: then it is not the Services that are wrong.
const MOST_REFUSALS: u64 = 64;

/// Rules in one part of a large write by iptables-nft, whose time grows with the square of an input's
/// chains, while the kernel looks through all rules for each of them: 500 Services of 10 endpoints
/// changed at once took 1.3 s in one piece, 0.9 s in two, 0.7 s in four or five, 0.8 s in eight.
const PART: usize = 3000;

/// One pass on its way into the kernel.
pub(super) struct Run<'a> {
    xtables: &'a Xtables,
    report: FamilyReport,
    restore: RestoreReport,
    /// Services whose rules are refused, from passes before and this one.
    refused: BTreeSet<ServiceName>,
}

/// What became of an input.
enum Fate {
    Done,
    /// This Service's rules are wrong.
    Blamed(ServiceName, xtables::Error),
    /// Some rule is wrong, nobody says which.
    Refused(xtables::Error),
    /// Nothing can be done now.
    Lost(xtables::Error),
}

/// What became of several Services' input.
enum Narrowed {
    /// The kernel has it.
    Written(Input),
    /// Some of these Services' rules are wrong, nobody says which.
    Halves(Vec<ServiceName>, Vec<ServiceName>),
    /// Nothing can be done now; that is noted.
    Lost,
}

impl<'a> Run<'a> {
    pub(super) fn new(xtables: &'a Xtables, refused: BTreeSet<ServiceName>) -> Self {
        Self {
            xtables,
            report: FamilyReport::default(),
            restore: RestoreReport::default(),
            refused,
        }
    }

    /// Brings `services` from `applied` to what is desired. Gives whether that is what the kernel has
    /// now; if not, everything must be written.
    pub(super) fn partial(
        &mut self,
        desired: &Desired<'_>,
        applied: &mut Applied,
        services: &BTreeSet<ServiceName>,
    ) -> bool {
        let good = services.iter().filter(|one| !self.refused.contains(*one));
        let good: Vec<ServiceName> = good.cloned().collect();
        // Legacy iptables writes a whole table with every input: better all at once.
        let most = match self.xtables.variant() {
            Variant::Nft => PART,
            Variant::Legacy => usize::MAX,
        };
        let mut rest = good.iter();
        while !rest.as_slice().is_empty() {
            let input = part(desired, applied, &mut rest, most);
            match self.apply(&input) {
                Fate::Done => input.commit(desired.settings, applied),
                Fate::Blamed(..) | Fate::Refused(_) | Fate::Lost(_) => {
                    self.restore.partial_failures += 1;
                    return false;
                }
            }
        }
        self.refused_ones(desired, applied, services);
        true
    }

    /// Writes everything; gives what the kernel has then, if that is known.
    pub(super) fn full(
        &mut self,
        desired: &Desired<'_>,
        services: &BTreeSet<ServiceName>,
    ) -> Option<Applied> {
        let found = match listing(self.xtables) {
            Ok(found) => found,
            Err(error) => {
                self.lose(error);
                return None;
            }
        };
        self.refused.retain(|one| services.contains(one));
        let good = services.iter().filter(|one| !self.refused.contains(*one));
        let good: Vec<ServiceName> = good.cloned().collect();
        let mut applied = Applied::default();
        if !self.write(desired, &found, &mut applied, good) {
            return None;
        }
        self.refused_ones(desired, &mut applied, services);
        if let Some(leftovers) = applied.leftovers(&found) {
            // Harmless, and somebody may hold on to them: the next full write tries again.
            match self.xtables.restore(&leftovers) {
                Ok(()) => self.report.operations += leftovers.lines().count(),
                Err(error) => tracing::warn!(%error, "chains that lead nowhere are not removed"),
            }
            self.report.transactions += 1;
        }
        Some(applied)
    }

    /// Writes everything there is and `services`; those that are refused are left out. Gives whether
    /// it is known what the kernel has.
    fn write(
        &mut self,
        desired: &Desired<'_>,
        found: &Listing,
        applied: &mut Applied,
        mut services: Vec<ServiceName>,
    ) -> bool {
        // Legacy iptables writes a whole table with every input: better all at once.
        let in_parts = desired.large && self.xtables.variant() == Variant::Nft;
        if in_parts {
            let Some(written) = self.write_chains(desired, services) else {
                return false;
            };
            services = written;
        }
        let everything = |services: &[ServiceName]| {
            let restore = if in_parts {
                Restore::shared(desired.settings, found)
            } else {
                Restore::full(desired.settings, found)
            };
            input_of(restore, desired, services)
        };
        match self.narrow(services, everything) {
            Narrowed::Written(input) => {
                input.commit(desired.settings, applied);
                true
            }
            // Half of them first, then the others piece by piece.
            Narrowed::Halves(first, rest) => {
                self.write(desired, found, applied, first) && self.add(desired, applied, rest)
            }
            Narrowed::Lost => false,
        }
    }

    /// Writes the chains of `services` in parts; gives those that are not refused, or nothing if no
    /// more can be done.
    fn write_chains(
        &mut self,
        desired: &Desired<'_>,
        services: Vec<ServiceName>,
    ) -> Option<Vec<ServiceName>> {
        let mut written = Vec::with_capacity(services.len());
        let mut part = Vec::new();
        let mut restore = Restore::chains(desired.settings);
        for service in services {
            restore.add(&service, desired.rules(&service));
            part.push(service);
            if restore.rules() >= PART {
                let input = std::mem::replace(&mut restore, Restore::chains(desired.settings));
                let part = std::mem::take(&mut part);
                written.extend(self.write_part(desired, &input.finish(), part)?);
            }
        }
        written.extend(self.write_part(desired, &restore.finish(), part)?);
        Some(written)
    }

    /// Writes one part, and if that is refused, smaller ones.
    fn write_part(
        &mut self,
        desired: &Desired<'_>,
        input: &Input,
        mut services: Vec<ServiceName>,
    ) -> Option<Vec<ServiceName>> {
        let again = |services: &[ServiceName]| {
            input_of(Restore::chains(desired.settings), desired, services)
        };
        match self.apply(input) {
            Fate::Done => Some(services),
            Fate::Blamed(blamed, error) => {
                services.retain(|one| *one != blamed);
                self.refuse(blamed, error);
                self.write_part(desired, &again(&services), services)
            }
            Fate::Refused(_) if services.len() > 1 => {
                let rest = services.split_off(services.len() / 2);
                let mut written = self.write_part(desired, &again(&services), services)?;
                written.extend(self.write_part(desired, &again(&rest), rest)?);
                Some(written)
            }
            Fate::Refused(error) if self.may_go_on() && !services.is_empty() => {
                for service in services {
                    self.refuse(service, error.clone());
                }
                Some(Vec::new())
            }
            Fate::Refused(error) | Fate::Lost(error) => {
                self.lose(error);
                None
            }
        }
    }

    /// Adds `services` to what is applied; those that are refused are left out. Gives whether it is
    /// known what the kernel has.
    fn add(
        &mut self,
        desired: &Desired<'_>,
        applied: &mut Applied,
        services: Vec<ServiceName>,
    ) -> bool {
        match self.narrow(services, |services| difference(desired, applied, services)) {
            Narrowed::Written(input) => {
                input.commit(desired.settings, applied);
                true
            }
            Narrowed::Halves(first, rest) => {
                self.add(desired, applied, first) && self.add(desired, applied, rest)
            }
            Narrowed::Lost => false,
        }
    }

    /// Writes the input of `services`, without those whose rules are known to be wrong.
    fn narrow(
        &mut self,
        mut services: Vec<ServiceName>,
        make: impl Fn(&[ServiceName]) -> Input,
    ) -> Narrowed {
        loop {
            let input = make(&services);
            match self.apply(&input) {
                Fate::Done => return Narrowed::Written(input),
                Fate::Blamed(blamed, error) => {
                    services.retain(|one| *one != blamed);
                    self.refuse(blamed, error);
                }
                Fate::Refused(_) if services.len() > 1 => {
                    let rest = services.split_off(services.len() / 2);
                    return Narrowed::Halves(services, rest);
                }
                Fate::Refused(error) if self.may_go_on() => {
                    let Some(last) = services.pop() else {
                        self.lose(error);
                        return Narrowed::Lost;
                    };
                    self.refuse(last, error);
                }
                Fate::Refused(error) | Fate::Lost(error) => {
                    self.lose(error);
                    return Narrowed::Lost;
                }
            }
        }
    }

    /// Those refused before, each by itself: they cost nobody else anything.
    fn refused_ones(
        &mut self,
        desired: &Desired<'_>,
        applied: &mut Applied,
        services: &BTreeSet<ServiceName>,
    ) {
        let again = services.iter().filter(|one| self.refused.contains(*one));
        for service in again.cloned().collect::<Vec<_>>() {
            if self.report.failed.contains_key(&service) {
                continue;
            }
            let input = difference(desired, applied, std::slice::from_ref(&service));
            match self.apply(&input) {
                Fate::Done => {
                    input.commit(desired.settings, applied);
                    self.refused.remove(&service);
                }
                Fate::Blamed(_, error) | Fate::Refused(error) | Fate::Lost(error) => {
                    self.refuse(service, error);
                }
            }
        }
    }

    fn may_go_on(&self) -> bool {
        self.restore.failures < MOST_REFUSALS
    }

    fn refuse(&mut self, service: ServiceName, error: xtables::Error) {
        self.report.failed.insert(service.clone(), error.into());
        self.refused.insert(service);
    }

    fn lose(&mut self, error: xtables::Error) {
        self.report.leftovers = Some(error.into());
    }

    fn apply(&mut self, input: &Input) -> Fate {
        if input.text.is_empty() {
            return Fate::Done;
        }
        self.report.transactions += 1;
        let error = match self.xtables.restore_early(&input.text) {
            Ok(()) => {
                self.report.operations += input.lines();
                self.count(&input.written);
                return Fate::Done;
            }
            Err(error) => error,
        };
        self.restore.failures += 1;
        tracing::debug!(%error, lines = input.lines(), "restore");
        let xtables::Error::Refused { code, line, .. } = &error else {
            return Fate::Lost(error);
        };
        let owner = line.and_then(|line| input.owner(line)).cloned();
        match owner {
            Some(service) if self.may_go_on() => Fate::Blamed(service, error),
            Some(_) => Fate::Lost(error),
            // A resource that is busy and no line: the lock is somebody else's.
            None if *code == Some(4) && line.is_none() => Fate::Lost(error),
            None => Fate::Refused(error),
        }
    }

    fn count(&mut self, written: &BTreeMap<Table, u64>) {
        for table in [Table::Filter, Table::Nat] {
            let count = written.get(&table).copied().unwrap_or(0);
            *self.restore.rules_written.entry(table.name()).or_default() += count;
        }
    }

    /// What is to be told, and whose rules are refused.
    pub(super) fn finish(
        mut self,
        services: &BTreeSet<ServiceName>,
        applied: Option<&Applied>,
    ) -> (FamilyReport, BTreeSet<ServiceName>) {
        match applied {
            Some(applied) => self.restore.rules = rule_counts(applied),
            None => {
                let error = self.report.leftovers.clone();
                for service in services {
                    let error = BackendError::Lacks(error.clone().map(Box::new));
                    self.report.failed.entry(service.clone()).or_insert(error);
                }
            }
        }
        self.report.restore = Some(self.restore);
        (self.report, self.refused)
    }
}

/// What `restore` begins, with the desired rules of `services`.
fn input_of(mut restore: Restore<'_>, desired: &Desired<'_>, services: &[ServiceName]) -> Input {
    for service in services {
        restore.add(service, desired.rules(service));
    }
    restore.finish()
}

/// What leads from `applied` to the desired rules of `services`.
fn difference(desired: &Desired<'_>, applied: &Applied, services: &[ServiceName]) -> Input {
    part(desired, applied, &mut services.iter(), usize::MAX)
}

/// The same of the first ones of `services`, until there are `most` rules.
fn part<'a>(
    desired: &Desired<'_>,
    applied: &Applied,
    services: &mut impl Iterator<Item = &'a ServiceName>,
    most: usize,
) -> Input {
    let mut restore = Restore::partial(desired.settings, applied);
    for service in services {
        restore.add(service, desired.rules(service));
        if restore.rules() >= most {
            break;
        }
    }
    restore.finish()
}
