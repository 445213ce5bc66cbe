//! When the kernel is brought up to date. Never decides where a packet goes and never touches the
//! kernel itself: it feeds the model, and calls a data plane when there is something to do.
//!
//! The first change goes at once; further ones are gathered for the minimum period. Nothing
//! happens before the first full lists are in. What failed is tried again, each Service by itself.

mod node;
mod record;
mod retries;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_model::said::Event;
use lb_model::{Complaint, Family, Model, ModelConfig};
use tokio::sync::mpsc;

use crate::backend::{DataPlane, Opened, PlaneSettings};
use crate::config::Settings;
use crate::health::Health;
use crate::memory;
use crate::metrics::Metrics;
use crate::node_ports::NodePorts;
use crate::watch::Heard;

use node::OwnNode;
use record::Record;
use retries::Retries;

/// Events taken from the channel at once, between two looks at the clock.
const GULP: usize = 512;
/// A pass over this many Services leaves memory behind that is worth giving back.
const BIG_PASS: usize = 1000;

/// The owner of the model and of the data plane.
#[derive(Debug)]
pub struct Syncer {
    model: Model,
    plane: Box<dyn DataPlane>,
    families: Vec<Family>,
    masquerade_bit: u8,
    min_period: Duration,
    sync_period: Duration,
    node_ports: NodePorts,
    node: OwnNode,
    record: Record,
    retries: Retries,
    /// Since when a change waits.
    waiting: Option<Instant>,
    /// The settings that the data plane has, by family.
    told: Vec<PlaneSettings>,
    last_pass: Option<Instant>,
    last_check: Instant,
}

impl Syncer {
    /// A syncer that has heard nothing yet.
    pub fn new(settings: &Settings, opened: Opened, metrics: Metrics, health: Arc<Health>) -> Self {
        let model = Model::new(ModelConfig {
            node_name: settings.node_name.clone(),
            detect_local: settings.detect_local.clone(),
            masquerade_all: settings.masquerade_all,
        });
        let Opened { plane, families } = opened;
        let now = Instant::now();
        Self {
            model,
            plane,
            record: Record::new(metrics, health, families.clone()),
            families,
            masquerade_bit: settings.masquerade_bit,
            min_period: settings.timing.min_period,
            sync_period: settings.timing.sync_period,
            node_ports: NodePorts::new(settings.node_port_addresses.clone(), settings.node_ip),
            node: OwnNode::new(now),
            retries: Retries::default(),
            waiting: None,
            told: Vec::new(),
            last_pass: None,
            last_check: now,
        }
    }

    /// Runs until the sender is gone; the rules stay. Blocks in the data plane, so it wants a
    /// thread and a runtime of its own.
    pub async fn run(mut self, mut heard: mpsc::Receiver<Heard>) {
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
                () = tokio::time::sleep_until(due) => {}
            }
            self.act(Instant::now());
        }
    }

    /// Takes one event in.
    pub fn hear(&mut self, heard: Heard) {
        let Heard {
            at,
            event,
            complaints,
        } = heard;
        self.complain(&complaints);
        let Some(event) = event else { return };
        match &event {
            Event::Node(node) => {
                self.node.seen();
                self.node_ports.set_node(&node.addresses);
                self.record
                    .node_eligible(!node.deleting && !node.to_be_deleted);
                self.waiting.get_or_insert(at);
            }
            Event::NodeGone => {
                self.node.missing();
                self.record.node_eligible(false);
                self.waiting.get_or_insert(at);
            }
            Event::ServiceListBegins | Event::SliceListBegins => {}
            Event::Service(_) | Event::ServiceGone { .. } => {
                self.record.service_event(at);
                self.waiting.get_or_insert(at);
            }
            Event::Slice(_) | Event::SliceGone { .. } => {
                self.record.slice_event(at);
                self.waiting.get_or_insert(at);
            }
            Event::ServiceListEnds | Event::SliceListEnds => {
                self.waiting.get_or_insert(at);
            }
        }
        let complaints = self.model.apply(event);
        self.complain(&complaints);
    }

    fn complain(&self, complaints: &[Complaint]) {
        for complaint in complaints {
            self.record.unusable_field();
            tracing::warn!(
                object = complaint.object,
                field = complaint.field,
                value = complaint.value,
                accepted = complaint.accepted,
                "a field that cannot be used is left out"
            );
        }
    }

    /// When [`Syncer::act`] has something to do next, as far as is known now.
    pub fn next_due(&self) -> Instant {
        let check = self.last_check + self.sync_period;
        let Some(change) = self.change_due() else {
            return check;
        };
        check.min(change)
    }

    /// When a change or a retry is due: not before the minimum period after the last pass, and not
    /// before the first lists are in and the Node is known or has been waited for.
    fn change_due(&self) -> Option<Instant> {
        if !self.model.ready() {
            return None;
        }
        let wanted = [self.waiting, self.retries.due()]
            .into_iter()
            .flatten()
            .min()?;
        let paced = self
            .last_pass
            .map_or(wanted, |last| wanted.max(last + self.min_period));
        Some(
            self.node
                .awaited_until()
                .map_or(paced, |until| paced.max(until)),
        )
    }

    /// Does what is due at `now`.
    pub fn act(&mut self, now: Instant) {
        if self.change_due().is_some_and(|due| due <= now) {
            self.pass(now);
        } else if self.last_check + self.sync_period <= now {
            self.check(now);
        }
    }

    /// The regular look: is what is ours still there, has this host other addresses now?
    fn check(&mut self, now: Instant) {
        self.last_check = now;
        if self.last_pass.is_none() {
            return;
        }
        let drifted = self.plane.check().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel does not tell whether our tables are intact");
            false
        });
        if drifted {
            tracing::warn!("our tables were changed by somebody else; putting them right");
            self.record.drift();
        }
        if drifted || self.wanted_settings() != self.told {
            self.pass(now);
        }
    }

    fn pass(&mut self, now: Instant) {
        let first = self.last_pass.is_none();
        self.tell_settings(first);
        let changes = self.model.take_changes();
        let again = self.retries.take_due(now);
        self.record.retried(again.len());
        let mut services = changes.services;
        services.extend(again);
        let report = self.plane.sync(&self.model, &services);
        let now = Instant::now();
        self.waiting = None;
        self.last_pass = Some(now);
        self.last_check = self.last_check.max(now);
        self.retries.settle(&services, &report, now);
        self.record
            .pass(&report, &changes.trigger_times, services.len(), first);
        if first || services.len() >= BIG_PASS {
            memory::give_back();
        }
    }

    fn wanted_settings(&self) -> Vec<PlaneSettings> {
        let node_port_addresses = self.node_ports.addresses();
        let settings = self.families.iter().map(|family| PlaneSettings {
            family: *family,
            masquerade_bit: self.masquerade_bit,
            detector: self.model.local_detector(*family),
            node_port_addresses: node_port_addresses
                .iter()
                .copied()
                .filter(|ip| Family::of(*ip) == *family)
                .collect(),
            localhost_node_ports: false,
            tcp_be_liberal: false,
        });
        settings.collect()
    }

    fn tell_settings(&mut self, first: bool) {
        if first {
            self.node.warn_if_unknown();
        }
        let wanted = self.wanted_settings();
        for settings in &wanted {
            if !self.told.contains(settings) {
                tracing::debug!(?settings, "settings of the data plane");
                self.plane.set_settings(settings.clone());
            }
        }
        self.told = wanted;
    }
}
