//! A pod's process.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nodekit::netns::{Entry, MountNs, NetNs};
use serde::Deserialize;
use tokio::process::Child;

use super::{Context, pod::PodSpec};
use crate::process::ProcessId;

/// The log of a pod's process, in the pod's folder.
const LOG: &str = "log";

/// The fields of a container that matter here.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    command: Vec<String>,
    args: Vec<String>,
    env: Vec<Variable>,
    working_dir: Option<PathBuf>,
    ports: Vec<Port>,
    readiness_probe: Option<SaidProbe>,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: String,
    container_port: u16,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SaidProbe {
    tcp_socket: Option<SaidSocket>,
    period_seconds: Option<u64>,
    failure_threshold: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
struct SaidSocket {
    port: NumberOrName,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(u16),
    Name(String),
}

/// A readiness probe by TCP connection; the only kind there is here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) port: u16,
    /// Between two probes, once one succeeded.
    pub(super) period: Duration,
    /// So many failures in a row make an unready pod out of a ready one.
    pub(super) failure_threshold: u32,
}

impl Container {
    /// The probe; none counts as ready as soon as the process runs. Probes of other kinds than
    /// `tcpSocket` are taken for none.
    pub(super) fn readiness_probe(&self) -> Option<Probe> {
        let probe = self.readiness_probe.as_ref()?;
        let port = match &probe.tcp_socket.as_ref()?.port {
            NumberOrName::Number(number) => *number,
            NumberOrName::Name(name) => {
                self.ports
                    .iter()
                    .find(|port| &port.name == name)?
                    .container_port
            }
        };
        Some(Probe {
            port,
            period: Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1)),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        })
    }
}

/// Starts the pod's process in its sandbox, in a mount namespace of its own with the pod's
/// resolver configuration. Blocks.
pub(super) fn start(context: &Context, pod: &PodSpec) -> anyhow::Result<(Child, ProcessId)> {
    let container = &pod.container;
    let mut words = container.command.iter().chain(&container.args);
    let program = words
        .next()
        .context("spec.containers[0].command is missing: a lab has no images to take it from")?;
    let folder = context.folder.pod(&pod.uid);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(LOG))?;
    let mut command = Command::new(program);
    command
        .args(words)
        .env("HOSTNAME", &pod.name)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir(container.working_dir.as_deref().unwrap_or(&folder));
    for variable in &container.env {
        let name = &variable.name;
        ensure!(
            !name.is_empty() && !name.contains('='),
            "env: {name:?} is no variable's name"
        );
        command.env(name, &variable.value);
    }
    let netns = netns_of(context, pod)?;
    let etc = |name: &str| (folder.join(name), PathBuf::from("/etc").join(name));
    let mount = MountNs::Own {
        binds: vec![etc("resolv.conf"), etc("hosts")],
        fresh_sys: true,
    };
    let entry = Entry {
        mount,
        cgroup: context.cgroup.as_ref().map(|lab| lab.join(&pod.node)),
        die_with_parent: true,
    };
    entry.prepare(&mut command, &netns)?;
    let (child, process) = context.spawner.spawn(command)?;
    context.state.update(|state| {
        let mut sandboxes = state.sandboxes.iter_mut();
        if let Some(sandbox) = sandboxes.find(|sandbox| sandbox.uid == pod.uid) {
            sandbox.process = Some(process);
        }
    })?;
    Ok((child, process))
}

fn netns_of(context: &Context, pod: &PodSpec) -> anyhow::Result<NetNs> {
    let name = super::sandbox::netns_name(pod);
    Ok(NetNs::open(context.folder.netns().join(name))?)
}
