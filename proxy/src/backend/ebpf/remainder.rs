//! What eBPF cannot do: the nftables data plane beside, which is there only while it has something
//! to do, since its very presence costs every packet of the node.

use std::collections::{BTreeMap, BTreeSet};

use lb_model::{Family, Model, ServiceName};
use lb_plan::nftables::{Settings, TABLE};
use nodekit::conntrack::{self, ConntrackSocket, Entry};
use nodekit::nft::{self, NftSocket};

use crate::backend::{BackendError, FamilyReport, NftablesBackend, PassReport};

/// See the module.
#[derive(Debug)]
pub(super) struct Remainder {
    plane: Option<NftablesBackend>,
    settings: BTreeMap<Family, Settings>,
    services: BTreeSet<ServiceName>,
}

impl Remainder {
    /// Changes nothing yet.
    pub(super) fn open(settings: Vec<Settings>) -> Result<Self, BackendError> {
        Ok(Self {
            plane: Some(NftablesBackend::open(settings.clone())?),
            settings: settings.into_iter().map(|one| (one.family, one)).collect(),
            services: BTreeSet::new(),
        })
    }

    /// A Service that is not all taken is left as a whole: what of it eBPF takes as well never gets
    /// here.
    pub(super) fn set(&mut self, service: &ServiceName, left: bool) {
        if left {
            self.services.insert(service.clone());
        } else {
            self.services.remove(service);
        }
    }

    pub(super) fn has(&self, service: &ServiceName) -> bool {
        self.services.contains(service)
    }

    /// Everything will be said anew.
    pub(super) fn clear(&mut self) {
        self.services.clear();
    }

    pub(super) fn set_settings(&mut self, settings: Settings) {
        if let Some(plane) = &mut self.plane {
            plane.set_settings(settings.clone());
        }
        self.settings.insert(settings.family, settings);
    }

    /// Brings the tables to what is left of `services`, or has none.
    pub(super) fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        if self.services.is_empty() {
            match self.retire() {
                Ok(true) => return self.nothing(),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "tables of no use stay"),
            }
        }
        if self.plane.is_none() {
            match NftablesBackend::open(self.settings.values().cloned().collect()) {
                Ok(plane) => self.plane = Some(plane),
                Err(error) => return self.failed(&error),
            }
        }
        let Some(plane) = &mut self.plane else {
            return PassReport::default();
        };
        let ours = &self.services;
        plane.sync_only(model, services, &|service| ours.contains(service))
    }

    /// Whether somebody else changed the tables.
    pub(super) fn check(&mut self) -> Result<bool, BackendError> {
        if self.services.is_empty() && self.retire()? {
            return Ok(false);
        }
        match &mut self.plane {
            Some(plane) => plane.check(),
            None => Ok(false),
        }
    }

    /// Takes the tables away, if no connection needs them: the kernel translates the packets of
    /// one only as long as there are chains that translate. Gives whether they are gone.
    fn retire(&mut self) -> Result<bool, BackendError> {
        if self.plane.is_none() {
            return Ok(true);
        }
        if are_there()? {
            if is_translating().map_err(BackendError::Conntrack)? {
                return Ok(false);
            }
            NftablesBackend::cleanup()?;
            tracing::info!("nothing is left to nftables: its tables are gone");
        }
        self.plane = None;
        Ok(true)
    }

    fn nothing(&self) -> PassReport {
        let families = self.settings.keys();
        PassReport {
            families: families
                .map(|family| (*family, FamilyReport::default()))
                .collect(),
            ..PassReport::default()
        }
    }

    fn failed(&self, error: &BackendError) -> PassReport {
        let mut report = self.nothing();
        for family in report.families.values_mut() {
            family.leftovers = Some(error.clone());
        }
        report
    }
}

/// Whether there is a table of ours.
fn are_there() -> Result<bool, BackendError> {
    let mut socket = NftSocket::open()?;
    for family in [nft::Family::Ip, nft::Family::Ip6] {
        let tables = socket.tables(Some(family))?;
        if tables.iter().any(|table| table.name == TABLE) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a connection is translated to somewhere else, by whomever.
fn is_translating() -> Result<bool, nodekit::netlink::Error> {
    let mut socket = ConntrackSocket::open()?;
    for family in [conntrack::Family::Ip, conntrack::Family::Ip6] {
        let translated = socket.list(family, None, Entry::is_destination_translated)?;
        if !translated.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
