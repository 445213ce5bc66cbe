//! KubeProxyConfiguration v1alpha1, word for word: everything may be missing, nothing is checked.
//!
//! Source: `staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go` of Kubernetes 1.36.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `kubeproxy.config.k8s.io/v1alpha1`, kind `KubeProxyConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    /// `kubeproxy.config.k8s.io/v1alpha1`.
    pub api_version: Option<String>,
    /// `KubeProxyConfiguration`.
    pub kind: Option<String>,
    /// Feature gates by name. No effect but a warning about unknown ones.
    pub feature_gates: Option<BTreeMap<String, bool>>,
    /// How the API server is talked to.
    pub client_connection: Option<ClientConnection>,
    /// How much is logged, and how.
    pub logging: Option<Logging>,
    /// Name of the own Node, instead of the host's name.
    pub hostname_override: Option<String>,
    /// The node's primary IP, instead of the Node object's.
    pub bind_address: Option<String>,
    /// Where /healthz and /livez are served.
    pub healthz_bind_address: Option<String>,
    /// Where /metrics is served.
    pub metrics_bind_address: Option<String>,
    /// Whether failing to bind ends the daemon.
    pub bind_address_hard_fail: Option<bool>,
    /// No effect.
    pub enable_profiling: Option<bool>,
    /// No effect.
    pub show_hidden_metrics_for_version: Option<String>,
    /// The data plane.
    pub mode: Option<String>,
    /// Of mode iptables, and shared where `mode` is empty.
    pub iptables: Option<Iptables>,
    /// Of mode ipvs.
    pub ipvs: Option<Ipvs>,
    /// Of mode nftables.
    pub nftables: Option<Nftables>,
    /// Of Windows: accepted, ignored.
    pub winkernel: Option<Winkernel>,
    /// How a pod's traffic is recognised.
    pub detect_local_mode: Option<String>,
    /// What `detectLocalMode` needs.
    pub detect_local: Option<DetectLocal>,
    /// The pods' networks, with a comma between the families.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<String>,
    /// CIDRs, or `primary`.
    pub node_port_addresses: Option<Vec<String>>,
    /// How readily the kernel kills this process, −1000 to 1000.
    pub oom_score_adj: Option<i64>,
    /// What the kernel's connection tracking is set to.
    pub conntrack: Option<Conntrack>,
    /// No effect: the watches never relist without need.
    pub config_sync_period: Option<String>,
    /// Deprecated, unused upstream, too.
    pub port_range: Option<String>,
    /// Of Windows: accepted, ignored.
    pub windows_run_as_service: Option<bool>,
}

/// `clientConnection`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// Path of a kubeconfig; empty: the pod's service account.
    pub kubeconfig: Option<String>,
    /// No effect: JSON is spoken.
    pub accept_content_types: Option<String>,
    /// No effect: JSON is spoken.
    pub content_type: Option<String>,
    /// No effect: three watches need no limit.
    pub qps: Option<f64>,
    /// No effect: three watches need no limit.
    pub burst: Option<i64>,
}

/// `logging` (component-base's LoggingConfiguration).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// `text` or `json`.
    pub format: Option<String>,
    /// No effect.
    pub flush_frequency: Option<Value>,
    /// As flag `-v`.
    pub verbosity: Option<u32>,
    /// No effect.
    pub vmodule: Option<Value>,
    /// No effect.
    pub options: Option<Value>,
}

/// `iptables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Iptables {
    /// Bit of the packet mark, 0 to 31.
    pub masquerade_bit: Option<i64>,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: Option<bool>,
    /// Node ports on 127.0.0.1.
    pub localhost_node_ports: Option<bool>,
    /// How often everything is checked again.
    pub sync_period: Option<String>,
    /// The least time between two passes.
    pub min_sync_period: Option<String>,
}

/// `nftables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nftables {
    /// Bit of the packet mark, 0 to 31.
    pub masquerade_bit: Option<i64>,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: Option<bool>,
    /// How often everything is checked again.
    pub sync_period: Option<String>,
    /// The least time between two passes.
    pub min_sync_period: Option<String>,
}

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    /// How often everything is checked again.
    pub sync_period: Option<String>,
    /// The least time between two passes.
    pub min_sync_period: Option<String>,
    /// The scheduler's name.
    pub scheduler: Option<String>,
    /// Services that are not ours to remove.
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    /// arp_ignore and arp_announce.
    #[serde(rename = "strictARP")]
    pub strict_arp: Option<bool>,
    /// Idle timeout.
    pub tcp_timeout: Option<String>,
    /// Timeout after a FIN.
    pub tcp_fin_timeout: Option<String>,
    /// Idle timeout.
    pub udp_timeout: Option<String>,
}

/// `winkernel`: accepted, ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Winkernel {
    /// Ignored.
    pub network_name: Option<String>,
    /// Ignored.
    pub source_vip: Option<String>,
    /// Ignored.
    #[serde(rename = "enableDSR")]
    pub enable_dsr: Option<bool>,
    /// Ignored.
    pub root_hns_endpoint_name: Option<String>,
    /// Ignored.
    pub forward_health_check_vip: Option<bool>,
}

/// `detectLocal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    /// The bridge of mode BridgeInterface.
    pub bridge_interface: Option<String>,
    /// The prefix of mode InterfaceNamePrefix.
    pub interface_name_prefix: Option<String>,
}

/// `conntrack`. A 0 leaves the kernel's value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    /// Entries for each core.
    pub max_per_core: Option<i64>,
    /// Entries at least.
    pub min: Option<i64>,
    /// Idle timeout.
    pub tcp_established_timeout: Option<String>,
    /// Timeout in CLOSE_WAIT.
    pub tcp_close_wait_timeout: Option<String>,
    /// nf_conntrack_tcp_be_liberal.
    pub tcp_be_liberal: Option<bool>,
    /// Unreplied.
    pub udp_timeout: Option<String>,
    /// Assured.
    pub udp_stream_timeout: Option<String>,
}

/// The only version understood.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The only kind understood.
pub const KIND: &str = "KubeProxyConfiguration";

impl KubeProxyConfiguration {
    /// A file that says nothing but what it is.
    pub fn nothing() -> Self {
        Self {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(KIND.to_owned()),
            ..Self::default()
        }
    }

    /// As JSON, without what was not said.
    ///
    /// # Errors
    /// Never for what came from a file or from flags: all keys are strings.
    pub fn to_json(&self) -> serde_json::Result<Value> {
        let mut json = serde_json::to_value(self)?;
        drop_nulls(&mut json);
        Ok(json)
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(drop_nulls);
        fields.retain(|_, field| !field.is_null());
    }
}
