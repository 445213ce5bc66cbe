//! When the kernel is brought up to date. Never decides where a packet goes and never touches the
//! kernel itself: it feeds the model, and calls a data plane when there is something to do.
//!
//! The first change goes at once; further ones are gathered for a while ([`rest`]). Nothing
//! happens before the first full lists are in. What failed is tried again, each Service by itself.

mod local;
mod node;
mod planes;
mod record;
mod rest;
mod retries;
mod unusable;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_model::said::Event;
use lb_model::{Model, ModelConfig};
use tokio::sync::{mpsc, watch};

use crate::backend::Opened;
use crate::config::Settings;
use crate::health::{CheckPorts, Health, Status};
use crate::memory;
use crate::metrics::Metrics;
use crate::node_ports::NodePorts;
use crate::watch::Heard;

pub use planes::{HostKernel, Kernel, before_the_node};

use local::Local;
use node::OwnNode;
use planes::Planes;
use record::Record;
use retries::Retries;

/// Events taken from the channel at once, between two looks at the clock.
const GULP: usize = 512;
/// A pass over this many Services leaves memory behind that is worth giving back.
const BIG_PASS: usize = 1000;

/// Who learns what happens.
#[derive(Clone, Debug)]
pub struct Told {
    /// Counts it.
    pub metrics: Metrics,
    /// Answers /healthz.
    pub health: Arc<Health>,
    /// Answers /statusz.
    pub status: Arc<Status>,
    /// Serves the health-check node ports.
    pub check_ports: watch::Sender<CheckPorts>,
}

/// A pass that is over.
#[derive(Clone, Copy, Debug)]
struct Pass {
    ended: Instant,
    took: Duration,
}

/// The owner of the model and of the data plane.
#[derive(Debug)]
pub struct Syncer {
    model: Model,
    planes: Planes,
    settings: Settings,
    node_ports: NodePorts,
    node: OwnNode,
    local: Local,
    record: Record,
    retries: Retries,
    /// Since when a change waits.
    waiting: Option<Instant>,
    last_pass: Option<Pass>,
    last_check: Instant,
    /// When the data plane wants to look at flows once more.
    flows_due: Option<Instant>,
}

impl Syncer {
    /// A syncer that has heard nothing yet, with a data plane that came from `kernel`.
    pub fn new(settings: &Settings, opened: Opened, kernel: Box<dyn Kernel>, told: Told) -> Self {
        let model = Model::new(ModelConfig {
            node_name: settings.node_name.clone(),
            detect_local: settings.detect_local.clone(),
            masquerade_all: settings.section(opened.mode).masquerade_all,
        });
        let now = Instant::now();
        let planes = Planes::new(kernel, opened, now);
        told.status.set_mode(planes.mode, &planes.families);
        told.metrics.set_ebpf(planes.plane.ebpf_counts());
        let node = OwnNode::new(now, &settings.detect_local);
        told.status.set_waits_for(node.waits_for());
        Self {
            model,
            node_ports: NodePorts::new(settings.node_ports(planes.mode), settings.node_ip),
            settings: settings.clone(),
            node,
            local: Local::new(told.check_ports.clone()),
            record: Record::new(told, &planes.families),
            planes,
            retries: Retries::default(),
            waiting: None,
            last_pass: None,
            last_check: now,
            flows_due: None,
        }
    }

    /// Runs until the sender is gone; the rules stay. Blocks in the data plane, so it wants a
    /// thread and a runtime of its own.
    pub async fn run(
        mut self,
        mut heard: mpsc::Receiver<Heard>,
        mut settings: watch::Receiver<Settings>,
    ) {
        let mut gulp = Vec::with_capacity(GULP);
        loop {
            let due = tokio::time::Instant::from_std(self.next_due());
            tokio::select! {
                biased;
                count = heard.recv_many(&mut gulp, GULP) => {
                    if count == 0 {
                        return;
                    }
                    gulp.drain(..).for_each(|heard| self.hear(heard));
                }
                Ok(()) = settings.changed() => {
                    let settings = settings.borrow_and_update().clone();
                    self.configure(settings, Instant::now());
                }
                () = tokio::time::sleep_until(due) => {}
            }
            self.act(Instant::now());
        }
    }

    /// Takes another configuration, which must not differ in what cannot change live
    /// ([`Settings::restart_fields`]). It comes into force with a pass that is due at once.
    pub fn configure(&mut self, settings: Settings, now: Instant) {
        if self.planes.switch(&settings, now) {
            self.record.mode(self.planes.mode, &self.planes.families);
            let counts = self.planes.plane.ebpf_counts();
            self.record.metrics().set_ebpf(counts);
            // The new one begins with everything.
            self.retries = Retries::default();
        }
        let node_ports = settings.node_ports(self.planes.mode);
        self.node_ports.configure(node_ports, settings.node_ip);
        self.settings = settings;
        self.waiting.get_or_insert(now);
    }

    /// Takes one event in.
    pub fn hear(&mut self, heard: Heard) {
        let Heard {
            at,
            event,
            mut complaints,
        } = heard;
        self.record.heard(event.as_ref());
        let Some(event) = event else {
            self.record.complain(&complaints);
            return;
        };
        match &event {
            Event::Node(node) => {
                self.node.seen(!node.pod_cidrs.is_empty());
                self.node_ports.set_node(&node.addresses);
                self.record
                    .node_eligible(!node.deleting && !node.to_be_deleted);
            }
            Event::NodeGone => {
                self.node.missing();
                self.record.node_eligible(false);
            }
            Event::Service(_) | Event::ServiceGone { .. } => self.record.service_event(at),
            Event::Slice(_) | Event::SliceGone { .. } => self.record.slice_event(at),
            Event::ServiceListBegins
            | Event::SliceListBegins
            | Event::ServiceListEnds
            | Event::SliceListEnds
            | Event::ServiceCidrListBegins
            | Event::ServiceCidr(_)
            | Event::ServiceCidrGone { .. }
            | Event::ServiceCidrListEnds => {}
        }
        let begins = matches!(
            event,
            Event::ServiceListBegins | Event::SliceListBegins | Event::ServiceCidrListBegins
        );
        if !begins {
            self.waiting.get_or_insert(at);
        }
        self.record.waits_for(self.node.waits_for());
        complaints.extend(self.model.apply(event));
        if self.last_pass.is_none() && self.model.ready() {
            self.record.lists_complete(at);
        }
        self.record.complain(&complaints);
        for (service, complaints) in self.model.take_disputes() {
            self.record.dispute(&service, complaints);
        }
    }

    /// When [`Syncer::act`] has something to do next, as far as is known now.
    pub fn next_due(&self) -> Instant {
        let check = self.last_check + self.section().timing.sync_period;
        let others = [self.change_due(), self.flows_due];
        others.into_iter().flatten().fold(check, Instant::min)
    }

    const fn section(&self) -> &crate::config::PlaneSection {
        self.settings.section(self.planes.mode)
    }

    /// When a change or a retry is due: not before the rest after the last pass is over, and not
    /// before the first lists are in and the Node is known or has been waited for.
    fn change_due(&self) -> Option<Instant> {
        if !self.model.ready() {
            return None;
        }
        let wanted = [self.waiting, self.retries.due()]
            .into_iter()
            .flatten()
            .min()?;
        let Some(last) = self.last_pass else {
            return Some(
                self.node
                    .awaited_until()
                    .map_or(wanted, |until| wanted.max(until)),
            );
        };
        let rest = rest::after(last.took, self.section().timing.min_period);
        Some(wanted.max(last.ended + rest))
    }

    /// Does what is due at `now`.
    pub fn act(&mut self, now: Instant) {
        if self.change_due().is_some_and(|due| due <= now) {
            self.pass(now);
        } else if self.last_check + self.section().timing.sync_period <= now {
            self.check(now);
        } else if self.flows_due.is_some_and(|due| due <= now) {
            // Not what the next change has to wait after.
            let last = self.last_pass;
            self.pass(now);
            self.last_pass = last;
        }
    }

    /// The regular look: is what is ours still there, has this host other addresses now?
    fn check(&mut self, now: Instant) {
        self.last_check = now;
        if self.last_pass.is_none() {
            return;
        }
        let patience = self.section().timing.sync_period;
        self.planes.clear_others(false, patience, now);
        let drifted = self.planes.check().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel does not tell whether our tables are intact");
            false
        });
        if drifted {
            tracing::warn!("our tables were changed by somebody else; putting them right");
            self.record.drift();
        }
        if drifted
            || self.planes.take_over()
            || self
                .planes
                .outdated(&self.settings, &self.model, &self.node_ports)
        {
            self.pass(now);
        }
    }

    fn pass(&mut self, began: Instant) {
        let first = self.last_pass.is_none();
        if first {
            self.node.warn_if_unknown();
            self.record.waits_for(None);
        }
        self.planes
            .tell(&self.settings, &self.model, &self.node_ports);
        let changes = self.model.take_changes();
        let again = self.retries.take_due(began);
        self.record.retried(again.len());
        let mut services = changes.services;
        services.extend(again);
        self.planes.take_over();
        let report = self.planes.plane.sync(&self.model, &services);
        let now = Instant::now();
        self.waiting = None;
        self.flows_due = report
            .look_again()
            .or(self.flows_due.filter(|due| *due > began));
        self.last_pass = Some(Pass {
            ended: now,
            took: now.saturating_duration_since(began),
        });
        self.last_check = self.last_check.max(now);
        self.retries.settle(&services, &report, now);
        self.record
            .pass(&report, &changes.trigger_times, &services, first);
        self.record.model_sizes(&self.model);
        let patience = self.section().timing.sync_period;
        self.planes
            .clear_others(report.complete(), patience, now.max(began));
        self.local.listen(self.node_ports.listening());
        let families = &self.planes.families;
        self.local
            .update(&self.model, &services, families, self.record.metrics());
        if first || services.len() >= BIG_PASS {
            memory::give_back();
        }
    }
}
