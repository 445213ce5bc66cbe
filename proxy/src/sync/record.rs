//! What a pass leaves in metrics, health and log.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use lb_model::Family;

use crate::backend::{FamilyReport, FlowReport, PassReport};
use crate::health::Health;
use crate::metrics::{Metrics, by_family};

/// Arrival times kept for the latency histogram; a burst beyond it is counted by its first ones.
const MOST_ARRIVALS: usize = 10_000;

/// The books.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Metrics,
    health: Arc<Health>,
    families: Vec<Family>,
    /// When the events arrived that are not in the kernel yet.
    arrivals: Vec<Instant>,
    /// Changes from before are no measure of how fast this process is.
    started: Timestamp,
}

impl Record {
    pub(super) fn new(metrics: Metrics, health: Arc<Health>, families: Vec<Family>) -> Self {
        Self {
            metrics,
            health,
            families,
            arrivals: Vec::new(),
            started: Timestamp::now(),
        }
    }

    pub(super) fn node_eligible(&self, eligible: bool) {
        self.health.set_node_eligible(eligible);
    }

    pub(super) fn unusable_field(&self) {
        self.metrics.unusable_fields.inc();
    }

    pub(super) fn service_event(&mut self, at: Instant) {
        self.metrics.service_changes.inc();
        self.metrics.service_changes_pending.inc();
        self.queued(at);
    }

    pub(super) fn slice_event(&mut self, at: Instant) {
        self.metrics.endpoint_changes.inc();
        self.metrics.endpoint_changes_pending.inc();
        self.queued(at);
    }

    fn queued(&mut self, at: Instant) {
        let first = self.arrivals.is_empty();
        if self.arrivals.len() < MOST_ARRIVALS {
            self.arrivals.push(at);
        }
        if first {
            for family in &self.families {
                self.health.queued(*family);
                self.metrics
                    .last_queued
                    .get_or_create(&by_family(*family))
                    .set(unix_seconds());
            }
        }
    }

    pub(super) fn retried(&self, services: usize) {
        self.metrics.retries.inc_by(services as u64);
    }

    pub(super) fn drift(&self) {
        self.metrics.drift.inc();
    }

    /// A pass over `services` Services is done.
    pub(super) fn pass(
        &mut self,
        report: &PassReport,
        trigger_times: &[String],
        services: usize,
        first: bool,
    ) {
        for (family, report) in &report.families {
            self.family(*family, report, trigger_times);
        }
        for (family, flows) in &report.flows {
            self.flows(*family, flows);
        }
        let operations = report.operations();
        self.metrics.operations.observe(as_f64(operations));
        if operations > 0 {
            self.metrics
                .last_operations
                .set(i64::try_from(operations).unwrap_or(i64::MAX));
        }
        if report.complete() {
            self.metrics.service_changes_pending.set(0);
            self.metrics.endpoint_changes_pending.set(0);
            // The first lists are old news: they say nothing about how fast a change is.
            let arrivals = std::mem::take(&mut self.arrivals);
            for at in arrivals.iter().filter(|_| !first) {
                self.metrics
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

    fn family(&self, family: Family, report: &FamilyReport, trigger_times: &[String]) {
        let label = by_family(family);
        let seconds = report.duration.as_secs_f64();
        self.metrics
            .sync_duration
            .get_or_create(&label)
            .observe(seconds);
        let by_extent = if report.full {
            &self.metrics.full_sync_duration
        } else {
            &self.metrics.partial_sync_duration
        };
        by_extent.get_or_create(&label).observe(seconds);
        self.metrics.transactions.inc_by(report.transactions as u64);
        for (service, error) in &report.failed {
            tracing::warn!(%service, ?family, %error, "not programmed; trying again");
        }
        if let Some(error) = &report.leftovers {
            tracing::warn!(?family, %error, "leftovers not removed; trying again");
        }
        if report.failed.is_empty() && report.leftovers.is_none() {
            self.health.updated(family);
            self.metrics
                .last_sync
                .get_or_create(&label)
                .set(unix_seconds());
        } else {
            self.metrics.sync_failures.get_or_create(&label).inc();
        }
        // Which family a trigger time belongs to is not known: it counts where something was done.
        if report.operations > 0 {
            let histogram = self.metrics.network_programming.get_or_create(&label);
            let now = Timestamp::now();
            for since in trigger_times
                .iter()
                .filter_map(|time| time.parse::<Timestamp>().ok())
            {
                if since >= self.started {
                    histogram.observe(now.duration_since(since).as_secs_f64().max(0.0));
                }
            }
        }
    }

    fn flows(&self, family: Family, flows: &FlowReport) {
        let label = by_family(family);
        let seconds = flows.duration.as_secs_f64();
        self.metrics
            .conntrack_duration
            .get_or_create(&label)
            .observe(seconds);
        let counter = self.metrics.conntrack_deleted.get_or_create_owned(&label);
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

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
