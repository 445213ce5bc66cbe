//! Flags over the file: each names the fields that it sets.
//!
//! Source: `cmd/kube-proxy/app/options.go` and component-base's `logs/api/v1` of Kubernetes 1.36.

use serde_json::{Map, Value};

use super::said::KubeProxyConfiguration;

/// A flag of the configuration.
#[derive(Debug)]
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// The fields that it sets, as paths. None: accepted so that manifests go on working.
    pub fields: &'static [&'static str],
    /// What follows it.
    pub takes: Takes,
    /// A line of help; empty: not shown.
    pub help: &'static str,
}

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Any text.
    Text,
    /// `true`, `false`, or nothing, which is true.
    Bool,
    /// A whole number.
    Number,
    /// A number.
    Fraction,
    /// Texts with commas between; given twice, both count.
    List,
    /// `Name=true` with commas between; given twice, both count.
    Gates,
}

/// A flag that was given, and its value.
pub type Given = (&'static Flag, Value);

/// Flags and file do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("flags over the configuration: {0}")]
pub struct FlagError(#[from] serde_json::Error);

const fn flag(
    name: &'static str,
    fields: &'static [&'static str],
    takes: Takes,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        fields,
        takes,
        help,
    }
}

use Takes::{Bool, Fraction, Gates, List, Number, Text};

/// All flags that set fields. Those named after iptables are kube-proxy's for every data plane.
#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    flag("bind-address", &["bindAddress"], Text, "The node's primary IP, instead of the Node object's (nothing is bound to it)"),
    flag("bind-address-hard-fail", &["bindAddressHardFail"], Bool, "Give up when a server's address cannot be bound"),
    flag("cluster-cidr", &["clusterCIDR"], Text, "The pods' networks of mode ClusterCIDR: one, or one for each family with a comma between"),
    flag("config-sync-period", &["configSyncPeriod"], Text, "Accepted; the watches never list without need"),
    flag("conntrack-max-per-core", &["conntrack.maxPerCore"], Number, "Connection-tracking entries for each processor; 0 leaves the kernel's limit"),
    flag("conntrack-min", &["conntrack.min"], Number, "Connection-tracking entries at least"),
    flag("conntrack-tcp-be-liberal", &["conntrack.tcpBeLiberal"], Bool, "Do not find TCP packets out of their window invalid"),
    flag("conntrack-tcp-timeout-close-wait", &["conntrack.tcpCloseWaitTimeout"], Text, "Timeout of TCP connections in CLOSE_WAIT; 0 leaves the kernel's"),
    flag("conntrack-tcp-timeout-established", &["conntrack.tcpEstablishedTimeout"], Text, "Timeout of idle TCP connections; 0 leaves the kernel's"),
    flag("conntrack-udp-timeout", &["conntrack.udpTimeout"], Text, "Timeout of unanswered UDP flows; 0 leaves the kernel's"),
    flag("conntrack-udp-timeout-stream", &["conntrack.udpStreamTimeout"], Text, "Timeout of answered UDP flows; 0 leaves the kernel's"),
    flag("detect-local-mode", &["detectLocalMode"], Text, "How a pod's traffic is recognised: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"),
    flag("feature-gates", &["featureGates"], Gates, "Accepted; unknown names are warned about"),
    flag("healthz-bind-address", &["healthzBindAddress"], Text, "Where /healthz and /livez are served, as IP:port; empty: nowhere"),
    flag("hostname-override", &["hostnameOverride"], Text, "Name of the own Node; without it, the host's name"),
    flag("iptables-localhost-nodeports", &["iptables.localhostNodePorts"], Bool, "Node ports on 127.0.0.1 (iptables only)"),
    flag("iptables-masquerade-bit", &["iptables.masqueradeBit", "nftables.masqueradeBit"], Number, "Bit of the packet mark that says \"masquerade\", 0 to 31"),
    flag("iptables-min-sync-period", &["iptables.minSyncPeriod", "nftables.minSyncPeriod"], Text, "The least time between two passes, as 1s"),
    flag("iptables-sync-period", &["iptables.syncPeriod", "nftables.syncPeriod"], Text, "How often everything is checked again, as 30s"),
    flag("ipvs-exclude-cidrs", &["ipvs.excludeCIDRs"], List, "Virtual services at these addresses are somebody else's (ipvs)"),
    flag("ipvs-min-sync-period", &["ipvs.minSyncPeriod"], Text, "The least time between two passes, as 1s (ipvs)"),
    flag("ipvs-scheduler", &["ipvs.scheduler"], Text, "How an endpoint is chosen: rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq or mh (ipvs)"),
    flag("ipvs-strict-arp", &["ipvs.strictARP"], Bool, "Answer ARP for addresses of the asked interface only (ipvs)"),
    flag("ipvs-sync-period", &["ipvs.syncPeriod"], Text, "How often everything is checked again, as 30s (ipvs)"),
    flag("ipvs-tcp-timeout", &["ipvs.tcpTimeout"], Text, "How long an idle TCP connection is remembered; 0 leaves the kernel's (ipvs)"),
    flag("ipvs-tcpfin-timeout", &["ipvs.tcpFinTimeout"], Text, "The same after a FIN; 0 leaves the kernel's (ipvs)"),
    flag("ipvs-udp-timeout", &["ipvs.udpTimeout"], Text, "How long a UDP flow is remembered; 0 leaves the kernel's (ipvs)"),
    flag("kube-api-burst", &["clientConnection.burst"], Number, "Accepted; a few watches need no limit"),
    flag("kube-api-content-type", &["clientConnection.contentType"], Text, "Accepted; JSON is spoken"),
    flag("kube-api-qps", &["clientConnection.qps"], Fraction, "Accepted; a few watches need no limit"),
    flag("kubeconfig", &["clientConnection.kubeconfig"], Text, "Kubeconfig of the API server; without it and --master, the pod's service account"),
    flag("logging-format", &["logging.format"], Text, "How logs look: text or json"),
    flag("masquerade-all", &["iptables.masqueradeAll", "nftables.masqueradeAll"], Bool, "Masquerade all traffic to ClusterIPs"),
    flag("metrics-bind-address", &["metricsBindAddress"], Text, "Where /metrics and the pages about the daemon are served, as IP:port; empty: nowhere"),
    flag("nodeport-addresses", &["nodePortAddresses"], List, "Where node ports are served: CIDRs, primary, localhost, all"),
    flag("oom-score-adj", &["oomScoreAdj"], Number, "How readily the kernel kills this process, -1000 to 1000"),
    flag("pod-bridge-interface", &["detectLocal.bridgeInterface"], Text, "The bridge of mode BridgeInterface"),
    flag("pod-interface-name-prefix", &["detectLocal.interfaceNamePrefix"], Text, "The prefix of mode InterfaceNamePrefix"),
    flag("profiling", &["enableProfiling"], Bool, "Accepted; there is no profiling page"),
    flag("proxy-mode", &["mode"], Text, "The data plane: nftables, iptables, ebpf, or auto: ebpf where this node lacks nothing for it, else nftables, else iptables. Left out: nftables, or iptables where the kernel lacks that"),
    flag("show-hidden-metrics-for-version", &["showHiddenMetricsForVersion"], Text, "Accepted; nothing is hidden"),
    flag("v", &["logging.verbosity"], Number, "How much is logged: 0 to 3 what happens, 4 and 5 every pass, 6 and above everything"),
    // Deprecated: only where the address itself is not given.
    flag("healthz-port", &[HEALTHZ_PORT], Number, ""),
    flag("metrics-port", &[METRICS_PORT], Number, ""),
    // Of the logs' library, and of Windows.
    flag("log-flush-frequency", &[], Text, ""),
    flag("log-json-info-buffer-size", &[], Text, ""),
    flag("log-json-split-stream", &[], Bool, ""),
    flag("log-text-info-buffer-size", &[], Text, ""),
    flag("log-text-split-stream", &[], Bool, ""),
    flag("vmodule", &[], Text, ""),
    // Of cAdvisor, which kube-proxy links in.
    flag("boot-id-file", &[], Text, ""),
    flag("machine-id-file", &[], Text, ""),
    flag("enable-dsr", &["winkernel.enableDSR"], Bool, ""),
    flag("forward-healthcheck-vip", &["winkernel.forwardHealthCheckVip"], Bool, ""),
    flag("network-name", &["winkernel.networkName"], Text, ""),
    flag("root-hnsendpoint-name", &["winkernel.rootHnsEndpointName"], Text, ""),
    flag("source-vip", &["winkernel.sourceVip"], Text, ""),
    flag("windows-service", &["windowsRunAsService"], Bool, ""),
];

/// Not fields, but ports of fields.
const HEALTHZ_PORT: &str = "port of healthzBindAddress";
const METRICS_PORT: &str = "port of metricsBindAddress";

/// Each of [`FLAGS`] with the value that its field has where nobody says anything; null where it has
/// no field.
pub fn flag_defaults() -> impl Iterator<Item = (&'static Flag, Value)> {
    let defaults = KubeProxyConfiguration::nothing().with_defaults().to_json();
    let defaults = defaults.unwrap_or_default();
    FLAGS.iter().map(move |flag| {
        let value = flag.fields.first().map(|path| match *path {
            HEALTHZ_PORT => port(&defaults["healthzBindAddress"]),
            METRICS_PORT => port(&defaults["metricsBindAddress"]),
            path => path.split('.').fold(&defaults, |at, key| &at[key]).clone(),
        });
        (flag, value.unwrap_or_default())
    })
}

/// The port of an address.
fn port(address: &Value) -> Value {
    let address = address.as_str().unwrap_or_default();
    let port = address.rsplit_once(':').map(|(_, port)| port);
    port.map(Value::from).unwrap_or_default()
}

impl Takes {
    /// Reads what follows a flag, as Go's flag packages do.
    ///
    /// # Errors
    /// What would have been accepted.
    pub fn read(self, text: &str) -> Result<Value, String> {
        let refuse = |accepted: &str| Err(format!("accepted: {accepted}"));
        match self {
            Text => Ok(text.into()),
            Bool => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true.into()),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false.into()),
                _ => refuse("true or false"),
            },
            Number => text
                .parse::<i64>()
                .map_or_else(|_| refuse("a whole number"), |number| Ok(number.into())),
            Fraction => text
                .parse::<f64>()
                .map_or_else(|_| refuse("a number"), |number| Ok(number.into())),
            List => Ok(text
                .split(',')
                .filter(|part| !part.is_empty())
                .map(Value::from)
                .collect()),
            Gates => {
                let mut gates = Map::new();
                for gate in text.split(',').filter(|gate| !gate.is_empty()) {
                    let Some((name, value)) = gate.split_once('=') else {
                        return refuse("Name=true or Name=false, with commas between");
                    };
                    gates.insert(name.trim().to_owned(), Bool.read(value.trim())?);
                }
                Ok(Value::Object(gates))
            }
        }
    }
}

/// Writes what `given` flags say over what the file said, in their order.
///
/// # Errors
/// Never for flags of [`FLAGS`] with values that [`Takes::read`] gave.
pub fn overlay(said: &mut KubeProxyConfiguration, given: &[Given]) -> Result<(), FlagError> {
    let mut json = said.to_json()?;
    for (flag, value) in given {
        for path in flag.fields {
            match *path {
                HEALTHZ_PORT => set_port(&mut json, "healthzBindAddress", "0.0.0.0", value),
                METRICS_PORT => set_port(&mut json, "metricsBindAddress", "127.0.0.1", value),
                path => set(&mut json, path, value),
            }
        }
    }
    *said = serde_json::from_value(json)?;
    Ok(())
}

fn set(json: &mut Value, path: &str, value: &Value) {
    let mut at = json;
    for key in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[key];
    }
    match (&mut *at, value) {
        (Value::Object(known), Value::Object(more)) => known.extend(more.clone()),
        (at, value) => *at = value.clone(),
    }
}

/// `--healthz-port` and `--metrics-port`: 0 means nowhere, and an address with a port wins.
fn set_port(json: &mut Value, field: &str, host: &str, port: &Value) {
    let said = json[field].as_str().unwrap_or_default();
    let complete = said.parse::<std::net::SocketAddr>().is_ok();
    if port.as_i64() == Some(0) {
        set(json, field, &Value::from(""));
    } else if !complete {
        let host = if said.is_empty() { host } else { said };
        let host = match host.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => host.to_owned(),
        };
        set(json, field, &Value::from(format!("{host}:{port}")));
    }
}
