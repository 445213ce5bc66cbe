//! A pass as it goes: what was looked at, done, and failed.

use std::collections::{BTreeMap, BTreeSet};

use lb_model::ServiceName;

use super::{Error, refused};
use crate::backend::{BackendError, PassReport};

/// What a pass did so far.
pub(super) struct Pass {
    /// Operations on the maps.
    pub(super) operations: usize,
    /// Services that are nftables' now.
    pub(super) failed: BTreeMap<ServiceName, BackendError>,
    /// What the maps have of one of them could not be taken away.
    pub(super) stuck: bool,
    /// UDP frontends are among what was looked at.
    pub(super) udp: bool,
    /// It was over everything.
    pub(super) full: bool,
    /// The first thing that failed and is no Service's.
    result: Result<(), Error>,
}

impl Pass {
    pub(super) const fn new() -> Self {
        Self {
            operations: 0,
            failed: BTreeMap::new(),
            stuck: false,
            udp: false,
            full: false,
            result: Ok(()),
        }
    }

    /// A step is done, or failed.
    pub(super) fn note(&mut self, step: Result<(), Error>) {
        if self.result.is_ok() {
            self.result = step;
        }
    }

    /// A step on the maps is done, or failed.
    pub(super) fn count(&mut self, step: Result<usize, Error>) {
        let step = step.map(|operations| {
            self.operations += operations;
        });
        self.note(step);
    }

    /// One set of maps serves both families; what is done to it is told with the first.
    pub(super) fn tell(self, report: &mut PassReport) {
        for family in report.families.values_mut() {
            family.full |= self.full;
        }
        if let Some(family) = report.families.values_mut().next() {
            family.operations += self.operations;
            family.failed.extend(self.failed);
            if let Err(error) = self.result {
                family.leftovers = Some(refused(error));
            }
        }
    }
}

/// The Services that a pass looks at.
pub(super) struct Sorted {
    /// Those whom nftables shall not have.
    pub(super) taken: BTreeSet<ServiceName>,
    /// Those whom it shall.
    pub(super) left: BTreeSet<ServiceName>,
}
