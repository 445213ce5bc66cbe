//! Data planes: they put what the model decided into the kernel, and know what is in there.
//!
//! A backend never decides where a packet goes and never plans: `lb-plan` gives it operations, and
//! it translates them to `nodekit` calls. It belongs to one thread and blocks it.

mod conntrack;
pub mod ebpf;
mod iptables;
pub mod ipvs;
mod leftovers;
mod nftables;
mod plane;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_model::{Family, ServiceName};
use nodekit::{netlink, nft, sysctl, xtables};

pub use iptables::IptablesBackend;
pub use ipvs::IpvsBackend;
pub use lb_plan::nftables::Settings;
pub use leftovers::{remove_kube_proxy, remove_kube_proxy_sets};
pub use nftables::NftablesBackend;
pub use plane::{DataPlane, OpenError, Opened, Options, PlaneSettings, cleanup, open};

/// Why the kernel could not be programmed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The kernel has no nftables, or not enough of it, or we may not use it.
    #[error(
        "this kernel cannot do nftables for {family:?} (5.13 or later with nf_tables, nat, fib and \
         numgen is needed), or CAP_NET_ADMIN is missing: {source}"
    )]
    NoNftables {
        /// The family tried.
        family: Family,
        /// The kernel's answer.
        source: Arc<nft::Error>,
    },
    /// The programs of iptables, or the kernel's side of them, are missing, or we may not use them.
    #[error("no iptables for {family:?}, or CAP_NET_ADMIN is missing: {source}")]
    NoIptables {
        /// The family tried.
        family: Family,
        /// What the programs say.
        source: Arc<xtables::Error>,
    },
    /// iptables refused an input, or could not be asked.
    #[error(transparent)]
    Iptables(Arc<xtables::Error>),
    /// The kernel refused operations, which the source names, or could not be asked.
    #[error(transparent)]
    Nft(Arc<nft::Error>),
    /// Something that the Service's frontends lean on could not be made.
    #[error("what its frontends lean on is missing{}", .0.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Lacks(Option<Box<BackendError>>),
    /// Connection tracking could not be asked or changed.
    #[error(transparent)]
    Conntrack(netlink::Error),
    /// Packet counters could not be asked or removed.
    #[error(transparent)]
    Counters(netlink::Error),
    /// Translation at the socket.
    #[error(transparent)]
    Ebpf(Arc<ebpf::Error>),
    /// Sets that rules of iptables ask could not be listed or removed.
    #[error(transparent)]
    IpSet(netlink::Error),
    /// A set of kube-proxy's stays, since others' rules ask it.
    #[error("the ipset {name} is used by {references} rules or sets that are not kube-proxy's")]
    SetInUse {
        /// The set.
        name: String,
        /// How many of them.
        references: u32,
    },
    /// The kernel has no IPVS, or we may not use it.
    #[error("no IPVS (kernel module ip_vs), or CAP_NET_ADMIN is missing: {0}")]
    NoIpvs(netlink::Error),
    /// IPVS, or the device with its addresses, could not be asked or changed.
    #[error(transparent)]
    Ipvs(netlink::Error),
    /// A kernel parameter is not as it must be, and could not be set.
    #[error("{0} (in a container, run --init-only with full privileges first)")]
    Sysctl(Arc<sysctl::Error>),
}

impl BackendError {
    /// The family that this kernel cannot do at all, if that is what is wrong.
    pub fn unusable_family(&self) -> Option<Family> {
        match self {
            Self::NoNftables { family, .. } | Self::NoIptables { family, .. } => Some(*family),
            _ => None,
        }
    }
}

/// What the iptables data plane counts besides, for one family.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Runs of `iptables-restore` that failed.
    pub failures: u64,
    /// Those of them that were partial, so that a full one followed.
    pub partial_failures: u64,
    /// By table (`filter`, `nat`): the rules that are in the kernel now.
    pub rules: BTreeMap<&'static str, u64>,
    /// By table: the rules in the input of this pass.
    pub rules_written: BTreeMap<&'static str, u64>,
}

/// What one pass did to one family.
#[derive(Debug, Default)]
pub struct FamilyReport {
    /// Everything was looked at, not only what changed: the first pass, and one after the table was
    /// found gone or changed by somebody else.
    pub full: bool,
    /// Elements, chains and rules added or removed.
    pub operations: usize,
    /// Transactions committed or tried.
    pub transactions: usize,
    /// How long it took.
    pub duration: Duration,
    /// Services whose frontends are still as they were before: name them again in a later pass.
    pub failed: BTreeMap<ServiceName, BackendError>,
    /// A failure that belongs to no Service: the pass must be repeated (with any Services, or none).
    pub leftovers: Option<BackendError>,
    /// Only of the iptables data plane.
    pub restore: Option<RestoreReport>,
}

impl FamilyReport {
    /// Whether everything asked for is in the kernel.
    fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.leftovers.is_none()
    }

    /// The same pass did that as well.
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.transactions += other.transactions;
        self.duration += other.duration;
        self.failed.extend(other.failed);
        self.leftovers = self.leftovers.take().or(other.leftovers);
    }
}

/// What one pass did to the UDP flows of Services in one family.
#[derive(Debug, Default)]
pub struct FlowReport {
    /// Connection-tracking entries deleted since their endpoint left.
    pub deleted: usize,
    /// How long it took.
    pub duration: Duration,
    /// The reconciliation failed: it is repeated with the next pass.
    pub failed: Option<BackendError>,
    /// When the same flows are to be looked at once more, with any pass: a packet that was under way
    /// while its endpoint left may have made an entry after the first look.
    pub look_again: Option<Instant>,
}

/// What one pass did.
#[derive(Debug, Default)]
pub struct PassReport {
    /// By family, only those served.
    pub families: BTreeMap<Family, FamilyReport>,
    /// By family, only those in which a UDP frontend was touched: else no flow is looked at.
    pub flows: BTreeMap<Family, FlowReport>,
    /// As [`FlowReport::look_again`], of flows that the data plane tracks itself.
    pub look_again: Option<Instant>,
}

impl PassReport {
    /// Elements, chains and rules added or removed, both families together.
    pub fn operations(&self) -> usize {
        self.families.values().map(|family| family.operations).sum()
    }

    /// When flows are to be looked at once more.
    pub fn look_again(&self) -> Option<Instant> {
        let flows = self.flows.values().filter_map(|flows| flows.look_again);
        flows.chain(self.look_again).min()
    }

    /// The Services to be named again in a later pass.
    pub fn failed(&self) -> impl Iterator<Item = &ServiceName> {
        self.families
            .values()
            .flat_map(|family| family.failed.keys())
    }

    /// Whether everything asked for is in the kernel; if not, the pass is to be repeated.
    pub fn complete(&self) -> bool {
        self.families.values().all(FamilyReport::is_complete)
            && self.flows.values().all(|flows| flows.failed.is_none())
    }
}
