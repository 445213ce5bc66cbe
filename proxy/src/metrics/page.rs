//! The page that Prometheus reads. Which metrics are on it depends on the data plane, as with
//! kube-proxy.

use std::fmt;
use std::sync::atomic::AtomicU64;

use causeway_ebpf_abi::Traffic;
use lb_plan::iptables::Counter as PacketCounter;
use nodekit::nfacct;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{
    ByBuild, ByEvent, ByMaglevTable, ByMap, ByMode, ByReason, ByServicePort, ByStep, Metrics,
    process,
};
use crate::backend::ebpf::{Counted, Counts};
use crate::config::Mode;

impl Metrics {
    /// The text that Prometheus reads (OpenMetrics 1.0) where data plane `mode` runs.
    ///
    /// # Errors
    /// Never: a text takes every write.
    pub fn encode(&self, mode: Mode) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        let theirs = registry.sub_registry_with_prefix("kubeproxy");
        self.register_as_kube_proxy(theirs);
        match mode {
            Mode::Nftables | Mode::Ebpf | Mode::Ipvs => self.register_nftables(theirs),
            Mode::Iptables => self.register_iptables(theirs),
        }
        self.api_requests.register(&mut registry);
        register_build(&mut registry);
        process::register(registry.sub_registry_with_prefix("process"));
        let ours = registry.sub_registry_with_prefix("causeway");
        self.register_our_own(ours);
        register_mode(ours, mode);
        if let Some(counts) = self.ebpf() {
            register_ebpf(ours, &counts);
        }
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
        r.register(
            "conntrack_reconciler_deleted_entries",
            "UDP flows deleted because their endpoint is gone",
            self.conntrack_deleted.clone(),
        );
        r.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy and no endpoint on this node",
            self.no_local_endpoints.clone(),
        );
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

    fn register_nftables(&self, r: &mut Registry) {
        r.register(
            "sync_proxy_rules_nftables_sync_failures",
            "Passes that the kernel refused, whole or in part",
            self.sync_failures.clone(),
        );
        r.register(
            "sync_proxy_rules_nftables_cleanup_failures",
            "Passes that left something behind which nobody needs any more",
            self.cleanup_failures.clone(),
        );
    }

    fn register_iptables(&self, r: &mut Registry) {
        r.register(
            "sync_proxy_rules_iptables_restore_failures",
            "Runs of iptables-restore that failed",
            self.restore_failures.clone(),
        );
        r.register(
            "sync_proxy_rules_iptables_partial_restore_failures",
            "Runs of iptables-restore for a partial change that failed",
            self.partial_restore_failures.clone(),
        );
        r.register(
            "sync_proxy_rules_iptables_total",
            "Rules in the kernel",
            self.rules.clone(),
        );
        r.register(
            "sync_proxy_rules_iptables_last",
            "Rules written by the last pass",
            self.rules_written.clone(),
        );
        register_packet_counts(r);
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
            "first_lists_to_kernel_seconds",
            "From the end of the first full lists to the end of the pass that programmed them",
            self.first_lists_to_kernel.clone(),
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
            "drift_repaired",
            "Times that our tables were gone or changed by somebody else",
            self.drift.clone(),
        );
        self.register_objects(r);
    }

    fn register_objects(&self, r: &mut Registry) {
        r.register(
            "unusable_fields",
            "Fields of API objects that could not be used",
            self.unusable_fields.clone(),
        );
        let counts = [
            (
                "objects_with_unusable_fields",
                "API objects with fields that cannot be used",
                &self.unusable_objects,
            ),
            (
                "services_not_programmed",
                "Services that the kernel does not have as wanted",
                &self.not_programmed,
            ),
            (
                "check_ports_not_served",
                "Health-check node ports that could not be bound",
                &self.check_ports_not_served,
            ),
        ];
        for (name, help, metric) in counts {
            r.register(name, help, metric.clone());
        }
        r.register(
            "object_unusable_fields",
            "Fields of this API object that cannot be used (of some objects only)",
            self.unusable_object.clone(),
        );
        r.register(
            "model_bytes",
            "Memory of the Services and EndpointSlices held, without what the allocator adds",
            self.model_bytes.clone(),
        );
        r.register(
            "model_objects",
            "API objects held in memory",
            self.model_objects.clone(),
        );
    }
}

/// Which program this is, as Kubernetes' components tell it.
fn register_build(r: &mut Registry) {
    const MAJOR: &str = env!("CARGO_PKG_VERSION_MAJOR");
    const MINOR: &str = env!("CARGO_PKG_VERSION_MINOR");
    let builds = Family::<ByBuild, Gauge>::default();
    let build = ByBuild {
        compiler: "rustc",
        git_version: concat!("v", env!("CARGO_PKG_VERSION")),
        major: MAJOR,
        minor: MINOR,
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    };
    builds.get_or_create(&build).set(1);
    let help = "Version and platform of this program; always 1";
    r.register("kubernetes_build_info", help, builds);
}

/// Which data plane runs, whatever the configuration leaves open.
fn register_mode(r: &mut Registry, mode: Mode) {
    let modes = Family::<ByMode, Gauge>::default();
    let mode = mode.to_string();
    modes.get_or_create(&ByMode { mode }).set(1);
    r.register("data_plane", "The data plane that runs; always 1", modes);
}

/// What rules count, where the kernel has the counters: read when it is asked for, as kube-proxy does.
fn register_packet_counts(r: &mut Registry) {
    let shown = [
        (
            PacketCounter::InvalidDropped,
            "iptables_ct_state_invalid_dropped_packets",
            "Packets dropped since connection tracking found them invalid",
        ),
        (
            PacketCounter::LocalhostAccepted,
            "iptables_localhost_nodeports_accepted_packets",
            "First packets of connections to node ports on loopback addresses",
        ),
    ];
    let Ok(mut counters) = nfacct::Counters::open() else {
        return;
    };
    for (counter, name, help) in shown {
        if let Ok(Some(count)) = counters.read(counter.name()) {
            let metric = Counter::<u64>::default();
            metric.inc_by(count.packets);
            r.register(name, help, metric);
        }
    }
}

/// What the eBPF programs count, and how full their maps are.
fn register_ebpf(r: &mut Registry, counts: &Counts) {
    let events = Family::<ByEvent, Counter>::default();
    for Counted { hook, what, count } in counts.events() {
        let event = ByEvent { hook, event: what };
        events.get_or_create(&event).inc_by(count);
    }
    r.register(
        "ebpf_events",
        "What the eBPF programs did with calls and packets that aim at a Service",
        events,
    );
    let drops = Family::<ByReason, Counter>::default();
    for Counted { hook, what, count } in counts.drops() {
        let reason = ByReason { hook, reason: what };
        drops.get_or_create(&reason).inc_by(count);
    }
    r.register(
        "ebpf_drops",
        "Calls and packets that the eBPF programs refused or dropped",
        drops,
    );
    register_services(r, counts);
    let hooked: Gauge = Gauge::default();
    hooked.set(i64::try_from(counts.hooked()).unwrap_or(i64::MAX));
    r.register(
        "ebpf_hooked_interfaces",
        "Interfaces that have the eBPF program on packets",
        hooked,
    );
    register_spread(r, counts);
    let start = Family::<ByStep, Gauge<f64, AtomicU64>>::default();
    for (step, took) in counts.start() {
        let gauge = start.get_or_create_owned(&ByStep { step });
        gauge.set(took.as_secs_f64());
    }
    r.register(
        "ebpf_start_seconds",
        "How long the start of this daemon took to load the eBPF programs and to attach them",
        start,
    );
    let entries = Family::<ByMap, Gauge>::default();
    let max = Family::<ByMap, Gauge>::default();
    let set = |gauges: &Family<ByMap, Gauge>, map, value| {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        gauges.get_or_create(&ByMap { map }).set(value);
    };
    for fill in counts.maps() {
        set(&entries, fill.map, fill.entries);
        set(&max, fill.map, fill.max);
    }
    r.register("ebpf_map_entries", "Entries of the eBPF maps", entries);
    r.register(
        "ebpf_map_max_entries",
        "Entries that the eBPF maps take",
        max,
    );
}

/// What is counted of a Service port: the name's end, what it says, and what it is.
type OfServicePort = (&'static str, &'static str, fn(&Traffic) -> u64);

const OF_SERVICE_PORTS: [OfServicePort; 6] = [
    (
        "connections",
        "Connections and UDP flows to a Service port",
        |traffic| traffic.connections,
    ),
    (
        "refused",
        "Calls and packets that were refused or dropped, since a Service port had no endpoint",
        |traffic| traffic.refused,
    ),
    (
        "packets",
        "Packets to a Service port that were translated at an interface",
        |traffic| traffic.packets,
    ),
    (
        "bytes",
        "Bytes of packets to a Service port that were translated at an interface",
        |traffic| traffic.bytes,
    ),
    (
        "answer_packets",
        "Packets of a Service port's endpoints that were translated at an interface",
        |traffic| traffic.answer_packets,
    ),
    (
        "answer_bytes",
        "Bytes of packets of a Service port's endpoints that were translated at an interface",
        |traffic| traffic.answer_bytes,
    ),
];

/// What went to each Service port.
fn register_services(r: &mut Registry, counts: &Counts) {
    let services = counts.services();
    for (what, help, count) in OF_SERVICE_PORTS {
        let family = Family::<ByServicePort, Counter>::default();
        for (name, traffic) in &services {
            let labels = ByServicePort {
                namespace: name.namespace.clone(),
                service: name.service.clone(),
                port: name.port.clone(),
            };
            family.get_or_create(&labels).inc_by(count(traffic));
        }
        r.register(format!("ebpf_service_{what}"), help, family);
    }
}

/// Whose clients are spread by Maglev tables, where any should be.
fn register_spread(r: &mut Registry, counts: &Counts) {
    let Some(spread) = counts.spread() else {
        return;
    };
    let family = Family::<ByMaglevTable, Gauge>::default();
    for (table, count) in ["yes", "no"].into_iter().zip(spread) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        family.get_or_create(&ByMaglevTable { table }).set(count);
    }
    r.register(
        "ebpf_maglev_frontends",
        "Frontends whose clients are to be spread by a Maglev table, by whether there is one for them",
        family,
    );
}

#[cfg(test)]
mod tests;
