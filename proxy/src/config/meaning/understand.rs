//! From what was said, defaults included, to what it means: every value checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_model::DetectLocal;

use super::{
    Api, Conntrack, FieldError, Invalid, LogFormat, Logging, Mode, NodePortAddresses, PlaneSection,
    Settings, Timing,
};
use crate::backend::{self, ipvs};
use crate::config::said::{self, KubeProxyConfiguration};
use crate::config::{duration, netaddr};

pub(super) fn settings(
    said: &KubeProxyConfiguration,
    master: Option<String>,
    host_name: &str,
) -> Result<Settings, Invalid> {
    let mut wrong = Vec::new();
    let settings = Reader { wrong: &mut wrong }.settings(said, master, host_name);
    if wrong.is_empty() {
        Ok(settings)
    } else {
        Err(Invalid(wrong))
    }
}

/// Every address of both families.
pub(super) fn everywhere() -> Vec<IpNetwork> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let networks = any.into_iter().map(|ip| IpNetwork::new(ip, 0));
    networks.filter_map(Result::ok).collect()
}

/// `127.0.0.0/8` and `::1/128`.
fn loopback() -> [Result<IpNetwork, ipnetwork::IpNetworkError>; 2] {
    [
        IpNetwork::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        IpNetwork::new(Ipv6Addr::LOCALHOST.into(), 128),
    ]
}

struct Reader<'a> {
    wrong: &'a mut Vec<FieldError>,
}

/// The fields of a data plane's section, by name.
struct Names {
    masquerade_bit: &'static str,
    sync_period: &'static str,
    min_sync_period: &'static str,
    at_most: &'static str,
}

const NFTABLES: Names = Names {
    masquerade_bit: "nftables.masqueradeBit",
    sync_period: "nftables.syncPeriod",
    min_sync_period: "nftables.minSyncPeriod",
    at_most: "at most nftables.syncPeriod",
};

const IPTABLES: Names = Names {
    masquerade_bit: "iptables.masqueradeBit",
    sync_period: "iptables.syncPeriod",
    min_sync_period: "iptables.minSyncPeriod",
    at_most: "at most iptables.syncPeriod",
};

const IPVS: Names = Names {
    // As in kube-proxy: the rules beside are told what those of mode iptables are.
    masquerade_bit: "iptables.masqueradeBit",
    sync_period: "ipvs.syncPeriod",
    min_sync_period: "ipvs.minSyncPeriod",
    at_most: "at most ipvs.syncPeriod",
};

impl Reader<'_> {
    fn settings(
        &mut self,
        said: &KubeProxyConfiguration,
        master: Option<String>,
        host_name: &str,
    ) -> Settings {
        self.fields_without_effect(said);
        let kubeconfig = said
            .client_connection
            .as_ref()
            .and_then(|c| c.kubeconfig.as_deref());
        let nftables = said.nftables.clone().unwrap_or_default();
        let iptables = said.iptables.clone().unwrap_or_default();
        let localhost_node_ports = iptables.localhost_node_ports.unwrap_or(true);
        // The two sections say the same things.
        let iptables = said::Nftables {
            masquerade_bit: iptables.masquerade_bit,
            masquerade_all: iptables.masquerade_all,
            sync_period: iptables.sync_period,
            min_sync_period: iptables.min_sync_period,
        };
        let ipvs = said.ipvs.clone().unwrap_or_default();
        let beside_ipvs = said::Nftables {
            sync_period: ipvs.sync_period.clone(),
            min_sync_period: ipvs.min_sync_period.clone(),
            ..iptables.clone()
        };
        Settings {
            node_name: self.node_name(said, host_name),
            api: Api {
                kubeconfig: kubeconfig
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
                master: master.filter(|url| !url.is_empty()),
            },
            modes: self.modes(said),
            planes: backend::Options {
                ipvs: self.ipvs(&ipvs),
                ..backend::Options::default()
            },
            nftables: self.section(&nftables, &NFTABLES),
            iptables: self.section(&iptables, &IPTABLES),
            ipvs: self.section(&beside_ipvs, &IPVS),
            localhost_node_ports,
            detect_local: self.detect_local(said),
            node_ip: self.node_ip(said),
            node_port_addresses: self.node_port_addresses(said),
            healthz: self.server(
                "healthzBindAddress",
                said.healthz_bind_address.as_deref(),
                10256,
            ),
            metrics: self.server(
                "metricsBindAddress",
                said.metrics_bind_address.as_deref(),
                10249,
            ),
            bind_hard_fail: said.bind_address_hard_fail.unwrap_or(false),
            conntrack: self.conntrack(said.conntrack.as_ref()),
            oom_score_adj: self.oom_score_adj(said),
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
        let configured = said
            .hostname_override
            .as_deref()
            .filter(|name| !name.is_empty());
        let name = configured.unwrap_or(host_name).trim().to_lowercase();
        if name.is_empty() {
            self.refuse(
                "hostnameOverride",
                "",
                "a Node's name (the host has none either)",
            );
        }
        name
    }

    fn modes(&mut self, said: &KubeProxyConfiguration) -> Vec<Mode> {
        let mode = said.mode.as_deref().unwrap_or_default();
        let accepted = match mode {
            "" => return vec![Mode::Nftables, Mode::Iptables],
            "auto" => return vec![Mode::Ebpf, Mode::Nftables, Mode::Iptables],
            "nftables" => return vec![Mode::Nftables],
            "iptables" => return vec![Mode::Iptables],
            "ebpf" => return vec![Mode::Ebpf],
            "ipvs" => return vec![Mode::Ipvs],
            "kernelspace" => {
                "nftables, iptables, ebpf, ipvs, auto or nothing (kernelspace is of Windows)"
            }
            _ => "nftables, iptables, ebpf, ipvs, auto or nothing",
        };
        self.refuse("mode", mode, accepted);
        Vec::new()
    }

    fn section(&mut self, said: &said::Nftables, names: &Names) -> PlaneSection {
        let sync = said.sync_period.as_deref().unwrap_or_default();
        let sync_period = self.duration(names.sync_period, sync);
        let min = said.min_sync_period.as_deref().unwrap_or_default();
        let min_period = self.duration(names.min_sync_period, min);
        if sync_period.is_some_and(|sync| min_period.is_some_and(|min| min > sync)) {
            self.refuse(names.min_sync_period, min, names.at_most);
        }
        let bit = said.masquerade_bit.unwrap_or_default();
        let usable = u8::try_from(bit).ok().filter(|bit| *bit <= 31);
        if usable.is_none() {
            self.refuse(names.masquerade_bit, &bit, "0 to 31");
        }
        PlaneSection {
            timing: Timing {
                min_period: min_period.unwrap_or_default(),
                sync_period: sync_period.unwrap_or_default(),
            },
            masquerade_bit: usable.unwrap_or_default(),
            masquerade_all: said.masquerade_all.unwrap_or(false),
        }
    }

    fn ipvs(&mut self, said: &said::Ipvs) -> ipvs::Options {
        let default = ipvs::Options::default();
        let scheduler = said.scheduler.as_deref().unwrap_or_default();
        let scheduler = match scheduler {
            "" => default.scheduler,
            known if ipvs::SCHEDULERS.contains(&known) => known.to_owned(),
            other => {
                let accepted = "rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq or mh";
                self.refuse("ipvs.scheduler", other, accepted);
                default.scheduler
            }
        };
        let mut excluded = Vec::new();
        for text in said.exclude_cidrs.iter().flatten() {
            match netaddr::network(text) {
                Some(network) => excluded.push(network),
                None => self.refuse("ipvs.excludeCIDRs", text, "CIDRs, as 192.0.2.0/24"),
            }
        }
        ipvs::Options {
            scheduler,
            excluded,
            strict_arp: said.strict_arp.unwrap_or(false),
            timeouts: ipvs::Timeouts {
                tcp: self.ipvs_timeout("ipvs.tcpTimeout", said.tcp_timeout.as_deref()),
                tcp_fin: self.ipvs_timeout("ipvs.tcpFinTimeout", said.tcp_fin_timeout.as_deref()),
                udp: self.ipvs_timeout("ipvs.udpTimeout", said.udp_timeout.as_deref()),
            },
        }
    }

    /// The kernel counts them in ticks, as an int (`ip_vs_set_timeout` of
    /// `net/netfilter/ipvs/ip_vs_ctl.c`).
    fn ipvs_timeout(&mut self, field: &'static str, said: Option<&str>) -> Duration {
        const MOST: Duration = Duration::from_secs(i32::MAX as u64 / 1000);
        let timeout = self
            .duration(field, said.unwrap_or_default())
            .unwrap_or_default();
        if timeout > MOST {
            self.refuse(
                field,
                said.unwrap_or_default(),
                "at most 596h31m23s; 0: the kernel's",
            );
            return Duration::ZERO;
        }
        timeout
    }

    /// `None` where the text is refused.
    fn duration(&mut self, field: &'static str, text: &str) -> Option<Duration> {
        let duration = duration::parse(text);
        if duration.is_none() {
            self.refuse(field, text, duration::ACCEPTED);
        }
        duration
    }

    fn detect_local(&mut self, said: &KubeProxyConfiguration) -> DetectLocal {
        let networks = said
            .cluster_cidr
            .as_deref()
            .filter(|t| !t.is_empty())
            .map(|text| {
                netaddr::family_pair(text).unwrap_or_else(|| {
                    let accepted = "one CIDR, or one for each family with a comma between";
                    self.refuse("clusterCIDR", text, accepted);
                    Vec::new()
                })
            });
        let section = said.detect_local.clone().unwrap_or_default();
        match said.detect_local_mode.as_deref().unwrap_or_default() {
            "ClusterCIDR" => match networks {
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
                let accepted = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
                self.refuse("detectLocalMode", other, accepted);
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
        let text = said.bind_address.as_deref().unwrap_or_default();
        match text.parse::<IpAddr>() {
            Ok(ip) => (!ip.is_unspecified()).then_some(ip),
            Err(_) => {
                self.refuse("bindAddress", text, "an IP address");
                None
            }
        }
    }

    /// CIDRs and, as from Kubernetes 1.37 on, the words `primary`, `localhost` and `all`, mixed.
    fn node_port_addresses(&mut self, said: &KubeProxyConfiguration) -> Option<NodePortAddresses> {
        let list = said.node_port_addresses.as_deref().unwrap_or_default();
        let mut wanted = NodePortAddresses {
            primary: false,
            within: Vec::new(),
            loopback: false,
        };
        for text in list {
            match (text.as_str(), netaddr::network(text)) {
                ("primary", _) => wanted.primary = true,
                ("localhost", _) => wanted.within.extend(loopback().into_iter().flatten()),
                ("all", _) => wanted.within.extend(everywhere()),
                (_, Some(network)) => wanted.within.push(network),
                _ => self.refuse(
                    "nodePortAddresses",
                    text,
                    "CIDRs, primary, localhost and all",
                ),
            }
        }
        (!list.is_empty()).then_some(wanted)
    }

    fn server(
        &mut self,
        field: &'static str,
        said: Option<&str>,
        default_port: u16,
    ) -> Option<SocketAddr> {
        let text = said.filter(|text| !text.is_empty())?;
        let address = netaddr::socket_address(text, default_port);
        if address.is_none() {
            self.refuse(field, text, "IP:port, [IPv6]:port or an IP");
        }
        address
    }

    fn conntrack(&mut self, said: Option<&said::Conntrack>) -> Conntrack {
        let said = said.cloned().unwrap_or_default();
        Conntrack {
            max_per_core: Some(self.count("conntrack.maxPerCore", said.max_per_core))
                .filter(|max| *max > 0),
            min: self.count("conntrack.min", said.min),
            tcp_established: self.timeout(
                "conntrack.tcpEstablishedTimeout",
                said.tcp_established_timeout.as_deref(),
            ),
            tcp_close_wait: self.timeout(
                "conntrack.tcpCloseWaitTimeout",
                said.tcp_close_wait_timeout.as_deref(),
            ),
            udp: self.timeout("conntrack.udpTimeout", said.udp_timeout.as_deref()),
            udp_stream: self.timeout(
                "conntrack.udpStreamTimeout",
                said.udp_stream_timeout.as_deref(),
            ),
            tcp_be_liberal: said.tcp_be_liberal.unwrap_or(false),
        }
    }

    fn count(&mut self, field: &'static str, said: Option<i64>) -> u32 {
        let said = said.unwrap_or_default();
        // `nf_conntrack_max` is an int.
        let count = i32::try_from(said)
            .ok()
            .and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            self.refuse(field, &said, "0 to 2147483647");
        }
        count.unwrap_or_default()
    }

    fn timeout(&mut self, field: &'static str, said: Option<&str>) -> Option<Duration> {
        let timeout = self.duration(field, said.unwrap_or_default());
        timeout.filter(|timeout| !timeout.is_zero())
    }

    fn oom_score_adj(&mut self, said: &KubeProxyConfiguration) -> i16 {
        let score = said.oom_score_adj.unwrap_or_default();
        let usable = i16::try_from(score).ok();
        let usable = usable.filter(|score| (-1000..=1000).contains(score));
        if usable.is_none() {
            self.refuse("oomScoreAdj", &score, "-1000 to 1000");
        }
        usable.unwrap_or_default()
    }

    fn logging(&mut self, said: Option<&said::Logging>) -> Logging {
        let format = said.and_then(|s| s.format.as_deref()).unwrap_or_default();
        Logging {
            verbosity: said.and_then(|s| s.verbosity).unwrap_or(0),
            format: match format {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => {
                    self.refuse("logging.format", other, "text or json");
                    LogFormat::Text
                }
            },
        }
    }

    /// Checked although nothing depends on them: a mistake shows on the day it is made.
    fn fields_without_effect(&mut self, said: &KubeProxyConfiguration) {
        let period = said.config_sync_period.as_deref().unwrap_or_default();
        self.duration("configSyncPeriod", period);
        let burst = said
            .client_connection
            .as_ref()
            .and_then(|client| client.burst);
        if let Some(burst) = burst.filter(|burst| *burst < 0) {
            self.refuse("clientConnection.burst", &burst, "0 or more");
        }
    }
}
