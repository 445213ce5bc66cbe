//! The rules of one family: what is known of them, and a pass over them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_model::{FrontendAddress, Model, Protocol, ServiceName, ServicePort};
use lb_plan::iptables::{
    Applied, LARGE, NodePortAddresses, ServiceRules, Settings, Table, endpoints,
};
use nodekit::route::Handle;
use nodekit::sysctl;
use nodekit::xtables::{self, Xtables};

use super::counters::Counters;
use super::listing;
use super::run::Run;
use crate::backend::plane::PlaneSettings;
use crate::backend::{BackendError, FamilyReport};

/// Everything is written anew at least so often, as kube-proxy does.
const FULL_PERIOD: Duration = Duration::from_secs(3600);
/// The canary's chain.
pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";

/// The rules of one family.
#[derive(Debug)]
pub(super) struct FamilyRules {
    pub(super) settings: PlaneSettings,
    pub(super) xtables: Xtables,
    /// What the kernel holds, and under which settings; `None`: not known.
    state: Option<State>,
    /// Services whose rules are refused. They are tried by themselves.
    refused: BTreeSet<ServiceName>,
    /// The UDP frontends that each Service has.
    udp: HashMap<ServiceName, Vec<FrontendAddress>>,
    counters: Counters,
    /// `route_localnet` could not be set, and that was said.
    warned: bool,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    applied: Applied,
    written: Instant,
}

/// What a pass leaves to be done by others.
pub(super) struct Outcome {
    pub(super) report: FamilyReport,
    pub(super) udp: Vec<FrontendAddress>,
}

/// A Service's rules, out of the model.
pub(super) struct Desired<'a> {
    pub(super) model: &'a Model,
    pub(super) settings: &'a Settings,
    /// No words for each endpoint.
    pub(super) large: bool,
}

impl Desired<'_> {
    pub(super) fn ports(&self, service: &ServiceName) -> Vec<ServicePort> {
        self.model.ports(service, self.settings.family)
    }

    pub(super) fn rules(&self, service: &ServiceName) -> ServiceRules {
        let health = self.model.health_check_port(service, self.settings.family);
        let ports = self.ports(service);
        ServiceRules::new(self.settings, self.large, service, &ports, health)
    }

    fn endpoints<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> usize {
        services.map(|one| endpoints(&self.ports(one))).sum()
    }
}

impl FamilyRules {
    pub(super) fn new(xtables: Xtables, settings: PlaneSettings) -> Self {
        Self {
            settings,
            xtables,
            state: None,
            refused: BTreeSet::new(),
            udp: HashMap::new(),
            counters: Counters::default(),
            warned: false,
        }
    }

    /// What rules depend on now.
    fn wanted(&self) -> Settings {
        Settings {
            counters: self.counters.usable(),
            ..Settings::from(&self.settings)
        }
    }

    /// The addresses on which node ports are served now.
    pub(super) fn node_port_addresses(&self) -> BTreeSet<IpAddr> {
        let said = &self.settings.node_port_addresses;
        let mut addresses = match Settings::from(&self.settings).node_port_addresses {
            NodePortAddresses::These(addresses) => addresses,
            NodePortAddresses::EveryLocal => local_addresses().unwrap_or_else(|error| {
                tracing::warn!(%error, "this host's addresses are unknown");
                said.clone()
            }),
        };
        if Settings::from(&self.settings).serves_localhost() {
            addresses.insert(Ipv4Addr::LOCALHOST.into());
        }
        addresses
    }

    /// Whether somebody else changed what is ours. Where there is much, only the canaries are looked
    /// at: a whole listing would take seconds.
    pub(super) fn check(&mut self) -> Result<bool, BackendError> {
        let Some(state) = &self.state else {
            return Ok(true);
        };
        let stale = state.settings != self.wanted() || state.written.elapsed() >= FULL_PERIOD;
        let intact = if stale {
            false
        } else if state.applied.endpoints() > LARGE {
            self.canaries_live()?
        } else {
            let found = listing(&self.xtables)?;
            state.applied.is_in(&state.settings, &found)
        };
        if !intact {
            self.state = None;
        }
        Ok(!intact)
    }

    fn canaries_live(&self) -> Result<bool, xtables::Error> {
        let tables = [
            xtables::Table::Mangle,
            xtables::Table::Nat,
            xtables::Table::Filter,
        ];
        for table in tables {
            // It has a rule, so that a flush that leaves the chains shows, too.
            let rules = self.xtables.rules(table, CANARY)?;
            if rules.is_none_or(|rules| rules.is_empty()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One pass.
    pub(super) fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> Outcome {
        let started = Instant::now();
        let mut settings = self.wanted();
        let known = self
            .state
            .take()
            .filter(|state| state.settings == settings && state.written.elapsed() < FULL_PERIOD);
        if known.is_none() {
            self.allow_localhost(&settings);
            self.counters.provide(&self.xtables);
            settings = self.wanted();
        }
        let mut run = Run::new(&self.xtables, std::mem::take(&mut self.refused));
        let mut full = known.is_none();
        let mut kept = None;
        if let Some(mut state) = known {
            let desired = Desired {
                model,
                settings: &settings,
                large: is_large(&state.applied, model, &settings, services),
            };
            if run.partial(&desired, &mut state.applied, services) {
                kept = Some(state);
            } else {
                full = true;
            }
        }
        if full {
            let all: BTreeSet<ServiceName> = model.services().cloned().collect();
            let mut desired = Desired {
                model,
                settings: &settings,
                large: false,
            };
            desired.large = desired.endpoints(all.iter()) > LARGE;
            kept = run.full(&desired, &all).map(|applied| State {
                settings: settings.clone(),
                applied,
                written: Instant::now(),
            });
        }
        let (mut report, refused) = run.finish(services, kept.as_ref().map(|state| &state.applied));
        self.refused = refused;
        self.state = kept;
        report.full = full;
        report.duration = started.elapsed();
        Outcome {
            report,
            udp: self.note_udp(model, services, full),
        }
    }

    /// The UDP frontends of `services`, or of all, those that are gone included.
    fn note_udp(
        &mut self,
        model: &Model,
        services: &BTreeSet<ServiceName>,
        all: bool,
    ) -> Vec<FrontendAddress> {
        let family = self.settings.family;
        let named: Vec<ServiceName> = if all {
            let known = model.services().chain(self.udp.keys());
            known.chain(services).cloned().collect()
        } else {
            services.iter().cloned().collect()
        };
        let mut touched = Vec::new();
        for service in named {
            let frontends = model.frontends(&service, family).into_iter();
            let addresses = frontends.map(|frontend| frontend.address);
            let now: Vec<FrontendAddress> = addresses
                .filter(|address| address.protocol() == Protocol::Udp)
                .collect();
            touched.extend(&now);
            let before = if now.is_empty() {
                self.udp.remove(&service)
            } else {
                self.udp.insert(service, now)
            };
            touched.extend(before.unwrap_or_default());
        }
        touched
    }

    /// Lets connections to 127.0.0.0/8 leave the node, and their answers come back.
    fn allow_localhost(&mut self, settings: &Settings) {
        if !settings.serves_localhost() || self.warned {
            return;
        }
        let allowed = sysctl::Key::new(["net", "ipv4", "conf", "all", "route_localnet"])
            .and_then(|key| sysctl::ensure(&key, "1"));
        if let Err(error) = allowed {
            self.warned = true;
            tracing::warn!(
                %error,
                "node ports do not answer on 127.0.0.1: set net.ipv4.conf.all.route_localnet=1 on \
                 this host, or iptables.localhostNodePorts to false"
            );
        }
    }
}

/// All addresses of this host, of both families.
fn local_addresses() -> Result<BTreeSet<IpAddr>, nodekit::route::Error> {
    let addresses = Handle::open()?.addresses(None)?.into_iter();
    Ok(addresses.map(|address| address.address.ip()).collect())
}

/// Whether there are so many endpoints, when `services` are as `model` says, that rules for each of
/// them carry no words.
fn is_large(
    applied: &Applied,
    model: &Model,
    settings: &Settings,
    services: &BTreeSet<ServiceName>,
) -> bool {
    let desired = Desired {
        model,
        settings,
        large: false,
    };
    let before: usize = services.iter().map(|one| applied.endpoints_of(one)).sum();
    let others = applied.endpoints().saturating_sub(before);
    others + desired.endpoints(services.iter()) > LARGE
}

/// The rules in the kernel, for the metrics.
pub(super) fn rule_counts(applied: &Applied) -> BTreeMap<&'static str, u64> {
    let tables = [Table::Filter, Table::Nat].into_iter();
    tables
        .map(|table| (table.name(), applied.rules(table)))
        .collect()
}
