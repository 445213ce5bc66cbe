//! What failed, and when it is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lb_model::ServiceName;

use crate::backend::PassReport;
use crate::backoff::Doubling;

/// The first wait after a failure; doubled up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(10);

/// Services, and the rest of a pass, that are to be tried again.
#[derive(Debug, Default)]
pub(super) struct Retries {
    services: BTreeMap<ServiceName, Retry>,
    /// What belongs to no Service: leftovers, UDP flows.
    rest: Option<Retry>,
}

#[derive(Debug)]
struct Retry {
    waits: Doubling,
    due: Instant,
}

impl Retry {
    fn after(known: Option<Self>, now: Instant) -> Self {
        let mut waits = known.map_or_else(|| Doubling::new(FIRST, LONGEST), |retry| retry.waits);
        let wait = waits.next().unwrap_or(LONGEST);
        Self {
            waits,
            due: now + wait,
        }
    }
}

impl Retries {
    /// When the next one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.services
            .values()
            .chain(&self.rest)
            .map(|retry| retry.due)
            .min()
    }

    /// The Services that are due at `now`. They stay known until [`Retries::settle`].
    pub(super) fn take_due(&self, now: Instant) -> BTreeSet<ServiceName> {
        let due = self.services.iter().filter(|(_, retry)| retry.due <= now);
        due.map(|(name, _)| name.clone()).collect()
    }

    /// Learns what a pass over `services` did.
    pub(super) fn settle(
        &mut self,
        services: &BTreeSet<ServiceName>,
        report: &PassReport,
        now: Instant,
    ) {
        let failed: BTreeSet<&ServiceName> = report.failed().collect();
        self.services
            .retain(|name, _| !services.contains(name) || failed.contains(name));
        for name in failed {
            let known = self.services.remove(name);
            self.services.insert(name.clone(), Retry::after(known, now));
        }
        let rest_failed = report
            .families
            .values()
            .any(|family| family.leftovers.is_some())
            || report.flows.values().any(|flows| flows.failed.is_some());
        self.rest = rest_failed.then(|| Retry::after(self.rest.take(), now));
    }
}
