//! What the daemon counts. Names, labels and buckets are kube-proxy's where kube-proxy has the
//! metric (`pkg/proxy/metrics/metrics.go` of Kubernetes 1.36), so that dashboards and perf-tests
//! go on working; our own begin with `causeway_`.

use std::fmt;
use std::sync::atomic::AtomicU64;

use lb_model::Family as IpFamily;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::Registry;

/// Label `ip_family`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByFamily {
    ip_family: &'static str,
}

/// Label `code`: an HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByCode {
    code: u16,
}

type Seconds = Family<ByFamily, Histogram, fn() -> Histogram>;
type Timestamp = Family<ByFamily, Gauge<f64, AtomicU64>>;

/// Everything that is counted.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `kubeproxy_sync_proxy_rules_duration_seconds`.
    pub sync_duration: Seconds,
    /// `kubeproxy_sync_full_proxy_rules_duration_seconds`.
    pub full_sync_duration: Seconds,
    /// `kubeproxy_sync_partial_proxy_rules_duration_seconds`.
    pub partial_sync_duration: Seconds,
    /// `kubeproxy_sync_proxy_rules_last_timestamp_seconds`.
    pub last_sync: Timestamp,
    /// `kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds`.
    pub last_queued: Timestamp,
    /// `kubeproxy_network_programming_duration_seconds`.
    pub network_programming: Seconds,
    /// `kubeproxy_sync_proxy_rules_endpoint_changes_pending`.
    pub endpoint_changes_pending: Gauge,
    /// `kubeproxy_sync_proxy_rules_endpoint_changes_total`.
    pub endpoint_changes: Counter,
    /// `kubeproxy_sync_proxy_rules_service_changes_pending`.
    pub service_changes_pending: Gauge,
    /// `kubeproxy_sync_proxy_rules_service_changes_total`.
    pub service_changes: Counter,
    /// `kubeproxy_sync_proxy_rules_nftables_sync_failures_total`.
    pub sync_failures: Family<ByFamily, Counter>,
    /// `kubeproxy_conntrack_reconciler_sync_duration_seconds`.
    pub conntrack_duration: Seconds,
    /// `kubeproxy_conntrack_reconciler_deleted_entries_total`.
    pub conntrack_deleted: Family<ByFamily, Counter>,
    /// `kubeproxy_proxy_healthz_total`.
    pub healthz: Family<ByCode, Counter>,
    /// `kubeproxy_proxy_livez_total`.
    pub livez: Family<ByCode, Counter>,
    /// `causeway_event_to_kernel_seconds`: from an event's arrival in the daemon to the end of the
    /// pass that put it into the kernel.
    pub event_to_kernel: Histogram,
    /// `causeway_sync_operations`: elements, chains and rules added or removed in one pass.
    pub operations: Histogram,
    /// `causeway_sync_last_operations`.
    pub last_operations: Gauge,
    /// `causeway_sync_transactions_total`.
    pub transactions: Counter,
    /// `causeway_sync_retries_total`: passes for Services that failed before.
    pub retries: Counter,
    /// `causeway_tables_replaced_total`: our tables were found gone or changed by somebody else.
    pub drift: Counter,
    /// `causeway_unusable_fields_total`: fields of API objects that could not be used.
    pub unusable_fields: Counter,
}

/// `kubeproxy_sync_proxy_rules_duration_seconds` and its like: 1 ms to 16 s.
fn sync_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn programming_seconds() -> Histogram {
    Histogram::new(
        linear_buckets(0.25, 0.25, 2)
            .chain(linear_buckets(1.0, 1.0, 59))
            .chain(linear_buckets(60.0, 5.0, 12))
            .chain(linear_buckets(120.0, 30.0, 7)),
    )
}

impl Metrics {
    /// All at zero, and all there: a scrape before the first pass shows every name.
    pub fn new() -> Self {
        let metrics = Self {
            sync_duration: Family::new_with_constructor(sync_seconds),
            full_sync_duration: Family::new_with_constructor(sync_seconds),
            partial_sync_duration: Family::new_with_constructor(sync_seconds),
            last_sync: Family::default(),
            last_queued: Family::default(),
            network_programming: Family::new_with_constructor(programming_seconds),
            endpoint_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            sync_failures: Family::default(),
            conntrack_duration: Family::new_with_constructor(sync_seconds),
            conntrack_deleted: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            event_to_kernel: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            operations: Histogram::new(exponential_buckets(1.0, 4.0, 12)),
            last_operations: Gauge::default(),
            transactions: Counter::default(),
            retries: Counter::default(),
            drift: Counter::default(),
            unusable_fields: Counter::default(),
        };
        metrics.touch_all();
        metrics
    }

    fn touch_all(&self) {
        for family in IpFamily::ALL.map(by_family) {
            drop(self.sync_duration.get_or_create(&family));
            drop(self.full_sync_duration.get_or_create(&family));
            drop(self.partial_sync_duration.get_or_create(&family));
            drop(self.last_sync.get_or_create(&family));
            drop(self.last_queued.get_or_create(&family));
            drop(self.network_programming.get_or_create(&family));
            drop(self.sync_failures.get_or_create(&family));
            drop(self.conntrack_duration.get_or_create(&family));
            drop(self.conntrack_deleted.get_or_create(&family));
        }
        for code in [200, 503] {
            drop(self.healthz.get_or_create(&by_code(code)));
            drop(self.livez.get_or_create(&by_code(code)));
        }
    }

    /// The text that Prometheus reads (OpenMetrics 1.0).
    ///
    /// # Errors
    /// Never: a text takes every write.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        self.register_as_kube_proxy(registry.sub_registry_with_prefix("kubeproxy"));
        self.register_our_own(registry.sub_registry_with_prefix("causeway"));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// The encoder adds `_total` to counters itself.
    fn register_as_kube_proxy(&self, r: &mut Registry) {
        let seconds = [
            (
                "sync_proxy_rules_duration_seconds",
                "Duration of a pass, in seconds",
                &self.sync_duration,
            ),
            (
                "sync_full_proxy_rules_duration_seconds",
                "Duration of a pass over everything, in seconds",
                &self.full_sync_duration,
            ),
            (
                "sync_partial_proxy_rules_duration_seconds",
                "Duration of a pass over what changed, in seconds",
                &self.partial_sync_duration,
            ),
            (
                "network_programming_duration_seconds",
                "From the change of a pod or Service to its rules, in seconds",
                &self.network_programming,
            ),
            (
                "conntrack_reconciler_sync_duration_seconds",
                "Duration of a look at the UDP flows, in seconds",
                &self.conntrack_duration,
            ),
        ];
        for (name, help, metric) in seconds {
            r.register(name, help, metric.clone());
        }
        self.register_timestamps(r);
        self.register_changes(r);
        for (name, help, metric) in [
            (
                "sync_proxy_rules_nftables_sync_failures",
                "Passes that the kernel refused, whole or in part",
                &self.sync_failures,
            ),
            (
                "conntrack_reconciler_deleted_entries",
                "UDP flows deleted because their endpoint is gone",
                &self.conntrack_deleted,
            ),
        ] {
            r.register(name, help, metric.clone());
        }
        r.register(
            "proxy_healthz",
            "Answers of /healthz by status",
            self.healthz.clone(),
        );
        r.register(
            "proxy_livez",
            "Answers of /livez by status",
            self.livez.clone(),
        );
    }

    fn register_timestamps(&self, r: &mut Registry) {
        let timestamps = [
            (
                "sync_proxy_rules_last_timestamp_seconds",
                "When a pass last succeeded",
                &self.last_sync,
            ),
            (
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a pass was last asked for",
                &self.last_queued,
            ),
        ];
        for (name, help, metric) in timestamps {
            r.register(name, help, metric.clone());
        }
    }

    fn register_changes(&self, r: &mut Registry) {
        let pending = [
            (
                "endpoint",
                "EndpointSlice",
                &self.endpoint_changes_pending,
                &self.endpoint_changes,
            ),
            (
                "service",
                "Service",
                &self.service_changes_pending,
                &self.service_changes,
            ),
        ];
        for (name, kind, waiting, seen) in pending {
            let name = format!("sync_proxy_rules_{name}_changes");
            let help = format!("{kind} changes that are not in the kernel yet");
            r.register(format!("{name}_pending"), help, waiting.clone());
            r.register(name, format!("{kind} changes seen"), seen.clone());
        }
    }

    fn register_our_own(&self, r: &mut Registry) {
        r.register(
            "event_to_kernel_seconds",
            "From an event's arrival to the end of the pass that programmed it",
            self.event_to_kernel.clone(),
        );
        r.register(
            "sync_operations",
            "Elements, chains and rules added or removed in a pass",
            self.operations.clone(),
        );
        r.register(
            "sync_last_operations",
            "The same of the last pass that did something",
            self.last_operations.clone(),
        );
        r.register(
            "sync_transactions",
            "Transactions sent to the kernel",
            self.transactions.clone(),
        );
        r.register(
            "sync_retries",
            "Services tried again after a failure",
            self.retries.clone(),
        );
        r.register(
            "tables_replaced",
            "Times that our tables were gone or changed by somebody else",
            self.drift.clone(),
        );
        r.register(
            "unusable_fields",
            "Fields of API objects that could not be used",
            self.unusable_fields.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The label of `family`.
pub const fn by_family(family: IpFamily) -> ByFamily {
    ByFamily {
        ip_family: family_name(family),
    }
}

/// The label of an HTTP status.
pub const fn by_code(code: u16) -> ByCode {
    ByCode { code }
}

/// The family as Kubernetes writes it.
pub const fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Those of `pkg/proxy/metrics/metrics.go` (Kubernetes 1.36) that exist here.
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
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family}",
        "kubeproxy_sync_proxy_rules_service_changes_pending{}",
        "kubeproxy_sync_proxy_rules_service_changes_total{}",
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
    fn names_and_labels_are_kube_proxys() {
        let shapes = shapes(&Metrics::new().encode().unwrap());
        let theirs: BTreeSet<String> = shapes
            .iter()
            .filter(|shape| shape.starts_with("kubeproxy_"))
            .cloned()
            .collect();
        let wanted: BTreeSet<String> = KUBE_PROXY.iter().map(ToString::to_string).collect();
        assert_eq!(theirs, wanted);
        let foreign: Vec<_> = shapes
            .iter()
            .filter(|s| !s.starts_with("kubeproxy_") && !s.starts_with("causeway_"))
            .collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }

    #[test]
    fn network_programming_has_kube_proxys_buckets() {
        let text = Metrics::new().encode().unwrap();
        let buckets: Vec<f64> = text
            .lines()
            .filter(|line| {
                line.starts_with("kubeproxy_network_programming_duration_seconds_bucket")
            })
            .filter(|line| line.contains("IPv4"))
            .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
            .filter(|bound: &f64| bound.is_finite())
            .collect();
        assert_eq!(buckets.len(), 80);
        assert_eq!(&buckets[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(buckets[79], 300.0);
    }
}
