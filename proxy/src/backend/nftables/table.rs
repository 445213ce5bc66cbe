//! The table of one family: what is known of it, and a pass over it.

use std::collections::BTreeSet;
use std::time::Instant;

use lb_model::{Family, Frontend, FrontendAddress, Model, ServiceName};
use lb_plan::nftables::{Applied, Operation, Pass, Settings, skeleton};
use nodekit::nft::{Error, NftSocket, TRANSACTION_LIMIT};

use super::affinity::Due;
use super::ahead::Ahead;
use super::read::{self, Present, Structure};
use super::run::{CHUNK, Run};
use crate::backend::{BackendError, FamilyReport};

/// Room for what ends a transaction.
const RESERVE: usize = 1 << 20;

/// The table of one family.
#[derive(Debug)]
pub(super) struct FamilyTable {
    pub(super) settings: Settings,
    /// What the kernel holds, and the signature under which; `None`: not known.
    state: Option<(String, Applied)>,
    /// What is read back for the first pass.
    ahead: Option<Ahead>,
    /// What was read back since the state turned out to be wrong.
    found: Option<Present>,
    /// The chains and rules as they were when last looked at.
    structure: Option<Structure>,
    /// Clients to be forgotten.
    due: Due,
}

/// What a pass leaves to be done by others.
pub(super) struct Outcome {
    pub(super) report: FamilyReport,
    pub(super) udp: Vec<FrontendAddress>,
    pub(super) broken: bool,
    /// Transactions that the kernel took: each raised its generation by one.
    pub(super) commits: u32,
}

/// The part of a model that the table has.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) model: &'a Model,
    pub(super) ours: &'a dyn Fn(&ServiceName) -> bool,
}

impl Part<'_> {
    fn frontends(&self, service: &ServiceName, family: Family) -> Vec<Frontend> {
        if (self.ours)(service) {
            self.model.frontends(service, family)
        } else {
            Vec::new()
        }
    }
}

/// From where a pass starts.
struct Start {
    applied: Applied,
    /// What makes the table, where it must be made.
    opening: Option<Vec<Operation>>,
    limit: usize,
    everything: bool,
}

impl FamilyTable {
    pub(super) fn new(settings: Settings, ahead: Ahead) -> Self {
        Self {
            settings,
            state: None,
            ahead: Some(ahead),
            found: None,
            structure: None,
            due: Due::default(),
        }
    }

    /// What the kernel holds, where that is known.
    pub(super) fn applied(&self) -> Option<&Applied> {
        self.state.as_ref().map(|(_, applied)| applied)
    }

    /// Whether the kernel still has what it should have; its `elements` are only looked at where
    /// that is asked for. If not, the next pass looks at everything.
    pub(super) fn check(&mut self, socket: &mut NftSocket, elements: bool) -> Result<bool, Error> {
        self.found = None;
        let before = self.structure.take();
        let Some((signature, applied)) = &self.state else {
            return Ok(false);
        };
        if *signature == self.settings.signature() {
            self.structure = read::intact(socket, &self.settings, applied, before.as_ref())?;
            if self.structure.is_none() {
                // Chains are made once and whole, so a damaged one means a new table.
                self.found = Some(Present::Foreign);
            } else if !elements || self.has_its_elements(socket)? {
                return Ok(true);
            }
        }
        self.state = None;
        Ok(false)
    }

    fn has_its_elements(&mut self, socket: &mut NftSocket) -> Result<bool, Error> {
        let found = read::read(socket, &self.settings)?;
        let same = match (&found, self.applied()) {
            (Present::Ours(found), Some(known)) => known.is(found),
            _ => false,
        };
        if !same {
            self.found = Some(found);
        }
        Ok(same)
    }

    /// One pass; if the kernel turns out to hold something else than we thought, a second one over
    /// everything.
    pub(super) fn sync(
        &mut self,
        socket: &mut NftSocket,
        part: Part<'_>,
        services: &BTreeSet<ServiceName>,
    ) -> Outcome {
        let started = Instant::now();
        let mut outcome = self.pass(socket, part, services);
        if self.state.is_none() && !outcome.broken && !outcome.report.full {
            let first = outcome;
            outcome = self.pass(socket, part, services);
            outcome.commits += first.commits;
            outcome.report.operations += first.report.operations;
            outcome.report.transactions += first.report.transactions;
        }
        outcome.report.duration = started.elapsed();
        outcome
    }

    fn pass(
        &mut self,
        socket: &mut NftSocket,
        part: Part<'_>,
        services: &BTreeSet<ServiceName>,
    ) -> Outcome {
        let start = match self.start(socket) {
            Ok(start) => start,
            Err(error) => return self.lost(services, error),
        };
        let everything = start.everything;
        let signature = self.settings.signature();
        let mut applied = start.applied;
        let named: BTreeSet<ServiceName> = if everything {
            part.model.services().chain(services).cloned().collect()
        } else {
            services.clone()
        };
        let mut addresses = self
            .settings
            .node_port_address_changes(applied.node_port_addresses());
        addresses.extend(self.settings.service_cidr_changes(applied.service_cidrs()));
        let fresh = applied.is_empty();
        let pass = Pass::new(&mut applied, &self.settings);
        let mut run = Run::new(socket, &self.settings, pass, start.opening, start.limit);
        let addresses_set = run.begin(&addresses);
        plan(&mut run, part, &named, self.settings.family, fresh);
        run.finish(everything);
        let affinity = std::mem::take(&mut run.touched.affinity);
        for (address, all) in affinity {
            *self.due.changed.entry(address).or_default() |= all;
        }
        run.forget(&mut self.due);
        run.sweep();
        let outcome = Outcome {
            udp: std::mem::take(&mut run.touched.udp),
            broken: run.broken,
            commits: run.commits,
            report: FamilyReport {
                full: everything,
                ..std::mem::take(&mut run.report)
            },
        };
        let known = !run.doubtful;
        if addresses_set {
            applied.set_addresses(&self.settings);
        }
        self.state = known.then_some((signature, applied));
        outcome
    }

    fn start(&mut self, socket: &mut NftSocket) -> Result<Start, BackendError> {
        let signature = self.settings.signature();
        let present = match self.state.take() {
            Some((under, applied)) if under == signature => {
                return Ok(Start {
                    applied,
                    opening: None,
                    limit: CHUNK,
                    everything: false,
                });
            }
            Some(_) => Present::Foreign,
            None => match (self.found.take(), self.ahead.take()) {
                (Some(found), _) => found,
                (None, Some(ahead)) => read::read_first(socket, &self.settings, ahead)?,
                // What the first reading did not see is what may be in the way now.
                (None, None) => read::read(socket, &self.settings)?,
            },
        };
        self.due = Due {
            unknown: matches!(present, Present::Ours(_)),
            ..Due::default()
        };
        Ok(match present {
            Present::Ours(applied) => Start {
                applied: *applied,
                opening: None,
                limit: CHUNK,
                everything: true,
            },
            Present::Absent => self.made(false, CHUNK),
            // In one transaction, so that no packet meets half a table.
            Present::Foreign => self.made(true, TRANSACTION_LIMIT - RESERVE),
        })
    }

    fn made(&self, replace: bool, limit: usize) -> Start {
        let mut opening = Vec::new();
        if replace {
            opening.push(Operation::DeleteTable);
        }
        opening.extend(skeleton(&self.settings));
        Start {
            applied: Applied::default(),
            opening: Some(opening),
            limit,
            everything: true,
        }
    }

    /// Nothing could be learnt about the kernel.
    pub(super) fn lost(&self, services: &BTreeSet<ServiceName>, error: BackendError) -> Outcome {
        let failed = services.iter().map(|name| (name.clone(), error.clone()));
        Outcome {
            report: FamilyReport {
                full: true,
                failed: failed.collect(),
                leftovers: Some(error),
                ..FamilyReport::default()
            },
            udp: Vec::new(),
            broken: true,
            commits: 0,
        }
    }
}

/// Plans what `part` says about `services`, which is everything where the table is `fresh`.
fn plan(
    run: &mut Run<'_>,
    part: Part<'_>,
    services: &BTreeSet<ServiceName>,
    family: Family,
    fresh: bool,
) {
    if fresh {
        // Nobody has anything to hand over: one Service after the other.
        for service in services {
            run.plan(service, &part.frontends(service, family));
        }
        return;
    }
    let wanted: Vec<_> = services
        .iter()
        .map(|service| (service, part.frontends(service, family)))
        .collect();
    for (service, frontends) in &wanted {
        run.claim(service, frontends);
    }
    for (service, frontends) in &wanted {
        run.plan(service, frontends);
    }
}
