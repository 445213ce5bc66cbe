//! Defaults, filled in where nothing was said (`pkg/proxy/apis/config/v1alpha1/defaults.go` of
//! Kubernetes 1.36).
//!
//! Two differ from kube-proxy's: the mode, and how long changes are gathered. kube-proxy waits 1 s
//! because its passes are dear; here a pass costs what the change costs, and the next one waits in
//! proportion.

use serde_json::Value;

use super::duration;
use super::said::{ClientConnection, KubeProxyConfiguration, Logging, Nftables};

/// Mark 0x4000.
const MASQUERADE_BIT: i64 = 14;
const SYNC_PERIOD: &str = "30s";
/// Nothing asked for. kube-proxy, which this may be given back to, takes its own default for it.
const NO_PERIOD: &str = "0s";

impl KubeProxyConfiguration {
    /// The same with every default written out. Doing it twice changes nothing more.
    #[must_use]
    pub fn with_defaults(&self) -> Self {
        let mut all = self.clone();
        share_with_nftables(&mut all);
        // Left empty: kube-proxy, which this may be given back to, knows no "auto".
        fill_text(&mut all.mode, "");
        fill_text(&mut all.hostname_override, "");
        fill_text(&mut all.bind_address, "0.0.0.0");
        let (any, own) = if all
            .bind_address
            .as_deref()
            .is_some_and(|ip| ip.contains(':'))
        {
            ("[::]:10256", "[::1]:10249")
        } else {
            ("0.0.0.0:10256", "127.0.0.1:10249")
        };
        // Said as "", which only a flag can, these two mean "nowhere".
        fill(&mut all.healthz_bind_address, any.to_owned());
        fill(&mut all.metrics_bind_address, own.to_owned());
        fill(&mut all.bind_address_hard_fail, false);
        fill(&mut all.enable_profiling, false);
        fill_text(&mut all.show_hidden_metrics_for_version, "");
        fill_text(&mut all.detect_local_mode, "ClusterCIDR");
        fill_text(&mut all.cluster_cidr, "");
        fill(&mut all.node_port_addresses, Vec::new());
        fill(&mut all.oom_score_adj, -999);
        fill_duration(&mut all.config_sync_period, "15m0s");
        fill_text(&mut all.port_range, "");
        fill(&mut all.windows_run_as_service, false);
        all.feature_gates.get_or_insert_default();
        fill_client(all.client_connection.get_or_insert_default());
        fill_logging(all.logging.get_or_insert_default());
        fill_planes(&mut all);
        fill_conntrack(&mut all);
        let local = all.detect_local.get_or_insert_default();
        fill_text(&mut local.bridge_interface, "");
        fill_text(&mut local.interface_name_prefix, "");
        all
    }
}

/// Where no mode is chosen, or the choice is left to us, what the nftables section leaves open comes
/// from the iptables section: a ConfigMap written for kube-proxy's default mode goes on meaning the
/// same, whatever this node can do.
fn share_with_nftables(all: &mut KubeProxyConfiguration) {
    let chosen = !matches!(all.mode.as_deref(), None | Some("" | "auto"));
    let (false, Some(other)) = (chosen, all.iptables.as_ref()) else {
        return;
    };
    let own = all.nftables.get_or_insert_default();
    own.masquerade_bit = own.masquerade_bit.or(other.masquerade_bit);
    own.masquerade_all = own.masquerade_all.or(other.masquerade_all);
    for (own, other) in [
        (&mut own.sync_period, &other.sync_period),
        (&mut own.min_sync_period, &other.min_sync_period),
    ] {
        if is_unset(own.as_deref()) {
            own.clone_from(other);
        }
    }
}

fn fill_client(client: &mut ClientConnection) {
    fill_text(&mut client.kubeconfig, "");
    fill_text(&mut client.accept_content_types, "");
    // The watches speak JSON whatever stands here.
    fill_text(
        &mut client.content_type,
        "application/vnd.kubernetes.protobuf",
    );
    client.qps = client.qps.filter(|qps| *qps != 0.0).or(Some(5.0));
    client.burst = client.burst.filter(|burst| *burst != 0).or(Some(10));
}

fn fill_logging(logging: &mut Logging) {
    fill_text(&mut logging.format, "text");
    fill(&mut logging.flush_frequency, Value::from("5s"));
    fill(&mut logging.verbosity, 0);
}

fn fill_planes(all: &mut KubeProxyConfiguration) {
    let nftables: &mut Nftables = all.nftables.get_or_insert_default();
    fill(&mut nftables.masquerade_bit, MASQUERADE_BIT);
    fill(&mut nftables.masquerade_all, false);
    fill_duration(&mut nftables.sync_period, SYNC_PERIOD);
    fill_text(&mut nftables.min_sync_period, NO_PERIOD);
    let iptables = all.iptables.get_or_insert_default();
    fill(&mut iptables.masquerade_bit, MASQUERADE_BIT);
    fill(&mut iptables.masquerade_all, false);
    fill(&mut iptables.localhost_node_ports, true);
    fill_duration(&mut iptables.sync_period, SYNC_PERIOD);
    fill_text(&mut iptables.min_sync_period, NO_PERIOD);
    let ipvs = all.ipvs.get_or_insert_default();
    fill_duration(&mut ipvs.sync_period, SYNC_PERIOD);
    fill_text(&mut ipvs.min_sync_period, NO_PERIOD);
    fill_text(&mut ipvs.scheduler, "");
    fill(&mut ipvs.exclude_cidrs, Vec::new());
    fill(&mut ipvs.strict_arp, false);
    for timeout in [
        &mut ipvs.tcp_timeout,
        &mut ipvs.tcp_fin_timeout,
        &mut ipvs.udp_timeout,
    ] {
        fill(timeout, "0s".to_owned());
    }
    let windows = all.winkernel.get_or_insert_default();
    for text in [
        &mut windows.network_name,
        &mut windows.source_vip,
        &mut windows.root_hns_endpoint_name,
    ] {
        fill_text(text, "");
    }
    fill(&mut windows.enable_dsr, false);
    fill(&mut windows.forward_health_check_vip, false);
}

/// Here a 0 that was said means "leave the kernel's".
fn fill_conntrack(all: &mut KubeProxyConfiguration) {
    let conntrack = all.conntrack.get_or_insert_default();
    fill(&mut conntrack.max_per_core, 32_768);
    fill(&mut conntrack.min, 131_072);
    fill_text(&mut conntrack.tcp_established_timeout, "24h0m0s");
    fill_text(&mut conntrack.tcp_close_wait_timeout, "1h0m0s");
    fill(&mut conntrack.tcp_be_liberal, false);
    fill_text(&mut conntrack.udp_timeout, "0s");
    fill_text(&mut conntrack.udp_stream_timeout, "0s");
}

fn fill<T>(field: &mut Option<T>, default: T) {
    field.get_or_insert(default);
}

/// An empty text counts as not said.
fn fill_text(field: &mut Option<String>, default: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(default.to_owned());
    }
}

/// Neither does a period of 0.
fn fill_duration(field: &mut Option<String>, default: &str) {
    if is_unset(field.as_deref()) {
        *field = Some(default.to_owned());
    }
}

fn is_unset(duration: Option<&str>) -> bool {
    duration.is_none_or(|text| {
        text.is_empty() || duration::parse(text).is_some_and(|period| period.is_zero())
    })
}
