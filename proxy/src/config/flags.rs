//! Flags over the file.

use super::said::{ClientConnection, DetectLocal, KubeProxyConfiguration, Logging, Nftables};
use crate::cli::Flags;

/// Writes what `flags` say over what the file said. The shared kube-proxy flags named after
/// iptables set the nftables section, which is the one that counts.
pub fn overlay(said: &mut KubeProxyConfiguration, flags: &Flags) {
    put(&mut said.hostname_override, &flags.hostname_override);
    put(&mut said.bind_address, &flags.bind_address);
    put(
        &mut said.bind_address_hard_fail,
        &flags.bind_address_hard_fail,
    );
    put(&mut said.healthz_bind_address, &flags.healthz_bind_address);
    put(&mut said.metrics_bind_address, &flags.metrics_bind_address);
    put(&mut said.mode, &flags.proxy_mode);
    put(&mut said.detect_local_mode, &flags.detect_local_mode);
    put(&mut said.cluster_cidr, &flags.cluster_cidr);
    put(&mut said.node_port_addresses, &flags.nodeport_addresses);
    if flags.kubeconfig.is_some() {
        let section = said
            .client_connection
            .get_or_insert_with(ClientConnection::default);
        put(&mut section.kubeconfig, &flags.kubeconfig);
    }
    if flags.v.is_some() || flags.logging_format.is_some() {
        let section = said.logging.get_or_insert_with(Logging::default);
        put(&mut section.verbosity, &flags.v);
        put(&mut section.format, &flags.logging_format);
    }
    if flags.pod_bridge_interface.is_some() || flags.pod_interface_name_prefix.is_some() {
        let section = said.detect_local.get_or_insert_with(DetectLocal::default);
        put(&mut section.bridge_interface, &flags.pod_bridge_interface);
        put(
            &mut section.interface_name_prefix,
            &flags.pod_interface_name_prefix,
        );
    }
    let shared = Nftables {
        masquerade_bit: flags.iptables_masquerade_bit,
        masquerade_all: flags.masquerade_all,
        sync_period: flags.iptables_sync_period.clone(),
        min_sync_period: flags.iptables_min_sync_period.clone(),
    };
    if shared != Nftables::default() {
        let section = said.nftables.get_or_insert_with(Nftables::default);
        put(&mut section.masquerade_bit, &shared.masquerade_bit);
        put(&mut section.masquerade_all, &shared.masquerade_all);
        put(&mut section.sync_period, &shared.sync_period);
        put(&mut section.min_sync_period, &shared.min_sync_period);
    }
}

fn put<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        field.clone_from(flag);
    }
}
