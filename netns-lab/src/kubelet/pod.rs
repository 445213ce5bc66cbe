//! One pod's life, from its binding to a node until it is gone.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Context, container, sandbox, status};
use crate::apiserver::{Deletion, Object, Resource, Store};
use crate::process::ProcessId;

/// How long to wait before the next attempt at a sandbox.
const RETRY: Duration = Duration::from_secs(1);
/// How often a readiness probe is made until it succeeds first; a kubelet takes a second or more.
const FIRST_PROBES: Duration = Duration::from_millis(20);
/// How long one connection attempt of a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The fields of a pod that matter here.
#[derive(Debug, Clone)]
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) host_network: bool,
    pub(crate) container: container::Container,
    /// Seconds that a process has between SIGTERM and SIGKILL.
    pub(crate) grace: u64,
    pub(crate) terminating: bool,
    /// Succeeded or failed: never to be started again.
    pub(crate) finished: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Said {
    metadata: SaidMetadata,
    spec: SaidSpec,
    status: SaidStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SaidMetadata {
    uid: String,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SaidSpec {
    node_name: Option<String>,
    host_network: bool,
    containers: Vec<container::Container>,
    termination_grace_period_seconds: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SaidStatus {
    phase: String,
}

impl PodSpec {
    /// Reads a pod; none while it isn't bound to a node.
    pub(crate) fn of(object: &Object) -> anyhow::Result<Option<Self>> {
        let said: Said = object.parse()?;
        let Some(node) = said.spec.node_name.filter(|node| !node.is_empty()) else {
            return Ok(None);
        };
        let container = said.spec.containers.into_iter().next();
        let grace = said.metadata.deletion_grace_period_seconds;
        Ok(Some(Self {
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: said.metadata.uid,
            node,
            host_network: said.spec.host_network,
            container: container.context("spec.containers is empty")?,
            grace: grace
                .or(said.spec.termination_grace_period_seconds)
                .unwrap_or(30),
            terminating: said.metadata.deletion_timestamp.is_some(),
            finished: matches!(said.status.phase.as_str(), "Succeeded" | "Failed"),
        }))
    }
}

/// Runs the pod until it is deleted; gives its uid.
pub(super) async fn live(
    context: Arc<Context>,
    pod: PodSpec,
    mut stop: watch::Receiver<bool>,
) -> String {
    let host = context.topology.node(&pod.node).map(|node| node.addresses);
    let reports = status::Reports::new(context.store.clone(), pod.clone(), host);
    let life = Life {
        context,
        pod,
        reports,
    };
    if let Some(ips) = life.sandbox(&mut stop).await
        && let Err(error) = life.container(&ips, &mut stop).await
    {
        let error = format!("{error:#}");
        tracing::warn!(pod = life.pod.name, error, "no container");
        life.reports.failed_to_start(&ips, &error);
    }
    told(&mut stop).await;
    life.end().await;
    life.pod.uid
}

/// Waits until the pod shall end. Dropping the sender means that the daemon ends: then there is
/// nothing to wait for, either.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Makes the store forget a pod that it says is being deleted and that nobody runs.
pub(super) fn finish_deletion(store: &Store, pod: &PodSpec) {
    let deletion = Deletion {
        uid: Some(pod.uid.clone()),
        ..Deletion::now()
    };
    if let Err(refusal) = store.delete(Resource::Pod, &pod.namespace, &pod.name, &deletion) {
        tracing::debug!(pod = pod.name, %refusal, "already gone");
    }
}

struct Life {
    context: Arc<Context>,
    pod: PodSpec,
    reports: status::Reports,
}

impl Life {
    /// Makes the sandbox, in as many attempts as it takes; none when the pod shall end first.
    async fn sandbox(&self, stop: &mut watch::Receiver<bool>) -> Option<Vec<IpAddr>> {
        while !*stop.borrow() {
            let (context, pod) = (self.context.clone(), self.pod.clone());
            let made = tokio::task::spawn_blocking(move || sandbox::create(&context, &pod)).await;
            match made.map_err(anyhow::Error::from).flatten() {
                Ok(ips) => return Some(ips),
                Err(error) => {
                    let text = format!("{error:#}");
                    tracing::warn!(pod = self.pod.name, error = text, "no sandbox");
                    self.reports.waiting("FailedCreatePodSandBox", &text);
                }
            }
            // Timed out or told to stop: the loop's condition knows which.
            let _ = timeout(RETRY, told(stop)).await;
        }
        None
    }

    /// Runs the container until it ends or shall end.
    async fn container(
        &self,
        ips: &[IpAddr],
        stop: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let started = tokio::task::spawn_blocking(move || container::start(&context, &pod)).await;
        let (mut child, process) = started.map_err(anyhow::Error::from).flatten()?;
        self.reports.started(ips);
        let ended = tokio::select! {
            status = child.wait() => Some(status?),
            () = self.probe(ips) => None,
            () = told(stop) => None,
        };
        let status = match ended {
            Some(status) => status,
            None => self.terminate(process, &mut child).await?,
        };
        self.reports.ended(ips, status);
        let uid = &self.pod.uid;
        self.context.state.update(|state| {
            let mut sandboxes = state.sandboxes.iter_mut();
            if let Some(sandbox) = sandboxes.find(|sandbox| &sandbox.uid == uid) {
                sandbox.process = None;
            }
        })
    }

    async fn terminate(
        &self,
        process: ProcessId,
        child: &mut tokio::process::Child,
    ) -> anyhow::Result<ExitStatus> {
        process.signal(Signal::SIGTERM)?;
        match timeout(Duration::from_secs(self.pod.grace), child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                child.start_kill()?;
                Ok(child.wait().await?)
            }
        }
    }

    /// Reports readiness; never ends.
    async fn probe(&self, ips: &[IpAddr]) {
        let Some((probe, ip)) = self.pod.container.readiness_probe().zip(ips.first()) else {
            self.reports.ready(ips, true);
            return std::future::pending().await;
        };
        let address = SocketAddr::new(*ip, probe.port);
        let (mut ready, mut failures, mut next) = (false, 0, Instant::now());
        loop {
            sleep_until(next).await;
            let connected = self.connects(address).await;
            failures = if connected { 0 } else { failures + 1 };
            if connected != ready && (connected || failures >= probe.failure_threshold) {
                ready = connected;
                self.reports.ready(ips, ready);
            }
            next = Instant::now() + if ready { probe.period } else { FIRST_PROBES };
        }
    }

    /// Whether a TCP connection from the pod's node succeeds, as a kubelet makes it.
    async fn connects(&self, address: SocketAddr) -> bool {
        let path = self.context.folder.netns().join(&self.pod.node);
        let attempt = move || {
            let netns = nodekit::netns::NetNs::open(path)?;
            netns.run(|| TcpStream::connect_timeout(&address, PROBE_LIMIT).is_ok())
        };
        matches!(tokio::task::spawn_blocking(attempt).await, Ok(Ok(true)))
    }

    /// Removes everything that was made for the pod, then the pod.
    async fn end(&self) {
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let ended = tokio::task::spawn_blocking(move || sandbox::destroy(&context, &pod)).await;
        if let Err(error) = ended.map_err(anyhow::Error::from).flatten() {
            let error = format!("{error:#}");
            tracing::warn!(pod = self.pod.name, error, "leftovers of a pod");
        }
        finish_deletion(&self.context.store, &self.pod);
    }
}
