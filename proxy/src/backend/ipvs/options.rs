//! What mode ipvs is told besides what every data plane is.

use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_plan::ipvs::Key;

/// Section `ipvs` of the configuration, but for when passes happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How a destination is chosen: one of [`SCHEDULERS`].
    pub scheduler: String,
    /// Virtual services at addresses in here are somebody else's.
    pub excluded: Vec<IpNetwork>,
    /// The node answers ARP only for addresses of the interface that was asked, and asks from those
    /// only: so not for addresses of Services.
    pub strict_arp: bool,
    /// How long IPVS remembers connections.
    pub timeouts: Timeouts,
}

/// How long IPVS remembers connections; 0: as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// An idle TCP connection.
    pub tcp: Duration,
    /// A TCP connection after a FIN.
    pub tcp_fin: Duration,
    /// A UDP flow.
    pub udp: Duration,
}

/// The kernel's schedulers (`net/netfilter/ipvs/ip_vs_*.c`) that kube-proxy knows.
pub const SCHEDULERS: [&str; 11] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh",
];

impl Default for Options {
    fn default() -> Self {
        Self {
            scheduler: SCHEDULERS[0].to_owned(),
            excluded: Vec::new(),
            strict_arp: false,
            timeouts: Timeouts::default(),
        }
    }
}

impl Options {
    /// Whether a virtual service is somebody else's.
    pub(super) fn excludes(&self, key: &Key) -> bool {
        self.excluded.iter().any(|network| network.contains(key.ip))
    }
}
