//! What a pass leaves in metrics, health and log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use lb_model::said::Event;
use lb_model::{Complaint, Family, Model, ServiceName};

use crate::backend::{FamilyReport, FlowReport, PassReport, RestoreReport};
use crate::config::Mode;
use crate::metrics::{Metrics, by_family, by_kind, by_table};

use super::Told;
use super::unusable::Unusable;

/// Arrival times kept for the latency histogram; a burst beyond it is counted by its first ones.
const MOST_ARRIVALS: usize = 10_000;

/// The books.
#[derive(Debug)]
pub(super) struct Record {
    told: Told,
    /// Those served.
    families: Vec<Family>,
    /// What the first pass was last said to wait for.
    waits_for: Option<&'static str>,
    unusable: Unusable,
    /// When the events arrived that are not in the kernel yet.
    arrivals: Vec<Instant>,
    /// When the first full lists were complete, until they are in the kernel.
    lists_complete: Option<Instant>,
    /// Changes from before are no measure of how fast this process is.
    started: Timestamp,
}

impl Record {
    pub(super) fn new(told: Told, families: &[Family]) -> Self {
        Self {
            told,
            families: families.to_vec(),
            waits_for: None,
            unusable: Unusable::default(),
            arrivals: Vec::new(),
            lists_complete: None,
            started: Timestamp::now(),
        }
    }

    pub(super) const fn metrics(&self) -> &Metrics {
        &self.told.metrics
    }

    pub(super) fn node_eligible(&self, eligible: bool) {
        self.told.health.set_node_eligible(eligible);
    }

    pub(super) fn mode(&mut self, mode: Mode, families: &[Family]) {
        self.families = families.to_vec();
        self.told.status.set_mode(mode, families);
    }

    pub(super) fn waits_for(&mut self, what: Option<&'static str>) {
        if self.waits_for != what {
            self.told.status.set_waits_for(what);
            self.waits_for = what;
        }
    }

    pub(super) fn model_sizes(&self, model: &Model) {
        let (services, slices) = model.sizes();
        self.metrics().model_bytes.set(as_i64(model.bytes()));
        for (kind, count) in [("Service", services), ("EndpointSlice", slices)] {
            let gauge = self.metrics().model_objects.get_or_create(&by_kind(kind));
            gauge.set(as_i64(count));
        }
    }

    /// `event` arrived; `None`: even its object cannot be used.
    pub(super) fn heard(&mut self, event: Option<&Event>) {
        self.unusable.heard(event, &self.told);
    }

    /// What cannot be used of what was heard.
    pub(super) fn complain(&mut self, complaints: &[Complaint]) {
        self.unusable.complain(complaints, &self.told);
    }

    /// What `service` claims now and another Service has.
    pub(super) fn dispute(&mut self, service: &ServiceName, complaints: Vec<Complaint>) {
        self.unusable.dispute(service, complaints, &self.told);
    }

    pub(super) fn service_event(&mut self, at: Instant) {
        self.metrics().service_changes.inc();
        self.metrics().service_changes_pending.inc();
        self.queued(at);
    }

    pub(super) fn slice_event(&mut self, at: Instant) {
        self.metrics().endpoint_changes.inc();
        self.metrics().endpoint_changes_pending.inc();
        self.queued(at);
    }

    /// The first full lists are complete; they are not in the kernel yet.
    pub(super) fn lists_complete(&mut self, at: Instant) {
        self.lists_complete.get_or_insert(at);
    }

    fn queued(&mut self, at: Instant) {
        let first = self.arrivals.is_empty();
        if self.arrivals.len() < MOST_ARRIVALS {
            self.arrivals.push(at);
        }
        if first {
            for family in &self.families {
                self.told.health.queued(*family);
                self.metrics()
                    .last_queued
                    .get_or_create(&by_family(*family))
                    .set(unix_seconds());
            }
        }
    }

    pub(super) fn retried(&self, services: usize) {
        self.metrics().retries.inc_by(services as u64);
    }

    pub(super) fn drift(&self) {
        self.metrics().drift.inc();
    }

    /// A pass over `services` Services is done.
    pub(super) fn pass(
        &mut self,
        report: &PassReport,
        trigger_times: &[(Family, String)],
        services: &BTreeSet<ServiceName>,
        first: bool,
    ) {
        self.not_programmed(report, services);
        let services = services.len();
        for (family, report) in &report.families {
            self.family(*family, report, trigger_times);
        }
        for (family, flows) in &report.flows {
            self.flows(*family, flows);
        }
        let operations = report.operations();
        self.metrics().operations.observe(as_f64(operations));
        if operations > 0 {
            self.metrics()
                .last_operations
                .set(i64::try_from(operations).unwrap_or(i64::MAX));
        }
        if report.complete() {
            self.metrics().service_changes_pending.set(0);
            self.metrics().endpoint_changes_pending.set(0);
            if let Some(at) = self.lists_complete.take() {
                let gauge = &self.metrics().first_lists_to_kernel;
                gauge.set(at.elapsed().as_secs_f64());
            }
            // The first lists are old news: they say nothing about how fast a change is.
            let arrivals = std::mem::take(&mut self.arrivals);
            for at in arrivals.iter().filter(|_| !first) {
                self.metrics()
                    .event_to_kernel
                    .observe(at.elapsed().as_secs_f64());
            }
        }
        if first {
            tracing::info!(
                services,
                operations,
                complete = report.complete(),
                "first pass"
            );
        } else {
            tracing::debug!(services, operations, complete = report.complete(), "pass");
        }
    }

    fn family(&self, family: Family, report: &FamilyReport, trigger_times: &[(Family, String)]) {
        let label = by_family(family);
        let seconds = report.duration.as_secs_f64();
        self.metrics()
            .sync_duration
            .get_or_create(&label)
            .observe(seconds);
        let by_extent = if report.full {
            &self.metrics().full_sync_duration
        } else {
            &self.metrics().partial_sync_duration
        };
        by_extent.get_or_create(&label).observe(seconds);
        self.metrics()
            .transactions
            .inc_by(report.transactions as u64);
        for (service, error) in &report.failed {
            tracing::warn!(%service, ?family, %error, "not programmed; trying again");
        }
        if let Some(error) = &report.leftovers {
            tracing::warn!(?family, %error, "leftovers not removed; trying again");
        }
        if report.failed.is_empty() && report.leftovers.is_none() {
            self.told.health.updated(family);
            self.metrics()
                .last_sync
                .get_or_create(&label)
                .set(unix_seconds());
        } else {
            self.metrics().sync_failures.get_or_create(&label).inc();
        }
        if report.leftovers.is_some() {
            self.metrics().cleanup_failures.get_or_create(&label).inc();
        }
        if let Some(restore) = &report.restore {
            self.restore(family, restore);
        }
        // As kube-proxy: every changed slice counts, whether or not it changed a rule.
        let histogram = self.metrics().network_programming.get_or_create(&label);
        let now = Timestamp::now();
        let own = trigger_times.iter().filter(|(of, _)| *of == family);
        for since in own.filter_map(|(_, time)| time.parse::<Timestamp>().ok()) {
            if since >= self.started {
                histogram.observe(now.duration_since(since).as_secs_f64().max(0.0));
            }
        }
    }

    fn restore(&self, family: Family, restore: &RestoreReport) {
        let (label, metrics) = (by_family(family), self.metrics());
        for (counter, count) in [
            (&metrics.restore_failures, restore.failures),
            (&metrics.partial_restore_failures, restore.partial_failures),
        ] {
            counter.get_or_create(&label).inc_by(count);
        }
        for (gauges, counts) in [
            (&metrics.rules, &restore.rules),
            (&metrics.rules_written, &restore.rules_written),
        ] {
            for (table, count) in counts {
                let gauge = gauges.get_or_create(&by_table(family, table));
                gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
            }
        }
    }

    /// The Services that `report` failed, of those that the pass looked at.
    fn not_programmed(&self, report: &PassReport, services: &BTreeSet<ServiceName>) {
        let failed: BTreeMap<ServiceName, String> = report
            .families
            .values()
            .flat_map(|family| &family.failed)
            .map(|(service, error)| (service.clone(), error.to_string()))
            .collect();
        let count = self.told.status.set_failing(services.iter(), failed);
        self.metrics().not_programmed.set(as_i64(count));
    }

    fn flows(&self, family: Family, flows: &FlowReport) {
        let label = by_family(family);
        let seconds = flows.duration.as_secs_f64();
        self.metrics()
            .conntrack_duration
            .get_or_create(&label)
            .observe(seconds);
        let counter = self.metrics().conntrack_deleted.get_or_create_owned(&label);
        counter.inc_by(flows.deleted as u64);
        if let Some(error) = &flows.failed {
            tracing::warn!(?family, %error, "stale UDP flows not removed; trying again");
        }
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
