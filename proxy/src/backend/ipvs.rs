//! The IPVS data plane: the kernel's virtual servers choose the endpoints, and the tables of
//! nftables do what is left ([`lb_plan::ipvs`]).

mod handover;
mod host;
mod kernel;
mod options;
mod virtuals;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lb_model::{Family, Model, ServiceName};
use lb_plan::nftables::{Balancer, Settings};
use nodekit::netlink::Error;
use nodekit::route::index_of;

pub(crate) use host::parameters;
pub use lb_plan::ipvs::DEVICE;
pub use options::{Options, SCHEDULERS, Timeouts};

use super::{BackendError, DataPlane, FamilyReport, NftablesBackend, PassReport, PlaneSettings};
use kernel::Kernel;
use virtuals::Virtuals;

/// How often one looks whether endpoints that left have connections yet.
const DRAINING: Duration = Duration::from_secs(10);
/// Reading everything back takes one part in so many of the time at most.
const SHARE: u32 = 20;

/// Virtual services, the device with their addresses, and the tables beside. Blocks; belongs to one
/// thread, whose network namespace it programs.
#[derive(Debug)]
pub struct IpvsBackend {
    options: Options,
    rules: NftablesBackend,
    /// `None`: a socket failed, or the node has to be prepared anew.
    kernel: Option<Kernel>,
    families: Vec<Virtuals>,
    /// When everything may be read back.
    rest: Option<Instant>,
}

impl IpvsBackend {
    /// Looks whether the kernel can do what is needed. Changes nothing, but that the kernel may load
    /// its module.
    ///
    /// `settings`: one for each family to be served.
    ///
    /// # Errors
    /// [`BackendError::NoIpvs`], and as [`NftablesBackend::open`].
    pub fn open(options: &Options, settings: Vec<PlaneSettings>) -> Result<Self, BackendError> {
        Kernel::open().map_err(BackendError::NoIpvs)?;
        let rules = settings.iter().cloned().map(rules).collect();
        Ok(Self {
            options: options.clone(),
            rules: NftablesBackend::open(rules)?,
            kernel: None,
            families: settings.into_iter().map(Virtuals::new).collect(),
            rest: None,
        })
    }

    /// Has connection tracking translate what IPVS translates so far, and removes the virtual services:
    /// another data plane is in place. [`IpvsBackend::cleanup`] has the rest to do. Gives whether some go
    /// on; the log says how many.
    ///
    /// # Errors
    /// [`BackendError::Ipvs`], [`BackendError::Conntrack`] and [`BackendError::Nft`]: connections
    /// through IPVS may end.
    pub fn hand_over(options: &Options) -> Result<bool, BackendError> {
        if index_of(DEVICE).map_err(BackendError::Ipvs)?.is_none() {
            return Ok(false);
        }
        let mut kernel = Kernel::open().map_err(BackendError::Ipvs)?;
        let keys = kernel.keys(options).map_err(BackendError::Ipvs)?;
        let served = keys.iter().map(|key| key.ip).collect();
        let handed = handover::hand_over(&served, || kernel.delete(&keys))?;
        if let Some(reason) = handed.reason {
            tracing::warn!(
                connections = handed.over,
                refused = handed.refused,
                %reason,
                "not all connections through IPVS are taken by connection tracking: those that were \
                 refused end"
            );
        } else if handed.over > 0 {
            tracing::info!(
                connections = handed.over,
                "connections through IPVS go on by connection tracking"
            );
        }
        Ok(handed.over > 0)
    }

    /// Removes the virtual services, their addresses and the device, if that is there. (The tables are
    /// those of mode nftables.)
    ///
    /// # Errors
    /// [`BackendError::Ipvs`].
    pub fn cleanup(options: &Options) -> Result<(), BackendError> {
        remove(options).map_err(BackendError::Ipvs)
    }

    /// Has every family do something with the kernel, each with a report of its own. A failed exchange
    /// leaves nothing known.
    fn each(
        &mut self,
        reports: &mut BTreeMap<Family, FamilyReport>,
        mut act: impl FnMut(&mut Virtuals, &mut Kernel, &mut FamilyReport) -> Result<(), Error>,
    ) {
        for virtuals in &mut self.families {
            let report = reports.entry(virtuals.family()).or_default();
            let began = Instant::now();
            if let Some(kernel) = &mut self.kernel
                && let Err(error) = act(virtuals, kernel, report)
            {
                report.leftovers = Some(BackendError::Ipvs(error));
                self.kernel = None;
            }
            report.duration += began.elapsed();
        }
    }

    /// Makes the node what it has to be for this data plane, unless it is.
    fn prepare(&mut self) -> Result<(), BackendError> {
        if self.kernel.is_none() {
            let mut kernel = Kernel::open().map_err(BackendError::NoIpvs)?;
            host::prepare(&mut kernel, &self.options)?;
            self.families.iter_mut().for_each(Virtuals::forget);
            self.kernel = Some(kernel);
        }
        Ok(())
    }

    /// Nothing could be done.
    fn failed(&self, error: &BackendError) -> PassReport {
        let families = self.families.iter().map(|virtuals| {
            let report = FamilyReport {
                leftovers: Some(error.clone()),
                ..FamilyReport::default()
            };
            (virtuals.family(), report)
        });
        PassReport {
            families: families.collect(),
            ..PassReport::default()
        }
    }

    /// Whether IPVS and the device have what they should.
    fn is_intact(&mut self) -> Result<bool, Error> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(true);
        };
        let mut intact = true;
        for virtuals in &mut self.families {
            let found = kernel.read(virtuals.family(), &self.options)?;
            intact &= virtuals.is(&found);
        }
        Ok(intact)
    }
}

impl DataPlane for IpvsBackend {
    fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        if let Err(error) = self.prepare() {
            return self.failed(&error);
        }
        let mut services = services.clone();
        if self.families.iter().any(Virtuals::wants_everything) {
            services.extend(model.services().cloned());
        }
        let options = self.options.clone();
        let mut came = BTreeMap::new();
        self.each(&mut came, |virtuals, kernel, report| {
            virtuals.come(kernel, &options, model, &services, report)
        });
        // Where IPVS has not what a Service wants, its rules stay as they are.
        let failed = came.values().flat_map(|report| report.failed.keys());
        for service in failed {
            services.remove(service);
        }
        let mut report = self.rules.sync(model, &services);
        for (family, before) in came {
            report.families.entry(family).or_default().add(before);
        }
        let held: BTreeSet<ServiceName> = report.failed().cloned().collect();
        let mut families = report.families.values();
        if families.all(|family| family.leftovers.is_none()) {
            self.each(&mut report.families, |virtuals, kernel, report| {
                virtuals.go(kernel, &options, &held, report)
            });
        }
        if self.families.iter().any(Virtuals::drains) {
            report.look_again = Some(Instant::now() + DRAINING);
        }
        report
    }

    fn set_settings(&mut self, settings: PlaneSettings) {
        self.rules.set_settings(rules(settings.clone()));
        let mut families = self.families.iter_mut();
        match families.find(|virtuals| virtuals.family() == settings.family) {
            Some(virtuals) => virtuals.set_settings(settings),
            None => self.families.push(Virtuals::new(settings)),
        }
    }

    fn check(&mut self) -> Result<bool, BackendError> {
        let rules = self.rules.check()?;
        let began = Instant::now();
        if self.rest.is_some_and(|until| began < until) {
            return Ok(rules);
        }
        let intact = self.is_intact();
        self.rest = Some(Instant::now() + began.elapsed() * SHARE);
        if !matches!(intact, Ok(true)) {
            // To be prepared and read anew.
            self.kernel = None;
        }
        Ok(rules || !intact.map_err(BackendError::Ipvs)?)
    }

    fn recheck_flows(&mut self) {
        self.rules.recheck_flows();
    }
}

/// What the tables beside are told.
fn rules(settings: PlaneSettings) -> Settings {
    let own = settings.own_addresses.clone();
    Settings {
        balancer: Balancer::Ipvs { own },
        ..settings.into()
    }
}

fn remove(options: &Options) -> Result<(), Error> {
    // Without the device nobody ever was in this mode, and to ask IPVS would load its module.
    if index_of(DEVICE)?.is_none() {
        return Ok(());
    }
    let mut kernel = Kernel::open()?;
    let keys = kernel.keys(options)?;
    kernel.delete(&keys)?;
    kernel.remove_device()
}
