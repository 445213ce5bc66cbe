//! The data plane that runs, how it is replaced by another one, and what others left behind.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_model::{Family, LocalDetector, Model};

use crate::backend::ebpf::Handover;
use crate::backend::{
    self, BackendError, DataPlane, IpvsBackend, OpenError, Opened, PlaneSettings, ebpf,
};
use crate::config::{Mode, Settings};
use crate::node_ports::{self, NodePorts};

/// Where data planes come from, and where they go.
pub trait Kernel: fmt::Debug {
    /// Opens the first one of `modes` that is to be had.
    ///
    /// # Errors
    /// None is.
    fn open(&mut self, modes: &[Mode], settings: &Settings) -> Result<Opened, OpenError>;
    /// Removes what the other ones than `kept`, and a kube-proxy before us, have in the kernel.
    fn clear_others(&mut self, kept: Mode);
    /// Whether connections came over from another data plane since this was asked last.
    fn handed_over(&mut self) -> bool;
}

/// The kernel of the calling thread's network namespace.
#[derive(Debug, Default)]
pub struct HostKernel {
    options: backend::Options,
    /// Removes what others left, since that may take programs a while.
    clearing: Option<JoinHandle<()>>,
    handed_over: Arc<AtomicBool>,
}

impl HostKernel {
    fn wait(&mut self) {
        if let Some(clearing) = self.clearing.take()
            && clearing.join().is_err()
        {
            tracing::error!("the thread that removes leftovers panicked");
        }
    }
}

impl Kernel for HostKernel {
    fn open(&mut self, modes: &[Mode], settings: &Settings) -> Result<Opened, OpenError> {
        self.wait();
        self.options = settings.planes.clone();
        backend::open(
            modes,
            |mode| before_the_node(settings, mode),
            &settings.planes,
        )
    }

    fn clear_others(&mut self, kept: Mode) {
        self.wait();
        let options = self.options.clone();
        let handed_over = Arc::clone(&self.handed_over);
        let clear = move || {
            let handover = if kept.uses(Mode::Ebpf) {
                None
            } else {
                begin_handover(&options.ebpf)
            };
            if !kept.uses(Mode::Ipvs) {
                match IpvsBackend::hand_over(&options.ipvs) {
                    Ok(true) => handed_over.store(true, Ordering::Relaxed),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "connections through IPVS end"),
                }
            }
            match backend::remove_kube_proxy() {
                Ok(families) if families.is_empty() => {}
                Ok(families) => {
                    tracing::info!(?families, "removed the tables that kube-proxy left");
                }
                Err(error) => tracing::warn!(%error, "what kube-proxy left is not all removed"),
            }
            for mode in Mode::ALL.into_iter().filter(|mode| !kept.uses(*mode)) {
                if let Err(error) = backend::cleanup(mode, &options) {
                    tracing::warn!(%mode, %error, "what this data plane left is not all removed");
                }
            }
            match backend::remove_kube_proxy_sets() {
                Ok(0) => {}
                Ok(sets) => tracing::info!(sets, "removed the ipsets that kube-proxy left"),
                Err(error) => tracing::warn!(%error, "what kube-proxy left is not all removed"),
            }
            if let Some(handover) = handover {
                noted(handover.finish());
                handed_over.store(true, Ordering::Relaxed);
            }
        };
        let thread = std::thread::Builder::new().name("clear".to_owned());
        match thread.spawn(clear) {
            Ok(thread) => self.clearing = Some(thread),
            Err(error) => tracing::warn!(%error, "leftovers of other data planes stay"),
        }
    }

    fn handed_over(&mut self) -> bool {
        self.handed_over.swap(false, Ordering::Relaxed)
    }
}

/// Before mode ebpf is removed.
fn begin_handover(options: &ebpf::Options) -> Option<Handover> {
    noted(Handover::begin(options)).flatten()
}

fn noted<T>(result: Result<T, ebpf::Error>) -> Option<T> {
    result
        .inspect_err(|error| {
            tracing::warn!(%error, "connections from outside end that mode ebpf translated");
        })
        .ok()
}

impl Drop for HostKernel {
    fn drop(&mut self) {
        self.wait();
    }
}

/// The settings of both families before anything is known about the Node.
pub fn before_the_node(settings: &Settings, mode: Mode) -> Vec<PlaneSettings> {
    let families = Family::ALL.map(|family| of_family(settings, mode, family));
    families.to_vec()
}

fn of_family(settings: &Settings, mode: Mode, family: Family) -> PlaneSettings {
    PlaneSettings {
        family,
        masquerade_bit: settings.section(mode).masquerade_bit,
        detector: LocalDetector::None,
        node_port_addresses: std::collections::BTreeSet::new(),
        service_cidrs: std::collections::BTreeSet::new(),
        own_addresses: std::collections::BTreeSet::new(),
        localhost_node_ports: settings.localhost_node_ports,
        tcp_be_liberal: settings.conntrack.tcp_be_liberal,
    }
}

/// The data plane that runs.
#[derive(Debug)]
pub(super) struct Planes {
    kernel: Box<dyn Kernel>,
    pub(super) mode: Mode,
    pub(super) plane: Box<dyn DataPlane>,
    pub(super) families: Vec<Family>,
    /// The settings that it has.
    told: Vec<PlaneSettings>,
    /// Since when others may have something in the kernel.
    others_since: Option<Instant>,
}

impl Planes {
    pub(super) fn new(kernel: Box<dyn Kernel>, opened: Opened, now: Instant) -> Self {
        let Opened {
            mode,
            plane,
            families,
        } = opened;
        Self {
            kernel,
            mode,
            plane,
            families,
            told: Vec::new(),
            others_since: Some(now),
        }
    }

    /// Puts another data plane in, if `settings` now prefer one that is to be had. The one before
    /// stays in the kernel until [`Planes::clear_others`]; it is not brought up to date any more.
    pub(super) fn switch(&mut self, settings: &Settings, now: Instant) -> bool {
        let modes = &settings.modes;
        let current = modes.iter().position(|mode| *mode == self.mode);
        let preferred = &modes[..current.unwrap_or(modes.len())];
        if preferred.is_empty() {
            return false;
        }
        match self.kernel.open(preferred, settings) {
            Ok(opened) => {
                tracing::info!(from = %self.mode, to = %opened.mode, "another data plane");
                self.mode = opened.mode;
                self.plane = opened.plane;
                self.families = opened.families;
                self.told.clear();
                self.others_since = Some(now);
                true
            }
            Err(error) => {
                tracing::error!(%error, stays = %self.mode, "the data plane cannot be changed");
                false
            }
        }
    }

    /// Removes what others have in the kernel: when everything wanted is `complete`, or, since a
    /// few Services may fail for ever, after `patience`.
    pub(super) fn clear_others(&mut self, complete: bool, patience: Duration, now: Instant) {
        if self
            .others_since
            .take_if(|since| complete || now >= *since + patience)
            .is_some()
        {
            self.kernel.clear_others(self.mode);
        }
    }

    /// Whether connections came over from another data plane since this was asked last; their flows
    /// are looked at with the next pass.
    pub(super) fn take_over(&mut self) -> bool {
        let came = self.kernel.handed_over();
        if came {
            self.plane.recheck_flows();
        }
        came
    }

    pub(super) fn check(&mut self) -> Result<bool, BackendError> {
        self.plane.check()
    }

    /// The settings wanted now, by family.
    fn wanted(
        &self,
        settings: &Settings,
        model: &Model,
        node_ports: &NodePorts,
    ) -> Vec<PlaneSettings> {
        let addresses = match self.mode {
            Mode::Nftables | Mode::Ebpf | Mode::Ipvs => node_ports.addresses(),
            Mode::Iptables => node_ports.listening(),
        };
        let wanted = self.families.iter().map(|family| PlaneSettings {
            detector: model.local_detector(*family),
            node_port_addresses: addresses
                .iter()
                .copied()
                .filter(|ip| Family::of(*ip) == *family)
                .collect(),
            service_cidrs: match self.mode {
                Mode::Nftables | Mode::Ebpf | Mode::Ipvs => {
                    model.service_cidrs(*family).into_iter().collect()
                }
                Mode::Iptables => std::collections::BTreeSet::new(),
            },
            own_addresses: match self.mode {
                Mode::Ipvs => node_ports::own_addresses(),
                Mode::Nftables | Mode::Ebpf | Mode::Iptables => std::collections::BTreeSet::new(),
            },
            // At the socket it costs nothing: the loopback never sees a packet.
            localhost_node_ports: settings.localhost_node_ports
                && (self.mode == Mode::Ebpf || node_ports.names_localhost()),
            ..of_family(settings, self.mode, *family)
        });
        wanted.collect()
    }

    /// Whether other settings are wanted than it has.
    pub(super) fn outdated(
        &self,
        settings: &Settings,
        model: &Model,
        node_ports: &NodePorts,
    ) -> bool {
        self.wanted(settings, model, node_ports) != self.told
    }

    /// Tells it the settings wanted now.
    pub(super) fn tell(&mut self, settings: &Settings, model: &Model, node_ports: &NodePorts) {
        let wanted = self.wanted(settings, model, node_ports);
        for settings in &wanted {
            if !self.told.contains(settings) {
                tracing::debug!(?settings, "settings of the data plane");
                self.plane.set_settings(settings.clone());
            }
        }
        self.told = wanted;
    }
}
