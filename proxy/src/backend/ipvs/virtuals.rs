//! The virtual services of one family, and a pass over them.

use std::collections::BTreeSet;

use lb_model::{Family, Model, ServiceName};
use lb_plan::ipvs::{Applied, Found, Key, Operation, Settings};
use nodekit::Errno;
use nodekit::netlink::Error;

use super::Options;
use super::kernel::Kernel;
use crate::backend::{BackendError, FamilyReport, PlaneSettings};

/// How many operations are sent at once.
const CHUNK: usize = 4096;

/// One family's.
#[derive(Debug)]
pub(super) struct Virtuals {
    settings: PlaneSettings,
    /// What the kernel has; `None`: not known.
    applied: Option<Applied>,
    /// It may be wrong: the kernel refused what it should have taken.
    doubtful: bool,
    /// Something that all depend on changed.
    outdated: bool,
}

/// Operations, and for which Service; `None`: for none that there is.
type Work = Vec<(Option<ServiceName>, Operation)>;

impl Virtuals {
    pub(super) const fn new(settings: PlaneSettings) -> Self {
        Self {
            settings,
            applied: None,
            doubtful: false,
            outdated: false,
        }
    }

    pub(super) fn set_settings(&mut self, settings: PlaneSettings) {
        self.settings = settings;
        self.outdated = true;
        if let Some(applied) = &mut self.applied {
            applied.unsettle();
        }
    }

    /// Whether every Service is to be planned.
    pub(super) const fn wants_everything(&self) -> bool {
        self.applied.is_none() || self.doubtful || self.outdated
    }

    /// What the kernel has is not known any more.
    pub(super) fn forget(&mut self) {
        self.applied = None;
    }

    /// Whether an endpoint that left still has connections, as far as is known.
    pub(super) fn drains(&self) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|applied| applied.draining().next().is_some())
    }

    /// Whether the kernel has what it should have.
    pub(super) fn is(&self, found: &Found) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|applied| applied.is(found))
    }

    /// Before the rules send packets there: brings everything that `services` want, and takes away
    /// endpoints that others stand beside.
    ///
    /// # Errors
    /// The exchange failed: nothing is known any more.
    pub(super) fn come(
        &mut self,
        kernel: &mut Kernel,
        options: &Options,
        model: &Model,
        services: &BTreeSet<ServiceName>,
        report: &mut FamilyReport,
    ) -> Result<(), Error> {
        let family = self.settings.family;
        if self.applied.is_none() || std::mem::take(&mut self.doubtful) {
            self.applied = Some(Applied::adopt(kernel.read(family, options)?));
        }
        let settings = self.plan_settings(options);
        let mut work = Work::new();
        for service in services {
            let frontends = model.frontends(service, family);
            let serving = |address: &_| model.serving(address).unwrap_or_default();
            if let Some(applied) = &mut self.applied {
                let operations = applied.plan(service, &frontends, serving, &settings);
                let operations = operations.into_iter();
                work.extend(operations.map(|operation| (Some(service.clone()), operation)));
            }
            if work.len() >= CHUNK {
                self.perform(kernel, std::mem::take(&mut work), report)?;
            }
        }
        self.perform(kernel, work, report)?;
        self.bind(kernel, &settings, report)?;
        self.outdated = false;
        Ok(())
    }

    /// After the rules send packets there no more: lets go of what nobody wants, and removes what
    /// has no connections. The rules of Services that are `held` are as they were.
    ///
    /// # Errors
    /// As [`Virtuals::come`].
    pub(super) fn go(
        &mut self,
        kernel: &mut Kernel,
        options: &Options,
        held: &BTreeSet<ServiceName>,
        report: &mut FamilyReport,
    ) -> Result<(), Error> {
        let settings = self.plan_settings(options);
        let retired = self.plan(|applied| applied.retire(|service| held.contains(service)));
        self.perform(kernel, retired, report)?;
        let draining: Vec<Key> = match &self.applied {
            Some(applied) => applied.draining().collect(),
            None => Vec::new(),
        };
        for key in draining {
            let idle = kernel.idle(key)?;
            let drained = self.plan(|applied| applied.drained(key, |target| idle.contains(target)));
            self.perform(kernel, drained, report)?;
        }
        self.bind(kernel, &settings, report)
    }

    fn bind(
        &mut self,
        kernel: &mut Kernel,
        settings: &Settings,
        report: &mut FamilyReport,
    ) -> Result<(), Error> {
        let bindings = self.plan(|applied| applied.bindings(settings));
        self.perform(kernel, bindings, report)
    }

    fn plan(&mut self, plan: impl FnOnce(&mut Applied) -> Vec<Operation>) -> Work {
        let operations = self.applied.as_mut().map(plan).unwrap_or_default();
        operations.into_iter().map(|one| (None, one)).collect()
    }

    /// Carries `work` out. What was refused is named in `report`, and the rest goes on.
    fn perform(
        &mut self,
        kernel: &mut Kernel,
        work: Work,
        report: &mut FamilyReport,
    ) -> Result<(), Error> {
        let Some(applied) = &mut self.applied else {
            return Ok(());
        };
        if work.is_empty() {
            return Ok(());
        }
        let mut refused = kernel.apply(work.iter().map(|(_, operation)| operation))?;
        refused.sort_by_key(|(place, _)| *place);
        let mut refused = refused.into_iter().peekable();
        report.transactions += 1;
        for (place, (service, operation)) in work.into_iter().enumerate() {
            let Some((_, error)) = refused.next_if(|(at, _)| *at == place) else {
                applied.commit(&operation);
                report.operations += 1;
                continue;
            };
            // It is there, or not there, against all we know; or there is no such scheduler.
            self.doubtful |= matches!(
                error.errno(),
                Some(Errno::EEXIST | Errno::ENOENT | Errno::ESRCH | Errno::ENODEV)
            );
            let error = BackendError::Ipvs(error);
            match service {
                Some(service) => {
                    report.failed.entry(service).or_insert(error);
                }
                None => report.leftovers = Some(error),
            }
        }
        Ok(())
    }

    fn plan_settings(&self, options: &Options) -> Settings {
        Settings {
            family: self.settings.family,
            scheduler: options.scheduler.clone(),
            node_port_addresses: self.settings.node_port_addresses.clone(),
            own: self.settings.own_addresses.clone(),
        }
    }

    /// Its family.
    pub(super) const fn family(&self) -> Family {
        self.settings.family
    }
}
