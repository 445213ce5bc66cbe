//! What is reported of a pod (`PodStatus`, Kubernetes API reference).

use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::PodSpec;
use crate::apiserver::{Part, Resource, Store};
use crate::topology::Addresses;

/// Writes a pod's status.
#[derive(Debug)]
pub(super) struct Reports {
    store: Store,
    pod: PodSpec,
    host: Option<Addresses>,
    started_at: Mutex<Option<String>>,
}

impl Reports {
    pub(super) fn new(store: Store, pod: PodSpec, host: Option<Addresses>) -> Self {
        Self {
            store,
            pod,
            host,
            started_at: Mutex::new(None),
        }
    }

    /// No sandbox, or no container yet.
    pub(super) fn waiting(&self, reason: &str, message: &str) {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        self.write("Pending", &[], false, &state);
    }

    /// The process could not be started, and won't be again.
    pub(super) fn failed_to_start(&self, ips: &[IpAddr], message: &str) {
        let state = json!({"terminated": {
            "exitCode": 128, "reason": "StartError", "message": message, "finishedAt": now(),
        }});
        self.write("Failed", ips, false, &state);
    }

    /// The process runs.
    pub(super) fn started(&self, ips: &[IpAddr]) {
        *self
            .started_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now());
        self.ready(ips, false);
    }

    /// The process runs and takes connections, or not.
    pub(super) fn ready(&self, ips: &[IpAddr], ready: bool) {
        let state = json!({"running": {"startedAt": self.started_at()}});
        self.write("Running", ips, ready, &state);
    }

    /// The process ended.
    pub(super) fn ended(&self, ips: &[IpAddr], status: ExitStatus) {
        let (phase, reason) = match status.success() {
            true => ("Succeeded", "Completed"),
            false => ("Failed", "Error"),
        };
        // A shell's way to say which signal it was.
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal));
        let state = json!({"terminated": {
            "exitCode": code, "reason": reason,
            "startedAt": self.started_at(), "finishedAt": now(),
        }});
        self.write(phase, ips, false, &state);
    }

    fn started_at(&self) -> Option<String> {
        self.started_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn write(&self, phase: &str, ips: &[IpAddr], ready: bool, state: &Value) {
        let (namespace, name) = (&self.pod.namespace, &self.pod.name);
        let written = self
            .store
            .modify(Resource::Pod, namespace, name, Part::Status, |pod| {
                if pod["metadata"]["uid"] == self.pod.uid {
                    let before = pod["status"].take();
                    pod["status"] = self.status(before, phase, ips, ready, state);
                }
                Ok(())
            });
        if let Err(refusal) = written {
            // Deleted by force, most likely.
            tracing::debug!(pod = name, %refusal, "the pod's status isn't wanted");
        }
    }

    fn status(
        &self,
        before: Value,
        phase: &str,
        ips: &[IpAddr],
        ready: bool,
        state: &Value,
    ) -> Value {
        let mut status = match before {
            Value::Object(status) => status,
            _ => serde_json::Map::new(),
        };
        let started = state.get("running").is_some();
        let conditions = [
            ("PodScheduled", true),
            ("Initialized", true),
            ("ContainersReady", ready),
            ("Ready", ready),
        ];
        let old = status.get("conditions").cloned().unwrap_or_default();
        let conditions = conditions.map(|(kind, is)| condition(&old, kind, is));
        let container = &self.pod.container;
        status.insert("phase".into(), phase.into());
        status.insert("conditions".into(), json!(conditions));
        status.entry("startTime").or_insert_with(|| now().into());
        if let Some(host) = self.host {
            status.insert("hostIP".into(), json!(host.v4));
            status.insert("hostIPs".into(), json!([{"ip": host.v4}, {"ip": host.v6}]));
        }
        if let Some(ip) = ips.first() {
            status.insert("podIP".into(), json!(ip));
            let all: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            status.insert("podIPs".into(), all.into());
        }
        let report = json!([{
            "name": container.name, "image": container.image, "imageID": "", "restartCount": 0,
            "ready": ready, "started": started, "state": state,
        }]);
        status.insert("containerStatuses".into(), report);
        Value::Object(status)
    }
}

/// A condition, with the time of its last change.
fn condition(before: &Value, kind: &str, is: bool) -> Value {
    let word = if is { "True" } else { "False" };
    let mut old = before.as_array().into_iter().flatten();
    let same = old.find(|old| old["type"] == kind && old["status"] == word);
    let since = same.map_or_else(|| json!(now()), |old| old["lastTransitionTime"].clone());
    json!({"type": kind, "status": word, "lastTransitionTime": since})
}

/// Now, as Kubernetes writes it.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
