//! What every data plane does, and the one place where one is opened or removed.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use lb_model::{Family, LocalDetector, Model, ServiceName};
use lb_plan::nftables::Balancer;

use super::ebpf::{self, Counts, EbpfBackend};
use super::ipvs::{self, IpvsBackend};
use super::{BackendError, IptablesBackend, NftablesBackend, PassReport};
use crate::config::Mode;
use crate::metrics::family_name;

/// What the whole program of one family depends on, whatever the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneSettings {
    /// The family.
    pub family: Family,
    /// Number of the bit of the packet's mark (0 to 31) that says "rewrite the source".
    pub masquerade_bit: u8,
    /// How a source is recognised as a pod's.
    pub detector: LocalDetector,
    /// The addresses on which node ports are served. In iptables mode the unspecified one stands for
    /// every address of the node, whenever it comes.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// The ranges from which ClusterIPs are taken: what nobody has of them is dropped (not in mode
    /// iptables, as in kube-proxy).
    pub service_cidrs: BTreeSet<IpNetwork>,
    /// Node ports answer on the loopback address, too (iptables: IPv4 only; nftables: never).
    pub localhost_node_ports: bool,
    /// Every address of the node but those that it has for Services: only told in mode ipvs.
    pub own_addresses: BTreeSet<IpAddr>,
    /// `conntrack.tcpBeLiberal`: packets that connection tracking finds invalid are let through.
    pub tcp_be_liberal: bool,
}

/// What single data planes are told, and no others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Mode ebpf.
    pub ebpf: ebpf::Options,
    /// Mode ipvs.
    pub ipvs: ipvs::Options,
}

/// A data plane: what is kept up to date. Belongs to one thread, which it blocks and whose network
/// namespace it programs. Opening one changes nothing; dropping it leaves the kernel as it is.
pub trait DataPlane: fmt::Debug {
    /// Brings the kernel to what `model` says about `services`; the first time, about everything.
    fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport;
    /// Takes new settings for one family, in force with the next [`DataPlane::sync`].
    fn set_settings(&mut self, settings: PlaneSettings);
    /// Whether somebody else changed what is ours, so that a sync is needed.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn check(&mut self) -> Result<bool, BackendError>;
    /// Looks at every UDP flow with the next [`DataPlane::sync`]: some came over from another data
    /// plane, whose endpoints may have left meanwhile.
    fn recheck_flows(&mut self) {}
    /// What the eBPF programs count, where there are any.
    fn ebpf_counts(&self) -> Option<Counts> {
        None
    }
}

/// A data plane that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Which one.
    pub mode: Mode,
    /// It.
    pub plane: Box<dyn DataPlane>,
    /// The families that it serves.
    pub families: Vec<Family>,
}

/// Opens the first data plane of `modes` that this kernel can do, on the calling thread. `settings`
/// gives those of both families; where the kernel can do one family only, the other is not served.
///
/// # Errors
/// The kernel can do none of them: why not the first.
pub fn open(
    modes: &[Mode],
    settings: impl Fn(Mode) -> Vec<PlaneSettings>,
    options: &Options,
) -> Result<Opened, OpenError> {
    let mut first = None;
    for mode in modes {
        match open_families(*mode, settings(*mode), options) {
            Ok(opened) => return Ok(opened),
            Err(source) => {
                let error = OpenError {
                    mode: *mode,
                    source,
                };
                if modes.len() > 1 {
                    tracing::warn!(%error, "this data plane is not to be had");
                }
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or(OpenError {
        mode: Mode::Nftables,
        source: BackendError::Lacks(None),
    }))
}

/// Why no data plane could be opened.
#[derive(Debug, thiserror::Error)]
#[error("mode {mode}: {source}")]
pub struct OpenError {
    mode: Mode,
    source: BackendError,
}

fn open_families(
    mode: Mode,
    mut settings: Vec<PlaneSettings>,
    options: &Options,
) -> Result<Opened, BackendError> {
    loop {
        match open_all(mode, settings.clone(), options) {
            Ok(plane) => {
                let families = settings.iter().map(|one| one.family).collect();
                return Ok(Opened {
                    mode,
                    plane,
                    families,
                });
            }
            Err(error) => {
                let lacking = error.unusable_family().filter(|_| settings.len() > 1);
                let Some(family) = lacking else {
                    return Err(error);
                };
                tracing::warn!(
                    %mode,
                    family = family_name(family),
                    %error,
                    "this kernel cannot do one family; serving the other"
                );
                settings.retain(|one| one.family != family);
            }
        }
    }
}

fn open_all(
    mode: Mode,
    settings: Vec<PlaneSettings>,
    options: &Options,
) -> Result<Box<dyn DataPlane>, BackendError> {
    match mode {
        Mode::Nftables => {
            let settings = settings.into_iter().map(Into::into).collect();
            Ok(Box::new(NftablesBackend::open(settings)?))
        }
        Mode::Iptables => Ok(Box::new(IptablesBackend::open(settings)?)),
        Mode::Ebpf => Ok(Box::new(EbpfBackend::open(&options.ebpf, settings)?)),
        Mode::Ipvs => Ok(Box::new(IpvsBackend::open(&options.ipvs, settings)?)),
    }
}

/// Removes everything that the data plane of `mode` has in the kernel. Nothing there is no error.
///
/// # Errors
/// Something is left.
pub fn cleanup(mode: Mode, options: &Options) -> Result<(), BackendError> {
    match mode {
        Mode::Nftables => NftablesBackend::cleanup(),
        Mode::Iptables => IptablesBackend::cleanup(),
        Mode::Ebpf => EbpfBackend::cleanup(&options.ebpf),
        Mode::Ipvs => IpvsBackend::cleanup(&options.ipvs),
    }
}

impl From<PlaneSettings> for lb_plan::nftables::Settings {
    fn from(settings: PlaneSettings) -> Self {
        Self {
            family: settings.family,
            masquerade_bit: settings.masquerade_bit,
            detector: settings.detector,
            node_port_addresses: settings.node_port_addresses,
            service_cidrs: settings.service_cidrs,
            balancer: Balancer::Rules,
        }
    }
}

impl DataPlane for NftablesBackend {
    fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        Self::sync(self, model, services)
    }
    fn set_settings(&mut self, settings: PlaneSettings) {
        Self::set_settings(self, settings.into());
    }
    fn check(&mut self) -> Result<bool, BackendError> {
        Self::check(self)
    }
    fn recheck_flows(&mut self) {
        Self::recheck_flows(self);
    }
}
