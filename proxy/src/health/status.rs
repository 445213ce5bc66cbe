//! What /statusz, /flagz, /configz and /proxyMode show: the daemon as people want to see it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;
use lb_model::{Complaint, Family, ServiceName};
use serde_json::Value;

use super::zpages::{Flagz, Statusz};
use crate::config::Mode;
use crate::metrics::family_name;

/// Objects with fields that cannot be used are named up to this number, and counted beyond it.
pub const MOST_NAMED: usize = 100;

/// The state behind the pages. Shared; each change is a short lock.
#[derive(Debug)]
pub struct Status {
    node_name: String,
    started: Timestamp,
    /// By name.
    flags: BTreeMap<String, String>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    families: Vec<Family>,
    /// Why mode ebpf does not run, though the configuration allows it.
    lacking: Vec<String>,
    /// `None` once the Node is known.
    waits_for: Option<&'static str>,
    config: Value,
    /// By object: what of it cannot be used.
    unusable: BTreeMap<String, Vec<String>>,
    /// Services that the kernel does not have as wanted.
    failing: BTreeMap<ServiceName, String>,
    /// Health-check node ports that nobody can reach.
    deaf: BTreeMap<(ServiceName, SocketAddr), String>,
}

impl Status {
    /// The daemon for Node `node_name`, with `config` in effect, started with `flags`.
    pub fn new(
        node_name: &str,
        mode: Mode,
        config: Value,
        flags: BTreeMap<String, String>,
    ) -> Self {
        Self {
            node_name: node_name.to_owned(),
            started: Timestamp::now(),
            flags,
            inner: Mutex::new(Inner {
                mode,
                families: Vec::new(),
                lacking: Vec::new(),
                waits_for: None,
                config,
                unusable: BTreeMap::new(),
                failing: BTreeMap::new(),
                deaf: BTreeMap::new(),
            }),
        }
    }

    /// The data plane that runs.
    pub fn mode(&self) -> Mode {
        self.lock().mode
    }

    /// Data plane `mode` runs, for `families`.
    pub fn set_mode(&self, mode: Mode, families: &[Family]) {
        let mut inner = self.lock();
        inner.mode = mode;
        inner.families = families.to_vec();
    }

    /// What this node lacks for mode ebpf, where the configuration allows that.
    pub fn set_lacking(&self, lacking: Vec<String>) {
        self.lock().lacking = lacking;
    }

    /// What the first pass waits for.
    pub fn set_waits_for(&self, what: Option<&'static str>) {
        self.lock().waits_for = what;
    }

    /// Another configuration is in effect.
    pub fn set_config(&self, config: Value) {
        self.lock().config = config;
    }

    /// What cannot be used of `object` now; nothing: it is fine, or gone.
    pub fn set_unusable(&self, object: &str, complaints: &[&Complaint]) {
        let lines = complaints.iter().map(|complaint| {
            let Complaint {
                field,
                value,
                accepted,
                ..
            } = complaint;
            format!("{field}: {value:?}; accepted: {accepted}")
        });
        let unusable = &mut self.lock().unusable;
        if complaints.is_empty() {
            unusable.remove(object);
        } else {
            unusable.insert(object.to_owned(), lines.collect());
        }
    }

    /// Services that a pass could not program, of those that it looked at. Gives how many there
    /// are altogether.
    pub fn set_failing<'a>(
        &self,
        looked_at: impl Iterator<Item = &'a ServiceName>,
        failed: BTreeMap<ServiceName, String>,
    ) -> usize {
        let mut inner = self.lock();
        if !inner.failing.is_empty() {
            for service in looked_at {
                inner.failing.remove(service);
            }
        }
        inner.failing.extend(failed);
        inner.failing.len()
    }

    /// The health-check node port of `service` cannot be served at `address`, or can again. Gives
    /// how many cannot.
    pub fn set_deaf(
        &self,
        service: &ServiceName,
        address: SocketAddr,
        why: Option<String>,
    ) -> usize {
        let mut inner = self.lock();
        let key = (service.clone(), address);
        match why {
            Some(why) => inner.deaf.insert(key, why),
            None => inner.deaf.remove(&key),
        };
        inner.deaf.len()
    }

    /// The configuration in effect, defaults included; its mode is the one that runs.
    pub fn configz(&self) -> String {
        let inner = self.lock();
        let mut config = inner.config.clone();
        config["mode"] = inner.mode.to_string().into();
        serde_json::json!({ "kubeproxy.config.k8s.io": config }).to_string()
    }

    /// One line for each flag.
    pub fn flagz(&self) -> String {
        let mut text = format!("\ncauseway-proxy flagz\n{WARNING}\n");
        for (flag, value) in &self.flags {
            text.push_str(&format!("{flag}={value}\n"));
        }
        text
    }

    /// The same for programs.
    pub(super) fn flagz_object(&self) -> Flagz<'_> {
        Flagz { flags: &self.flags }
    }

    /// What is the same about every component, for programs.
    pub(super) fn statusz_object(&self) -> Statusz {
        Statusz {
            start_time: self.started,
            uptime_seconds: self.up(),
            go_version: "",
            binary_version: env!("CARGO_PKG_VERSION"),
            paths: PATHS,
        }
    }

    /// Since when it runs, in seconds.
    fn up(&self) -> u64 {
        let up = Timestamp::now().duration_since(self.started).as_secs();
        u64::try_from(up).unwrap_or(0)
    }

    /// How things are, for people. `updated`: when everything about each family was last in the
    /// kernel.
    pub fn statusz(&self, updated: &BTreeMap<Family, Timestamp>) -> String {
        let mut text = format!("\ncauseway-proxy statusz\n{WARNING}\n");
        // Writing to a string cannot fail.
        let _ = self.write(updated, &mut text);
        text
    }

    fn write(&self, updated: &BTreeMap<Family, Timestamp>, out: &mut String) -> fmt::Result {
        let inner = self.lock();
        let families: Vec<_> = inner.families.iter().copied().map(family_name).collect();
        writeln!(out, "Started: {}", self.started)?;
        writeln!(out, "Up: {} s", self.up())?;
        writeln!(out, "Binary version: {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "Node: {}", self.node_name)?;
        writeln!(out, "Mode: {} ({})", inner.mode, families.join(", "))?;
        for lacks in &inner.lacking {
            writeln!(out, "  for mode ebpf lacks: {lacks}")?;
        }
        for (family, at) in updated {
            writeln!(out, "Last in the kernel, {}: {at}", family_name(*family))?;
        }
        if let Some(what) = inner.waits_for {
            writeln!(out, "Waiting for: {what}")?;
        }
        writeln!(out, "Services not programmed: {}", inner.failing.len())?;
        for (service, error) in inner.failing.iter().take(MOST_NAMED) {
            writeln!(out, "  Service {service}: {error}")?;
        }
        writeln!(
            out,
            "Health-check node ports not served: {}",
            inner.deaf.len()
        )?;
        for ((service, address), error) in inner.deaf.iter().take(MOST_NAMED) {
            writeln!(out, "  Service {service} {address}: {error}")?;
        }
        writeln!(
            out,
            "Objects with unusable fields: {}",
            inner.unusable.len()
        )?;
        for (object, lines) in inner.unusable.iter().take(MOST_NAMED) {
            for line in lines {
                writeln!(out, "  {object}: {line}")?;
            }
        }
        writeln!(out, "Paths: {}", PATHS.join(" "))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WARNING: &str = "Warning: This page is for people; its format may change at any time.\n";

/// What else is served there.
const PATHS: &[&str] = &[
    "/configz",
    "/flagz",
    "/healthz",
    "/metrics",
    "/metrics/slis",
    "/proxyMode",
    "/statusz",
];
