use std::collections::BTreeSet;

use super::*;

/// Those of `pkg/proxy/metrics/metrics.go` (Kubernetes 1.36) that every data plane has. (Not here:
/// the two counters of packets in nfacct, which the kernel has only once mode iptables has run.)
const KUBE_PROXY: &[&str] = &[
    "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family}",
    "kubeproxy_conntrack_reconciler_sync_duration_seconds_bucket{ip_family}",
    "kubeproxy_network_programming_duration_seconds_bucket{ip_family}",
    "kubeproxy_proxy_healthz_total{code}",
    "kubeproxy_proxy_livez_total{code}",
    "kubeproxy_sync_full_proxy_rules_duration_seconds_bucket{ip_family}",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket{ip_family}",
    "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family}",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending{}",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total{}",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family}",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family}",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family,traffic_policy}",
    "kubeproxy_sync_proxy_rules_service_changes_pending{}",
    "kubeproxy_sync_proxy_rules_service_changes_total{}",
];
const NFTABLES: &[&str] = &[
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family}",
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family}",
];
const IPTABLES: &[&str] = &[
    "kubeproxy_sync_proxy_rules_iptables_last{ip_family,table}",
    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family}",
    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family}",
    "kubeproxy_sync_proxy_rules_iptables_total{ip_family,table}",
];
/// What Kubernetes' components have in common. (Requests to the API server show when there are any.)
const COMPONENT: &[&str] = &["kubernetes_build_info{compiler,git_version,major,minor,platform}"];
const OURS: &[&str] = &[
    "causeway_check_ports_not_served{}",
    "causeway_data_plane{mode}",
    "causeway_drift_repaired_total{}",
    "causeway_event_to_kernel_seconds_bucket{}",
    "causeway_first_lists_to_kernel_seconds{}",
    "causeway_model_bytes{}",
    "causeway_model_objects{kind}",
    "causeway_objects_with_unusable_fields{}",
    "causeway_services_not_programmed{}",
    "causeway_sync_last_operations{}",
    "causeway_sync_operations_bucket{}",
    "causeway_sync_retries_total{}",
    "causeway_sync_transactions_total{}",
    "causeway_unusable_fields_total{}",
    "process_cpu_seconds_total{}",
    "process_max_fds{}",
    "process_open_fds{}",
    "process_resident_memory_bytes{}",
    "process_start_time_seconds{}",
];

/// Names with the names of their labels, without `le`, `_sum` and `_count`.
fn shapes(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' ').map(|(series, _)| series))
        .map(|series| {
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels: Vec<&str> = labels
                .trim_end_matches('}')
                .split(',')
                .filter_map(|label| label.split_once('=').map(|(key, _)| key))
                .filter(|key| *key != "le")
                .collect();
            (name, labels.join(","))
        })
        .filter(|(name, _)| !name.ends_with("_sum") && !name.ends_with("_count"))
        .map(|(name, labels)| format!("{name}{{{labels}}}"))
        .collect()
}

#[test]
fn names_and_labels_are_kube_proxys_in_every_mode() {
    for (mode, own) in [(Mode::Nftables, NFTABLES), (Mode::Iptables, IPTABLES)] {
        let shapes = shapes(&Metrics::new().encode(mode).unwrap());
        let wanted = KUBE_PROXY.iter().chain(own).chain(COMPONENT).chain(OURS);
        assert_eq!(shapes, wanted.map(ToString::to_string).collect(), "{mode}");
    }
}

#[test]
fn requests_to_the_api_server_are_shown_as_kubernetes_clients_do() {
    let metrics = Metrics::new();
    let took = std::time::Duration::from_millis(20);
    for status in [Some(200), Some(200), Some(410), None] {
        metrics
            .api_requests
            .count("10.0.0.1:6443", "GET", status, took);
    }
    let text = metrics.encode(Mode::Nftables).unwrap();
    let requests = "rest_client_requests_total{code=";
    let rest = ",host=\"10.0.0.1:6443\",method=\"GET\"}";
    for (code, count) in [("200", 2), ("410", 1), ("<error>", 1)] {
        let line = format!("{requests}\"{code}\"{rest} {count}");
        assert!(text.contains(&line), "no {line}");
    }
    let duration = "rest_client_request_duration_seconds";
    let labels = "host=\"10.0.0.1:6443\",verb=\"GET\"";
    for line in [
        format!("{duration}_count{{{labels}}} 4"),
        format!("{duration}_bucket{{le=\"0.005\",{labels}}} 0"),
        format!("{duration}_bucket{{le=\"0.025\",{labels}}} 4"),
    ] {
        assert!(text.contains(&line), "no {line}");
    }
}

#[test]
fn network_programming_has_kube_proxys_buckets() {
    let text = Metrics::new().encode(Mode::Nftables).unwrap();
    let buckets: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("kubeproxy_network_programming_duration_seconds_bucket"))
        .filter(|line| line.contains("IPv4"))
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
        .filter(|bound: &f64| bound.is_finite())
        .collect();
    assert_eq!(buckets.len(), 80);
    assert_eq!(&buckets[..4], [0.25, 0.5, 1.0, 2.0]);
    assert_eq!(buckets[79], 300.0);
}

#[test]
fn the_process_is_shown_as_it_is() {
    let now = || {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_1970.unwrap().as_secs_f64()
    };
    let before = now();
    let file = std::fs::File::open("/proc/self/stat").unwrap();
    let text = Metrics::new().encode(Mode::Nftables).unwrap();
    let value = |name: &str| -> f64 {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("no {name}"))
            .parse()
            .unwrap()
    };
    let start = value("process_start_time_seconds");
    // Ticks are 10 ms; an hour is far more than unit tests run.
    assert!((before - 3600.0..=now() + 1.0).contains(&start), "{start}");
    assert!(value("process_cpu_seconds_total") > 0.0);
    let open = value("process_open_fds");
    assert!(open >= 4.0 && open < value("process_max_fds"), "{open}");
    drop(file);
}
