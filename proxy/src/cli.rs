//! The command line: kube-proxy's flag names.

use std::path::PathBuf;

use crate::backend::ebpf;
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, parser::ValueSource};

/// The flags that have an effect. Those of kube-proxy that have none (yet) are in
/// [`NO_EFFECT_YET`]; durations and addresses stay text here, [`crate::config`] reads them.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "causeway-proxy",
    version,
    about = "The service proxy of Causeway: a drop-in replacement for kube-proxy."
)]
pub struct Flags {
    /// KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) to start from; flags win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the configuration in effect to this file, and exit.
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove everything that this program made in the kernel, and exit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cleanup: Option<bool>,
    /// Do what needs full privileges, and exit. (There is nothing of the kind.)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub init_only: Option<bool>,
    /// Kubeconfig of the API server; without it and --master, the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// URL of the API server, instead of the one in the kubeconfig.
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Name of the own Node; without it, the host's name.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The node's primary IP, instead of the Node object's. (Nothing is bound to it.)
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Give up when a server's address cannot be bound.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub bind_address_hard_fail: Option<bool>,
    /// Where /healthz and /livez are served; empty: nowhere.
    #[arg(long, value_name = "IP:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics, /proxyMode, /configz and /healthz are served; empty: nowhere.
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_bind_address: Option<String>,
    /// The data plane: nftables, or auto.
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// Bit of the packet mark that says "masquerade", 0 to 31.
    #[arg(long, value_name = "BIT", allow_negative_numbers = true)]
    pub iptables_masquerade_bit: Option<i64>,
    /// Masquerade all traffic to ClusterIPs.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub masquerade_all: Option<bool>,
    /// How often everything is checked again, as 30s.
    #[arg(long, value_name = "DURATION")]
    pub iptables_sync_period: Option<String>,
    /// The least time between two passes, as 1s.
    #[arg(long, value_name = "DURATION")]
    pub iptables_min_sync_period: Option<String>,
    /// How a pod's traffic is recognised: ClusterCIDR, NodeCIDR, BridgeInterface or
    /// InterfaceNamePrefix.
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// The bridge of mode BridgeInterface.
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of mode InterfaceNamePrefix.
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// The pods' networks of mode ClusterCIDR: one, or one for each family with a comma between.
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// Where node ports are served: `primary`, or CIDRs that the node's addresses must be in.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Mode ebpf: the cgroup2 folder whose sockets are translated; without it, the first cgroup2
    /// that is mounted.
    #[arg(long, value_name = "FOLDER")]
    pub ebpf_cgroup_root: Option<PathBuf>,
    /// Mode ebpf: the folder on a bpffs where maps and programs outlive the daemon.
    #[arg(long, value_name = "FOLDER")]
    pub ebpf_pin_dir: Option<PathBuf>,
    /// How much is logged: 0 to 3 what happens, 4 and 5 every pass, 6 and above everything.
    #[arg(short, long = "v", value_name = "LEVEL")]
    pub v: Option<u32>,
    /// How logs look: text or json.
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<String>,
    /// Flags of [`NO_EFFECT_YET`] that were given.
    #[arg(skip)]
    pub without_effect: Vec<&'static str>,
}

/// A flag that is understood so that kube-proxy's manifests go on working.
enum Takes {
    Value,
    Bool,
}

/// Flags of kube-proxy 1.36 (`cmd/kube-proxy/app/options.go`) that change nothing here yet.
const NO_EFFECT_YET: &[(&str, Takes)] = &[
    ("config-sync-period", Takes::Value),
    ("conntrack-max-per-core", Takes::Value),
    ("conntrack-min", Takes::Value),
    ("conntrack-tcp-be-liberal", Takes::Bool),
    ("conntrack-tcp-timeout-close-wait", Takes::Value),
    ("conntrack-tcp-timeout-established", Takes::Value),
    ("conntrack-udp-timeout", Takes::Value),
    ("conntrack-udp-timeout-stream", Takes::Value),
    ("enable-dsr", Takes::Bool),
    ("feature-gates", Takes::Value),
    ("forward-healthcheck-vip", Takes::Bool),
    ("healthz-port", Takes::Value),
    ("iptables-localhost-nodeports", Takes::Bool),
    ("ipvs-exclude-cidrs", Takes::Value),
    ("ipvs-min-sync-period", Takes::Value),
    ("ipvs-scheduler", Takes::Value),
    ("ipvs-strict-arp", Takes::Bool),
    ("ipvs-sync-period", Takes::Value),
    ("ipvs-tcp-timeout", Takes::Value),
    ("ipvs-tcpfin-timeout", Takes::Value),
    ("ipvs-udp-timeout", Takes::Value),
    ("kube-api-burst", Takes::Value),
    ("kube-api-content-type", Takes::Value),
    ("kube-api-qps", Takes::Value),
    ("log-flush-frequency", Takes::Value),
    ("log-json-info-buffer-size", Takes::Value),
    ("log-json-split-stream", Takes::Bool),
    ("log-text-info-buffer-size", Takes::Value),
    ("log-text-split-stream", Takes::Bool),
    ("metrics-port", Takes::Value),
    ("network-name", Takes::Value),
    ("oom-score-adj", Takes::Value),
    ("profiling", Takes::Bool),
    ("root-hnsendpoint-name", Takes::Value),
    ("show-hidden-metrics-for-version", Takes::Value),
    ("source-vip", Takes::Value),
    ("vmodule", Takes::Value),
    ("windows-service", Takes::Bool),
];

impl Flags {
    /// Where the eBPF programs go.
    pub fn ebpf(&self) -> ebpf::Options {
        let default = ebpf::Options::default();
        ebpf::Options {
            cgroup_root: self.ebpf_cgroup_root.clone(),
            pins: self.ebpf_pin_dir.clone().unwrap_or(default.pins),
        }
    }

    /// Reads the command line; prints help, the version or an error and ends the process where
    /// clap says so.
    pub fn from_command_line() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads `arguments`, the program's name first.
    ///
    /// # Errors
    /// An unknown flag, a value that does not parse, `--help` and `--version`.
    pub fn read<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let command = Self::command().args(NO_EFFECT_YET.iter().map(|(name, takes)| {
            let arg = Arg::new(*name)
                .long(*name)
                .hide(true)
                .action(ArgAction::Append);
            match takes {
                Takes::Value => arg.num_args(1).allow_negative_numbers(true),
                Takes::Bool => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
            }
        }));
        let matches = command.try_get_matches_from(arguments)?;
        let mut flags = Self::from_arg_matches(&matches)?;
        flags.without_effect = NO_EFFECT_YET
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| matches.value_source(name) == Some(ValueSource::CommandLine))
            .collect();
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_kube_proxy_writes_them() {
        let flags = Flags::read([
            "causeway-proxy",
            "--config=/etc/kube-proxy.yaml",
            "--hostname-override",
            "worker-1",
            "--masquerade-all",
            "--bind-address-hard-fail=false",
            "--nodeport-addresses=10.0.0.0/8,192.168.0.0/16",
            "-v=4",
        ])
        .unwrap();
        assert_eq!(flags.config.unwrap().to_str(), Some("/etc/kube-proxy.yaml"));
        assert_eq!(flags.hostname_override.as_deref(), Some("worker-1"));
        assert_eq!(flags.masquerade_all, Some(true));
        assert_eq!(flags.bind_address_hard_fail, Some(false));
        assert_eq!(
            flags.nodeport_addresses.unwrap(),
            ["10.0.0.0/8", "192.168.0.0/16"]
        );
        assert_eq!(flags.v, Some(4));
        assert!(flags.without_effect.is_empty());
    }

    #[test]
    fn flags_without_effect_are_accepted_and_named() {
        let flags = Flags::read([
            "causeway-proxy",
            "--conntrack-tcp-be-liberal",
            "--oom-score-adj",
            "-999",
            "--ipvs-scheduler=rr",
        ])
        .unwrap();
        assert_eq!(
            flags.without_effect,
            [
                "conntrack-tcp-be-liberal",
                "ipvs-scheduler",
                "oom-score-adj"
            ]
        );
    }

    #[test]
    fn an_unknown_flag_is_refused_by_name() {
        let error = Flags::read(["causeway-proxy", "--no-such-flag"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("--no-such-flag"), "{error}");
    }
}
