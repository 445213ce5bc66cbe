//! What the configuration means: types that can only hold what is usable.

mod understand;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_model::DetectLocal;
use lb_plan::bpf::Lifetimes;

use crate::backend;

use super::said::KubeProxyConfiguration;

/// What the configuration means.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of the own Node.
    pub node_name: String,
    /// How the API server is reached.
    pub api: Api,
    /// The data planes to choose from: the first one that this node can do ([`crate::choice`]).
    pub modes: Vec<Mode>,
    /// What single data planes are told.
    pub planes: backend::Options,
    /// Of data planes nftables and ebpf.
    pub nftables: PlaneSection,
    /// Of data plane iptables.
    pub iptables: PlaneSection,
    /// Of data plane ipvs.
    pub ipvs: PlaneSection,
    /// `iptables.localhostNodePorts`.
    pub localhost_node_ports: bool,
    /// How a pod's traffic is recognised.
    pub detect_local: DetectLocal,
    /// `bindAddress`: the node's primary IP, instead of the Node object's.
    pub node_ip: Option<IpAddr>,
    /// Where node ports are served; `None`: where the data plane does by default.
    pub node_port_addresses: Option<NodePortAddresses>,
    /// Where /healthz and /livez are served.
    pub healthz: Option<SocketAddr>,
    /// Where /metrics is served.
    pub metrics: Option<SocketAddr>,
    /// Whether failing to bind one of the two ends the daemon.
    pub bind_hard_fail: bool,
    /// What the kernel's connection tracking is set to.
    pub conntrack: Conntrack,
    /// How readily the kernel kills this process when memory is short, −1000 to 1000.
    pub oom_score_adj: i16,
    /// How much is logged, and how.
    pub logging: Logging,
}

/// How the API server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// The kubeconfig; without it and `master`, the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// URL that replaces the kubeconfig's.
    pub master: Option<String>,
}

/// A data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables, kernel 5.13 or newer.
    Nftables,
    /// iptables, through `iptables-restore`.
    Iptables,
    /// eBPF for the sockets of this node, nftables for the packets; kernel 5.18 or newer.
    Ebpf,
    /// IPVS chooses the endpoints, nftables does the rest.
    Ipvs,
}

impl Mode {
    /// All that are built.
    pub const ALL: [Self; 4] = [Self::Nftables, Self::Iptables, Self::Ebpf, Self::Ipvs];
}

impl Mode {
    /// Whether what `other` has in the kernel is this one's, too.
    pub fn uses(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Ebpf | Self::Ipvs, Self::Nftables))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ebpf => "ebpf",
            Self::Ipvs => "ipvs",
        })
    }
}

/// What one data plane's section of the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneSection {
    /// When passes happen.
    pub timing: Timing,
    /// Bit of the packet mark that says "masquerade", 0 to 31.
    pub masquerade_bit: u8,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
}

/// When passes happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The least time from the end of one pass to the start of the next. After passes that take long it is
    /// longer.
    pub min_period: Duration,
    /// How often everything is checked again.
    pub sync_period: Duration,
}

/// Where node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// On the node's primary address of each family.
    pub primary: bool,
    /// On those addresses of this node's interfaces that are in one of these.
    pub within: Vec<IpNetwork>,
    /// 127.0.0.1 counts among them (IPv4 over iptables only: `localhostNodePorts`).
    pub loopback: bool,
}

impl NodePortAddresses {
    /// On the node's primary address of each family.
    pub const fn primary() -> Self {
        Self {
            primary: true,
            within: Vec::new(),
            loopback: false,
        }
    }

    /// Whether every address of the family that `ip` is of serves node ports.
    pub fn is_everywhere(&self, ip: IpAddr) -> bool {
        let same = |network: &&IpNetwork| network.is_ipv4() == ip.is_ipv4();
        self.within.iter().filter(same).any(|n| n.prefix() == 0)
    }
}

/// What the kernel's connection tracking is set to; `None`: left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries for each processor.
    pub max_per_core: Option<u32>,
    /// Entries at least, where `max_per_core` is set.
    pub min: u32,
    /// An idle established TCP connection is forgotten after this.
    pub tcp_established: Option<Duration>,
    /// One in CLOSE_WAIT is.
    pub tcp_close_wait: Option<Duration>,
    /// A UDP flow that nobody answered is.
    pub udp: Option<Duration>,
    /// A UDP flow with answers is.
    pub udp_stream: Option<Duration>,
    /// TCP packets out of their window are no longer found invalid.
    pub tcp_be_liberal: bool,
}

impl Conntrack {
    /// How long mode ebpf remembers connections whose packets it translates, by its own tracking: what
    /// is said here, else its own times. (In CLOSE_WAIT it is its own always: of a connection with
    /// direct return a node may never see more than that its client is done.)
    pub fn lifetimes(&self) -> Lifetimes {
        let own = Lifetimes::default();
        Lifetimes {
            established: self.tcp_established.unwrap_or(own.established),
            udp: self.udp_stream.unwrap_or(own.udp),
            udp_unanswered: self.udp.unwrap_or(own.udp_unanswered),
            ..own
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// As klog's `-v`.
    pub verbosity: u32,
    /// How logs look.
    pub format: LogFormat,
}

/// One field with a value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not usable; accepted: {accepted}")]
pub struct FieldError {
    /// Path of the field in the file; the flag of the same name says the same.
    pub field: &'static str,
    /// The value found.
    pub value: String,
    /// What would have been accepted.
    pub accepted: &'static str,
}

/// All fields that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {}", .0.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<FieldError>);

impl Settings {
    /// Understands `said`, defaults filled in. `master` is flag `--master`; `host_name` is the
    /// Node's name where none is configured.
    ///
    /// # Errors
    /// Every field that cannot be used, at once.
    pub fn understand(
        said: &KubeProxyConfiguration,
        master: Option<String>,
        host_name: &str,
    ) -> Result<Self, Invalid> {
        understand::settings(&said.with_defaults(), master, host_name)
    }

    /// What the section of `mode` says.
    pub const fn section(&self, mode: Mode) -> &PlaneSection {
        match mode {
            Mode::Nftables | Mode::Ebpf => &self.nftables,
            Mode::Iptables => &self.iptables,
            Mode::Ipvs => &self.ipvs,
        }
    }

    /// Where node ports are served in `mode`. As with kube-proxy, iptables and ipvs serve them on
    /// every address of the node unless told otherwise, nftables on the primary ones.
    pub fn node_ports(&self, mode: Mode) -> NodePortAddresses {
        let everywhere = || NodePortAddresses {
            primary: false,
            within: understand::everywhere(),
            loopback: false,
        };
        let said = self.node_port_addresses.clone();
        let wanted = said.unwrap_or_else(|| match mode {
            Mode::Nftables | Mode::Ebpf => NodePortAddresses::primary(),
            Mode::Iptables | Mode::Ipvs => everywhere(),
        });
        NodePortAddresses {
            loopback: mode == Mode::Iptables && self.localhost_node_ports,
            ..wanted
        }
    }
}
