//! What the daemon counts. Names, labels and buckets are kube-proxy's where kube-proxy has the
//! metric (`pkg/proxy/metrics/metrics.go` of Kubernetes 1.36), so that dashboards and perf-tests
//! go on working; our own begin with `causeway_`.

mod page;
mod process;
mod requests;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use lb_model::Family as IpFamily;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};

use crate::backend::ebpf::Counts;

pub use requests::ApiRequests;

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

/// Labels `ip_family` and `table`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByTable {
    ip_family: &'static str,
    table: &'static str,
}

/// Labels `ip_family` and `traffic_policy`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPolicy {
    ip_family: &'static str,
    traffic_policy: &'static str,
}

/// Label `object`: kind and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByObject {
    object: String,
}

/// Label `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKind {
    kind: &'static str,
}

/// Labels `hook` and `event`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEvent {
    hook: &'static str,
    event: &'static str,
}

/// Labels `hook` and `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    hook: &'static str,
    reason: &'static str,
}

/// Label `mode`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMode {
    mode: String,
}

/// Labels of `kubernetes_build_info`: those that mean something here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBuild {
    compiler: &'static str,
    git_version: &'static str,
    major: &'static str,
    minor: &'static str,
    platform: String,
}

/// Labels `namespace`, `service` and `port`: a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByServicePort {
    namespace: String,
    service: String,
    port: String,
}

/// Label `table`: whether there is a Maglev table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMaglevTable {
    table: &'static str,
}

/// Label `step`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStep {
    step: &'static str,
}

/// Label `map`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMap {
    map: &'static str,
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
    /// `kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total`.
    pub cleanup_failures: Family<ByFamily, Counter>,
    /// `kubeproxy_sync_proxy_rules_iptables_restore_failures_total`.
    pub restore_failures: Family<ByFamily, Counter>,
    /// `kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total`.
    pub partial_restore_failures: Family<ByFamily, Counter>,
    /// `kubeproxy_sync_proxy_rules_iptables_total`.
    pub rules: Family<ByTable, Gauge>,
    /// `kubeproxy_sync_proxy_rules_iptables_last`.
    pub rules_written: Family<ByTable, Gauge>,
    /// `kubeproxy_sync_proxy_rules_no_local_endpoints_total`.
    pub no_local_endpoints: Family<ByPolicy, Gauge>,
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
    /// `causeway_first_lists_to_kernel_seconds`: from the moment when the first lists were complete
    /// to the end of the pass that put them into the kernel; 0 before that.
    pub first_lists_to_kernel: Gauge<f64, AtomicU64>,
    /// `causeway_sync_operations`: elements, chains and rules added or removed in one pass.
    pub operations: Histogram,
    /// `causeway_sync_last_operations`.
    pub last_operations: Gauge,
    /// `causeway_sync_transactions_total`.
    pub transactions: Counter,
    /// `causeway_sync_retries_total`: passes for Services that failed before.
    pub retries: Counter,
    /// `causeway_drift_repaired_total`: our tables were found gone or changed by somebody else.
    pub drift: Counter,
    /// `causeway_unusable_fields_total`: fields of API objects that could not be used.
    pub unusable_fields: Counter,
    /// `causeway_objects_with_unusable_fields`: how many there are now.
    pub unusable_objects: Gauge,
    /// `causeway_object_unusable_fields`: how many fields of this object, of some objects.
    pub unusable_object: Family<ByObject, Gauge>,
    /// `causeway_services_not_programmed`: Services that the kernel does not have as wanted.
    pub not_programmed: Gauge,
    /// `causeway_check_ports_not_served`: health-check node ports that could not be bound.
    pub check_ports_not_served: Gauge,
    /// `causeway_model_bytes`.
    pub model_bytes: Gauge,
    /// `causeway_model_objects`.
    pub model_objects: Family<ByKind, Gauge>,
    /// What is asked of the API server.
    pub api_requests: ApiRequests,
    /// `causeway_ebpf_…`: read when they are asked for.
    ebpf: Arc<Mutex<Option<Counts>>>,
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
            cleanup_failures: Family::default(),
            restore_failures: Family::default(),
            partial_restore_failures: Family::default(),
            rules: Family::default(),
            rules_written: Family::default(),
            no_local_endpoints: Family::default(),
            conntrack_duration: Family::new_with_constructor(sync_seconds),
            conntrack_deleted: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            event_to_kernel: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            first_lists_to_kernel: Gauge::default(),
            operations: Histogram::new(exponential_buckets(1.0, 4.0, 12)),
            last_operations: Gauge::default(),
            transactions: Counter::default(),
            retries: Counter::default(),
            drift: Counter::default(),
            unusable_fields: Counter::default(),
            unusable_objects: Gauge::default(),
            unusable_object: Family::default(),
            not_programmed: Gauge::default(),
            check_ports_not_served: Gauge::default(),
            model_bytes: Gauge::default(),
            model_objects: Family::default(),
            api_requests: ApiRequests::default(),
            ebpf: Arc::default(),
        };
        metrics.touch_all();
        metrics
    }

    /// The eBPF programs count here from now on, or do not.
    pub fn set_ebpf(&self, counts: Option<Counts>) {
        *self.ebpf.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    fn ebpf(&self) -> Option<Counts> {
        let counts = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }

    fn touch_all(&self) {
        for family in IpFamily::ALL {
            for policy in ["internal", "external"] {
                drop(
                    self.no_local_endpoints
                        .get_or_create(&by_policy(family, policy)),
                );
            }
            for table in ["filter", "nat"] {
                drop(self.rules.get_or_create(&by_table(family, table)));
                drop(self.rules_written.get_or_create(&by_table(family, table)));
            }
            let family = by_family(family);
            for counter in [
                &self.cleanup_failures,
                &self.restore_failures,
                &self.partial_restore_failures,
            ] {
                drop(counter.get_or_create(&family));
            }
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
        for kind in ["Service", "EndpointSlice"] {
            drop(self.model_objects.get_or_create(&by_kind(kind)));
        }
        for code in [200, 503] {
            drop(self.healthz.get_or_create(&by_code(code)));
            drop(self.livez.get_or_create(&by_code(code)));
        }
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

/// The labels of `table` (`filter`, `nat`) of `family`.
pub const fn by_table(family: IpFamily, table: &'static str) -> ByTable {
    ByTable {
        ip_family: family_name(family),
        table,
    }
}

/// The labels of traffic policy `internal` or `external` of `family`.
pub const fn by_policy(family: IpFamily, traffic_policy: &'static str) -> ByPolicy {
    ByPolicy {
        ip_family: family_name(family),
        traffic_policy,
    }
}

/// The label of `object`, as `Service default/redis`.
pub fn by_object(object: &str) -> ByObject {
    let object = object.to_owned();
    ByObject { object }
}

/// The label of objects of `kind`.
pub const fn by_kind(kind: &'static str) -> ByKind {
    ByKind { kind }
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
