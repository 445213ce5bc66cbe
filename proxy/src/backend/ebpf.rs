//! The eBPF data plane: what a socket of this node aims at is translated once, as it connects.
//! Packets that come to a frontend all the same (from outside, from connected UDP sockets, from
//! virtual machines, or because their source decides) are the nftables data plane's, which runs
//! beside it.
//!
//! The programs and their maps outlive the daemon by their pins: a restart finds what is there,
//! and the new programs take over before the old ones go.

mod counts;
mod dump;
mod entries;
mod pins;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use lb_model::{Family, Model, ServiceName};
use lb_plan::bpf::{Applied, Node, Step, wanted};

use super::plane::{DataPlane, PlaneSettings};
use super::{BackendError, NftablesBackend, PassReport};
use sockets::Sockets;

pub use counts::SocketCounts;
pub use dump::Dump;
pub use pins::DEFAULT_PINS;
pub use sockets::OBJECT;

/// Where the programs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The cgroup whose sockets are translated, those of its descendants included; `None`: the
    /// root of the first cgroup2 that is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// The folder of the pins, on a bpffs.
    pub pins: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            pins: DEFAULT_PINS.into(),
        }
    }
}

/// Why there is no translation at the socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was built without the programs.
    #[error(
        "this causeway-proxy was built without its eBPF programs, since there was no compiler for \
         them (scripts/setup installs one); mode nftables works"
    )]
    NotBuilt,
    /// There is no cgroup2.
    #[error("no cgroup2 is mounted; --ebpf-cgroup-root names a folder of one")]
    NoCgroup,
    /// A file of the machine cannot be used.
    #[error("{what} {}: {source}", .path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The folder for the pins is no bpffs.
    #[error(
        "--ebpf-pin-dir {}: not on a bpffs (mount -t bpf bpf /sys/fs/bpf makes one)", .0.display()
    )]
    NoBpffs(PathBuf),
    /// The kernel refused a program.
    #[error("program {name}: {source} (kernel 5.18 or later with CONFIG_CGROUP_BPF is needed)")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// The object cannot be loaded.
    #[error("eBPF maps and programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// A map refused an entry.
    #[error("map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The own network namespace cannot be told from others.
    #[error("the node's network namespace: {0}")]
    Namespace(#[from] nodekit::netns::Error),
}

/// Sockets by eBPF, packets by nftables.
#[derive(Debug)]
pub struct EbpfBackend {
    packets: NftablesBackend,
    sockets: Sockets,
    applied: Applied,
    node: Node,
    settings: BTreeMap<Family, PlaneSettings>,
    /// A whole pass is due: the first one, or the node has other addresses.
    full: bool,
    attached: bool,
}

impl EbpfBackend {
    /// Loads the programs and finds what an earlier daemon left; attaches nothing yet.
    ///
    /// # Errors
    /// The kernel can't do it, or may not be asked to.
    pub fn open(options: &Options, settings: Vec<PlaneSettings>) -> Result<Self, BackendError> {
        let sockets = Sockets::open(options).map_err(refused)?;
        let applied = sockets.adopt().map_err(refused)?;
        let packets = settings.iter().cloned().map(Into::into).collect();
        let mut backend = Self {
            packets: NftablesBackend::open(packets)?,
            sockets,
            applied,
            node: Node::default(),
            settings: BTreeMap::new(),
            full: true,
            attached: false,
        };
        for one in settings {
            backend.take(one);
        }
        Ok(backend)
    }

    /// Removes programs and maps. The packets' tables are the nftables data plane's.
    ///
    /// # Errors
    /// Something is left.
    pub fn cleanup(options: &Options) -> Result<(), BackendError> {
        pins::remove(&options.pins).map_err(refused)
    }

    fn take(&mut self, settings: PlaneSettings) {
        self.settings.insert(settings.family, settings);
        let own = self.settings.values();
        let own: BTreeSet<_> = own
            .flat_map(|one| one.node_port_addresses.iter().copied())
            .collect();
        let here = self
            .settings
            .values()
            .filter(|one| one.localhost_node_ports);
        let loopback = here.map(|one| match one.family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        });
        let node = Node {
            loopback: loopback.collect(),
            own,
            ..Node::default()
        };
        self.full |= node != self.node;
        self.node = node;
    }

    /// Brings the maps to what is wanted of these Services; how many operations it took, what
    /// failed, and whether leftovers are gone.
    fn sync_sockets(
        &mut self,
        model: &Model,
        services: &BTreeSet<ServiceName>,
    ) -> (
        usize,
        BTreeMap<ServiceName, BackendError>,
        Result<(), Error>,
    ) {
        let mut operations = 0;
        let mut failed = BTreeMap::new();
        let mut swept = Ok(());
        let full = self.full;
        let mut all: BTreeSet<_> = services.iter().collect();
        if full {
            all.extend(model.services());
        }
        for service in all {
            let families = self.settings.keys();
            let frontends = families.flat_map(|family| model.frontends(service, *family));
            let wishes = frontends.flat_map(|one| wanted(&one, &self.node));
            let step = self.applied.plan(service, wishes.collect());
            operations += step.operations.len();
            if let Err(error) = self.apply(step) {
                failed.insert(service.clone(), refused(error));
            }
        }
        if full && failed.is_empty() {
            let step = self.applied.sweep();
            operations += step.operations.len();
            swept = self.apply(step);
            // What could not be swept is swept with the next pass.
            self.full = swept.is_err();
        }
        let (frontends, backends) = (self.applied.len(), self.applied.backends());
        self.sockets.counts().set_entries(frontends, backends);
        (operations, failed, swept)
    }

    fn apply(&mut self, step: Step) -> Result<(), Error> {
        for operation in &step.operations {
            if let Err(error) = self.sockets.apply(*operation) {
                self.applied.fail(step);
                return Err(error);
            }
        }
        self.applied.commit(step);
        Ok(())
    }

    fn attach(&mut self) -> Result<(), Error> {
        if !self.attached {
            self.sockets.attach()?;
            self.attached = true;
        }
        Ok(())
    }
}

impl DataPlane for EbpfBackend {
    /// The packets first: a socket that is not translated must find its way, too.
    fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        let mut report = self.packets.sync(model, services);
        let (operations, failed, swept) = self.sync_sockets(model, services);
        // One set of maps serves both families; what is done to it is counted with the first.
        let attached = self.attach();
        if let Some(family) = report.families.values_mut().next() {
            family.operations += operations;
            family.failed.extend(failed);
            if let Err(error) = swept.and(attached) {
                family.leftovers = Some(refused(error));
            }
        }
        report
    }

    fn set_settings(&mut self, settings: PlaneSettings) {
        self.packets.set_settings(settings.clone().into());
        self.take(settings);
    }

    fn check(&mut self) -> Result<bool, BackendError> {
        let intact = self.sockets.is_intact();
        if !intact {
            self.attached = false;
        }
        Ok(self.packets.check()? || !intact)
    }

    fn socket_counts(&self) -> Option<SocketCounts> {
        Some(self.sockets.counts().clone())
    }
}

fn refused(error: Error) -> BackendError {
    BackendError::Ebpf(Arc::new(error))
}
