//! The service proxies: one process per node, started again when it ends, as a DaemonSet does.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nodekit::netns::{Entry, NetNs};
use tokio::process::Child;
use tokio::time::sleep;

use crate::cluster_objects::API_SERVICE;
use crate::folder::Folder;
use crate::process::ProcessId;
use crate::spawner::Spawner;
use crate::state::{Proxy, StateFile};

/// Between the end of a proxy and its next start; doubled each time it lived shorter than
/// [`HEALTHY`], up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const HEALTHY: Duration = Duration::from_secs(5);
/// How long a proxy may take to program its first Service.
const FIRST_SYNC: Duration = Duration::from_secs(60);
/// How often waiting looks again.
const GLANCE: Duration = Duration::from_millis(2);
/// How often a proxy may end before the lab is given up.
const MOST_ENDS: u32 = 3;
/// How much of a proxy's log an error shows, in lines.
const LOG_TAIL: usize = 5;

/// Keeps the proxy of a node running, until it is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) folder: Folder,
    pub(crate) node: String,
    /// The node's cgroup, in mode ebpf.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) program: PathBuf,
    pub(crate) spawner: Spawner,
    pub(crate) state: Arc<StateFile>,
}

impl Keeper {
    /// Runs until it is cancelled.
    pub(crate) async fn keep(self) {
        let mut pause = PAUSE;
        loop {
            let started = Instant::now();
            match self.run_once().await {
                Ok(status) => tracing::warn!(node = self.node, status, "the proxy ended"),
                Err(error) => {
                    tracing::error!(node = self.node, error = format!("{error:#}"), "no proxy");
                }
            }
            pause = match started.elapsed() > HEALTHY {
                true => PAUSE,
                false => LONGEST_PAUSE.min(pause * 2),
            };
            sleep(pause).await;
        }
    }

    async fn run_once(&self) -> anyhow::Result<String> {
        let keeper = self.clone();
        let (mut child, process) = tokio::task::spawn_blocking(move || keeper.start()).await??;
        self.record(|proxy| proxy.process = Some(process))?;
        let status = child.wait().await?;
        self.record(|proxy| {
            proxy.process = None;
            proxy.restarts += 1;
        })?;
        Ok(status.to_string())
    }

    fn record(&self, change: impl FnOnce(&mut Proxy)) -> anyhow::Result<()> {
        self.state.update(|state| {
            let mut proxies = state.proxies.iter_mut();
            if let Some(proxy) = proxies.find(|proxy| proxy.node == self.node) {
                change(proxy);
            }
        })
    }

    fn start(&self) -> anyhow::Result<(Child, ProcessId)> {
        let files = self.folder.node(&self.node);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(files.proxy_log())?;
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(files.kubeconfig())
            .arg("--config")
            .arg(files.proxy_config())
            .arg("--hostname-override")
            .arg(&self.node)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(cgroup) = &self.cgroup {
            command.arg("--ebpf-cgroup-root").arg(cgroup);
            let pins = self.folder.pins(&self.node);
            command.arg("--ebpf-pin-dir").arg(pins);
        }
        self.spawn(command)
    }

    /// Starts a process of the node.
    fn spawn(&self, mut command: Command) -> anyhow::Result<(Child, ProcessId)> {
        let netns = NetNs::open(self.folder.netns().join(&self.node))?;
        let entry = Entry {
            cgroup: self.cgroup.clone(),
            die_with_parent: true,
            ..Entry::default()
        };
        entry.prepare(&mut command, &netns)?;
        self.spawner.spawn(command)
    }

    /// Waits until the node reaches the API server by its ClusterIP, which only works through
    /// what the proxy wrote into the kernel. Blocks.
    ///
    /// # Errors
    /// When it takes too long or the proxy keeps ending; with the end of its log.
    pub(crate) fn wait_first_sync(&self) -> anyhow::Result<()> {
        let address = SocketAddr::new(API_SERVICE.parse()?, 443);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("reach").arg(address.to_string());
        let seconds = FIRST_SYNC.as_secs().to_string();
        command.arg("--within").arg(seconds);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let (mut child, _) = self.spawn(command)?;
        let ends = || {
            self.state.update(|state| {
                let proxy = state.proxies.iter().find(|proxy| proxy.node == self.node);
                proxy.map_or(0, |proxy| proxy.restarts)
            })
        };
        loop {
            let what = match (child.try_wait()?, ends()?) {
                (Some(status), _) if status.success() => return Ok(()),
                (_, ended @ MOST_ENDS..) => format!("ended {ended} times"),
                (Some(_), _) => format!("has not programmed {address} within {FIRST_SYNC:?}"),
                (None, _) => {
                    std::thread::sleep(GLANCE);
                    continue;
                }
            };
            // Ended already, or not waited for any more.
            drop(child.start_kill());
            let log = self.folder.node(&self.node).proxy_log();
            bail!(
                "the proxy of {} {what}; its log ends with:\n{}",
                self.node,
                tail(&log)
            );
        }
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()));
    let text = text.unwrap_or_else(|error| format!("{error:#}"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
