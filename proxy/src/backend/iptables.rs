//! The iptables data plane: kube-proxy's chains, through iptables' own programs.

mod counters;
mod family;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_model::{Family, Model, ServiceName};
use lb_plan::iptables::{Listing, NodePortAddresses, Settings};
use nodekit::xtables::{self, Table, Variant, Xtables};

use super::conntrack::Flows;
use super::plane::{DataPlane, PlaneSettings};
use super::{BackendError, PassReport};
use family::FamilyRules;

/// The rules of one or both families. Blocks; belongs to one thread, whose network namespace it
/// programs.
#[derive(Debug)]
pub struct IptablesBackend {
    variant: Variant,
    families: Vec<FamilyRules>,
    flows: Flows,
    #[cfg(feature = "faulty")]
    faults: Option<nodekit::faulty::Faults>,
}

impl IptablesBackend {
    /// Looks for iptables, in the variant that others on this node use. Changes nothing: rules are
    /// made by the first [`DataPlane::sync`].
    ///
    /// `settings`: one for each family to be served; a family not named has its rules left alone.
    ///
    /// # Errors
    /// [`BackendError::NoIptables`]; [`BackendError::Conntrack`] if no socket can be opened.
    pub fn open(settings: Vec<PlaneSettings>) -> Result<Self, BackendError> {
        let first = settings.first().map_or(Family::V4, |one| one.family);
        let found = Variant::detect().map_err(|error| no_iptables(first, error))?;
        tracing::info!(variant = %found.variant, reason = found.reason, "iptables");
        Self::of(found.variant, settings)
    }

    /// As [`IptablesBackend::open`], in this variant.
    ///
    /// # Errors
    /// As [`IptablesBackend::open`].
    pub fn of(variant: Variant, settings: Vec<PlaneSettings>) -> Result<Self, BackendError> {
        let mut backend = Self {
            variant,
            families: Vec::new(),
            flows: Flows::open()?,
            #[cfg(feature = "faulty")]
            faults: None,
        };
        for settings in settings {
            let family = settings.family;
            let rules = backend.family(settings);
            let rules = rules.map_err(|error| no_iptables(family, error))?;
            backend.families.push(rules);
        }
        Ok(backend)
    }

    /// The same, whose programs fail as `faults` says.
    #[cfg(feature = "faulty")]
    #[must_use]
    pub fn with_faults(mut self, faults: &nodekit::faulty::Faults) -> Self {
        for family in &mut self.families {
            family.xtables = family.xtables.clone().with_faults(faults.clone());
        }
        self.faults = Some(faults.clone());
        self
    }

    /// Which of the two.
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    fn family(&self, settings: PlaneSettings) -> Result<FamilyRules, xtables::Error> {
        let xtables = Xtables::of(words(settings.family), self.variant)?;
        #[cfg(feature = "faulty")]
        let xtables = match &self.faults {
            Some(faults) => xtables.with_faults(faults.clone()),
            None => xtables,
        };
        // A kernel without the table says so here.
        xtables.chains(Table::Nat)?;
        Ok(FamilyRules::new(xtables, settings))
    }

    /// Removes all chains of both families, of both variants (`--cleanup`). What the kubelet or
    /// others use, too, stays.
    ///
    /// # Errors
    /// [`BackendError::Iptables`]; one failure does not keep the rest.
    pub fn cleanup() -> Result<(), BackendError> {
        let mut result = remove_everywhere(Listing::removal);
        // Nothing of ours counts with them any more.
        if let Err(error) = counters::remove() {
            result = Err(BackendError::Counters(error));
        }
        result
    }

    /// Removes the chains that only kube-proxy's mode ipvs has, of both families, of both variants.
    /// In mode iptables, after the first full write.
    ///
    /// # Errors
    /// [`BackendError::Iptables`]; one failure does not keep the rest.
    pub fn remove_ipvs_chains() -> Result<(), BackendError> {
        remove_everywhere(Listing::ipvs_removal)
    }
}

impl DataPlane for IptablesBackend {
    fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        let mut report = PassReport::default();
        for rules in &mut self.families {
            let family = rules.settings.family;
            let outcome = rules.sync(model, services);
            self.flows.touch(family, outcome.report.full, outcome.udp);
            report.families.insert(family, outcome.report);
        }
        let served: BTreeMap<_, _> = self
            .families
            .iter()
            .map(|rules| (rules.settings.family, rules.node_port_addresses()))
            .collect();
        let served = served
            .iter()
            .map(|(family, addresses)| (*family, addresses));
        report.flows = self.flows.reconcile(model, served);
        report
    }

    fn set_settings(&mut self, settings: PlaneSettings) {
        let family = settings.family;
        match self
            .families
            .iter_mut()
            .find(|rules| rules.settings.family == family)
        {
            Some(rules) => rules.settings = settings,
            None => match self.family(settings) {
                Ok(rules) => self.families.push(rules),
                Err(error) => tracing::warn!(?family, %error, "this family is not served"),
            },
        }
    }

    fn recheck_flows(&mut self) {
        let families = self.families.iter().map(|rules| rules.settings.family);
        self.flows.touch_all(families);
    }

    fn check(&mut self) -> Result<bool, BackendError> {
        let mut needed = false;
        for rules in &mut self.families {
            needed |= rules.check()?;
        }
        Ok(needed)
    }
}

/// Does in both families of both variants what `removal` makes of what is there.
fn remove_everywhere(removal: fn(&Listing) -> Option<String>) -> Result<(), BackendError> {
    let mut result = Ok(());
    for variant in Variant::ALL {
        for family in Family::ALL {
            let Ok(xtables) = Xtables::of(words(family), variant) else {
                // Not installed, so nothing can be there.
                continue;
            };
            let removed = listing(&xtables).and_then(|found| match removal(&found) {
                Some(input) => xtables.restore(&input),
                None => Ok(()),
            });
            if let Err(error) = removed {
                result = Err(error.into());
            }
        }
    }
    result
}

/// What is there of ours.
fn listing(xtables: &Xtables) -> Result<Listing, xtables::Error> {
    let mut found = Listing::default();
    xtables.save(None, &mut |line| found.line(line))?;
    Ok(found)
}

const fn words(family: Family) -> xtables::Family {
    match family {
        Family::V4 => xtables::Family::Ip,
        Family::V6 => xtables::Family::Ip6,
    }
}

fn no_iptables(family: Family, error: xtables::Error) -> BackendError {
    BackendError::NoIptables {
        family,
        source: Arc::new(error),
    }
}

impl From<xtables::Error> for BackendError {
    fn from(error: xtables::Error) -> Self {
        Self::Iptables(Arc::new(error))
    }
}

/// Without counters: whether there are any is not for settings to say. The unspecified address among those that serve node ports stands for every address of the node,
/// whenever it comes.
impl From<&PlaneSettings> for Settings {
    fn from(settings: &PlaneSettings) -> Self {
        let addresses = &settings.node_port_addresses;
        let every = addresses.iter().any(std::net::IpAddr::is_unspecified);
        Self {
            family: settings.family,
            masquerade_bit: settings.masquerade_bit,
            detector: settings.detector.clone(),
            node_port_addresses: if every {
                NodePortAddresses::EveryLocal
            } else {
                NodePortAddresses::These(addresses.clone())
            },
            localhost_node_ports: settings.localhost_node_ports,
            tcp_be_liberal: settings.tcp_be_liberal,
            counters: false,
        }
    }
}
