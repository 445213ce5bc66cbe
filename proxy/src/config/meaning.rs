//! From what was said to what it means: defaults filled in, every value checked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_model::DetectLocal;

use crate::backend::ebpf;

use super::said::{self, KubeProxyConfiguration};
use super::{duration, netaddr};

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;
/// `iptables.masqueradeBit` and `nftables.masqueradeBit`: mark 0x4000.
const MASQUERADE_BIT: u8 = 14;
const SYNC_PERIOD: Duration = Duration::from_secs(30);
/// How long changes are gathered where the file sets no minSyncPeriod. kube-proxy waits 1 s
/// because its passes are dear; here a pass costs what the change costs.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// What the configuration means.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of the own Node.
    pub node_name: String,
    /// How the API server is reached.
    pub api: Api,
    /// The data plane.
    pub mode: Mode,
    /// Where the eBPF programs go.
    pub ebpf: ebpf::Options,
    /// When passes happen.
    pub timing: Timing,
    /// Bit of the packet mark that says "masquerade", 0 to 31.
    pub masquerade_bit: u8,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// How a pod's traffic is recognised.
    pub detect_local: DetectLocal,
    /// `bindAddress`: the node's primary IP, instead of the Node object's.
    pub node_ip: Option<IpAddr>,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Where /healthz and /livez are served.
    pub healthz: Option<SocketAddr>,
    /// Where /metrics is served.
    pub metrics: Option<SocketAddr>,
    /// Whether failing to bind one of the two ends the daemon.
    pub bind_hard_fail: bool,
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
    /// eBPF at the sockets, nftables for the packets; kernel 5.18 or newer.
    Ebpf,
}

impl Mode {
    /// All that are built.
    pub const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Ebpf];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ebpf => "ebpf",
        })
    }
}

/// When passes happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The least time from the end of one pass to the start of the next.
    pub min_period: Duration,
    /// How often everything is checked again.
    pub sync_period: Duration,
}

/// Where node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On the node's primary addresses.
    Primary,
    /// On those addresses of this node's interfaces that are in one of these.
    Within(Vec<IpNetwork>),
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
    /// Understands `said`. `master` is flag `--master`; `host_name` is the Node's name where none
    /// is configured.
    ///
    /// # Errors
    /// Every field that cannot be used, at once.
    pub fn understand(
        said: &KubeProxyConfiguration,
        master: Option<String>,
        host_name: &str,
    ) -> Result<Self, Invalid> {
        let mut wrong = Vec::new();
        let settings = Reader { wrong: &mut wrong }.settings(said, master, host_name);
        if wrong.is_empty() {
            Ok(settings)
        } else {
            Err(Invalid(wrong))
        }
    }
}

struct Reader<'a> {
    wrong: &'a mut Vec<FieldError>,
}

impl Reader<'_> {
    fn settings(
        &mut self,
        said: &KubeProxyConfiguration,
        master: Option<String>,
        host_name: &str,
    ) -> Settings {
        self.fields_without_effect(said);
        let shared = self.shared_section(said);
        let kubeconfig = said
            .client_connection
            .as_ref()
            .and_then(|c| c.kubeconfig.as_deref());
        Settings {
            node_name: self.node_name(said, host_name),
            api: Api {
                kubeconfig: kubeconfig
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
                master: master.filter(|url| !url.is_empty()),
            },
            mode: self.mode(said),
            ebpf: ebpf::Options::default(),
            timing: self.timing(&shared),
            masquerade_bit: self.masquerade_bit(&shared),
            masquerade_all: shared.masquerade_all.unwrap_or(false),
            detect_local: self.detect_local(said),
            node_ip: self.node_ip(said),
            node_port_addresses: self.node_port_addresses(said),
            healthz: self.server(
                "healthzBindAddress",
                said.healthz_bind_address.as_deref(),
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, HEALTHZ_PORT)),
            ),
            metrics: self.server(
                "metricsBindAddress",
                said.metrics_bind_address.as_deref(),
                SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)),
            ),
            bind_hard_fail: said.bind_address_hard_fail.unwrap_or(false),
            logging: self.logging(said.logging.as_ref()),
        }
    }

    fn refuse(
        &mut self,
        field: &'static str,
        value: &(impl ToString + ?Sized),
        accepted: &'static str,
    ) {
        self.wrong.push(FieldError {
            field,
            value: value.to_string(),
            accepted,
        });
    }

    fn node_name(&mut self, said: &KubeProxyConfiguration, host_name: &str) -> String {
        let name = said
            .hostname_override
            .as_deref()
            .unwrap_or(host_name)
            .trim()
            .to_lowercase();
        if name.is_empty() {
            self.refuse(
                "hostnameOverride",
                "",
                "a Node's name (the host has none either)",
            );
        }
        name
    }

    fn mode(&mut self, said: &KubeProxyConfiguration) -> Mode {
        let accepted = match said.mode.as_deref() {
            None | Some("" | "nftables" | "auto") => return Mode::Nftables,
            Some("iptables") => return Mode::Iptables,
            Some("ebpf") => return Mode::Ebpf,
            Some("ipvs") => "nftables, iptables, ebpf, auto or nothing (ipvs is not built yet)",
            Some(_) => "nftables, iptables, ebpf, auto or nothing",
        };
        self.refuse("mode", said.mode.as_deref().unwrap_or_default(), accepted);
        Mode::Nftables
    }

    /// The nftables section; where no mode is chosen, what it leaves open comes from the iptables
    /// section: a ConfigMap written for kube-proxy's default mode goes on meaning the same.
    fn shared_section(&mut self, said: &KubeProxyConfiguration) -> said::Nftables {
        let mut own = said.nftables.clone().unwrap_or_default();
        let chosen = said.mode.as_deref().is_some_and(|mode| mode == "nftables");
        if let (false, Some(other)) = (chosen, said.iptables.as_ref()) {
            own.masquerade_bit = own.masquerade_bit.or(other.masquerade_bit);
            own.masquerade_all = own.masquerade_all.or(other.masquerade_all);
            own.sync_period = own.sync_period.or_else(|| other.sync_period.clone());
            own.min_sync_period = own
                .min_sync_period
                .or_else(|| other.min_sync_period.clone());
        }
        own
    }

    fn timing(&mut self, shared: &said::Nftables) -> Timing {
        let sync_period = self
            .set_duration("nftables.syncPeriod", shared.sync_period.as_deref())
            .unwrap_or(SYNC_PERIOD);
        let min_period =
            self.set_duration("nftables.minSyncPeriod", shared.min_sync_period.as_deref());
        if min_period.is_some_and(|min| min > sync_period) {
            self.refuse(
                "nftables.minSyncPeriod",
                shared.min_sync_period.as_deref().unwrap_or_default(),
                "at most nftables.syncPeriod",
            );
        }
        Timing {
            min_period: min_period.unwrap_or(MIN_PERIOD),
            sync_period,
        }
    }

    /// A duration that is set: kube-proxy takes 0 for "the default", so it counts as not set.
    fn set_duration(&mut self, field: &'static str, text: Option<&str>) -> Option<Duration> {
        let text = text.filter(|text| !text.is_empty())?;
        let Some(duration) = duration::parse(text) else {
            self.refuse(field, text, duration::ACCEPTED);
            return None;
        };
        (!duration.is_zero()).then_some(duration)
    }

    fn masquerade_bit(&mut self, shared: &said::Nftables) -> u8 {
        let Some(bit) = shared.masquerade_bit else {
            return MASQUERADE_BIT;
        };
        match u8::try_from(bit) {
            Ok(bit @ 0..=31) => bit,
            _ => {
                self.refuse("nftables.masqueradeBit", &bit, "0 to 31");
                MASQUERADE_BIT
            }
        }
    }

    fn detect_local(&mut self, said: &KubeProxyConfiguration) -> DetectLocal {
        let networks = said
            .cluster_cidr
            .as_deref()
            .filter(|t| !t.is_empty())
            .map(|text| {
                netaddr::family_pair(text).unwrap_or_else(|| {
                    self.refuse(
                        "clusterCIDR",
                        text,
                        "one CIDR, or one for each family with a comma between",
                    );
                    Vec::new()
                })
            });
        let section = said.detect_local.clone().unwrap_or_default();
        match said.detect_local_mode.as_deref().unwrap_or_default() {
            "" | "ClusterCIDR" => match networks {
                Some(networks) => DetectLocal::ClusterCidr(networks),
                None => DetectLocal::None,
            },
            "NodeCIDR" => DetectLocal::NodeCidr,
            "BridgeInterface" => DetectLocal::Bridge(
                self.interface_name("detectLocal.bridgeInterface", section.bridge_interface),
            ),
            "InterfaceNamePrefix" => DetectLocal::Prefix(self.interface_name(
                "detectLocal.interfaceNamePrefix",
                section.interface_name_prefix,
            )),
            other => {
                self.refuse(
                    "detectLocalMode",
                    other,
                    "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
                );
                DetectLocal::None
            }
        }
    }

    /// An interface's name, or the beginning of one (IFNAMSIZ in `include/uapi/linux/if.h`).
    fn interface_name(&mut self, field: &'static str, name: Option<String>) -> String {
        let name = name.unwrap_or_default();
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
            self.refuse(
                field,
                &name,
                "1 to 15 characters without a slash or a blank",
            );
        }
        name
    }

    fn node_ip(&mut self, said: &KubeProxyConfiguration) -> Option<IpAddr> {
        let text = said
            .bind_address
            .as_deref()
            .filter(|text| !text.is_empty())?;
        match text.parse::<IpAddr>() {
            Ok(ip) => (!ip.is_unspecified()).then_some(ip),
            Err(_) => {
                self.refuse("bindAddress", text, "an IP address");
                None
            }
        }
    }

    fn node_port_addresses(&mut self, said: &KubeProxyConfiguration) -> NodePortAddresses {
        let list = said.node_port_addresses.as_deref().unwrap_or_default();
        let mut networks = Vec::new();
        match list {
            [] => return NodePortAddresses::Primary,
            [one] if one == "primary" => return NodePortAddresses::Primary,
            _ => {}
        }
        for text in list {
            match netaddr::network(text) {
                Some(network) => networks.push(network),
                None => self.refuse("nodePortAddresses", text, "CIDRs, or only \"primary\""),
            }
        }
        NodePortAddresses::Within(networks)
    }

    fn server(
        &mut self,
        field: &'static str,
        said: Option<&str>,
        default: SocketAddr,
    ) -> Option<SocketAddr> {
        let Some(text) = said else {
            return Some(default);
        };
        if text.is_empty() {
            return None;
        }
        let address = netaddr::socket_address(text, default.port());
        if address.is_none() {
            self.refuse(field, text, "IP:port, [IPv6]:port or an IP");
        }
        address
    }

    fn logging(&mut self, said: Option<&said::Logging>) -> Logging {
        let format = said.and_then(|s| s.format.as_deref()).unwrap_or_default();
        Logging {
            verbosity: said.and_then(|s| s.verbosity).unwrap_or(0),
            format: match format {
                "" | "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => {
                    self.refuse("logging.format", other, "text or json");
                    LogFormat::Text
                }
            },
        }
    }

    /// Checked although nothing depends on them yet: a mistake shows on the day it is made.
    fn fields_without_effect(&mut self, said: &KubeProxyConfiguration) {
        if let Some(score) = said
            .oom_score_adj
            .filter(|score| !(-1000..=1000).contains(score))
        {
            self.refuse("oomScoreAdj", &score, "-1000 to 1000");
        }
        self.set_duration("configSyncPeriod", said.config_sync_period.as_deref());
        let conntrack = said.conntrack.clone().unwrap_or_default();
        for (field, number) in [
            ("conntrack.maxPerCore", conntrack.max_per_core),
            ("conntrack.min", conntrack.min),
        ] {
            if let Some(number) = number.filter(|number| *number < 0) {
                self.refuse(field, &number, "0 or more");
            }
        }
        for (field, text) in [
            (
                "conntrack.tcpEstablishedTimeout",
                conntrack.tcp_established_timeout,
            ),
            (
                "conntrack.tcpCloseWaitTimeout",
                conntrack.tcp_close_wait_timeout,
            ),
            ("conntrack.udpTimeout", conntrack.udp_timeout),
            ("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
        ] {
            self.set_duration(field, text.as_deref());
        }
    }
}
