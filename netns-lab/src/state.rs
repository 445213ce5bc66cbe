//! What a lab consists of, on disk: written before each creation, so that whoever takes the lab
//! down after a crash knows at least as much as exists.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;
use crate::topology::Topology;

/// A lab's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The plan it was made by.
    pub topology: Topology,
    /// The proxies' mode (`KubeProxyConfiguration`), as `nftables`.
    pub mode: String,
    /// The lab's own cgroup, with one for each node in it; in mode ebpf only.
    pub cgroup: Option<PathBuf>,
    /// The process that serves the API and looks after pods and proxies.
    pub daemon: ProcessId,
    /// Where `kubectl` on this machine reaches the API.
    pub api: Option<SocketAddr>,
    /// Everything is up.
    pub ready: bool,
    /// The service proxies.
    pub proxies: Vec<Proxy>,
    /// The pods' sandboxes.
    pub sandboxes: Vec<Sandbox>,
}

/// A node's service proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// The node.
    pub node: String,
    /// Its process; none while it is between two starts.
    pub process: Option<ProcessId>,
    /// How often it ended without being asked to.
    pub restarts: u32,
}

/// What was made for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod's namespace, in Kubernetes' sense.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The node it is on.
    pub node: String,
    /// What the CNI plugins know it by.
    pub container_id: String,
    /// The name of its network namespace in the lab's folder; the node's own for host networking.
    pub netns: String,
    /// Whether CNI plugins were, or were about to be, run for it.
    pub cni: bool,
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    /// Its process, while it runs.
    pub process: Option<ProcessId>,
}

impl State {
    /// Reads a lab's state.
    ///
    /// # Errors
    /// When there is none at the path, or one of another version.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// A node's cgroup, in mode ebpf.
    #[must_use]
    pub fn cgroup_of(&self, node: &str) -> Option<PathBuf> {
        self.topology.node(node)?;
        Some(self.cgroup.as_ref()?.join(node))
    }

    /// The sandbox of a pod: `NAME`, or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// When there is none; the error names those there are.
    pub fn sandbox(&self, pod: &str) -> anyhow::Result<&Sandbox> {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let is_it = |sandbox: &&Sandbox| sandbox.namespace == namespace && sandbox.name == name;
        self.sandboxes.iter().find(is_it).with_context(|| {
            let all: Vec<_> = self.sandboxes.iter().map(Sandbox::full_name).collect();
            format!("no pod {namespace}/{name}; there are: {}", all.join(", "))
        })
    }
}

impl Sandbox {
    /// `NAMESPACE/NAME`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The state of the running lab; only its daemon has one.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    state: Mutex<State>,
}

impl StateFile {
    /// Writes a first state.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn create(path: PathBuf, state: State) -> anyhow::Result<Self> {
        write(&path, &state)?;
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and writes it; the file is the old one or the new one, never half.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> anyhow::Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        write(&self.path, &state)?;
        Ok(result)
    }
}

fn write(path: &Path, state: &State) -> anyhow::Result<()> {
    let next = path.with_extension("json.next");
    let write = || -> anyhow::Result<()> {
        let mut file = fs::File::create(&next)?;
        file.write_all(&serde_json::to_vec_pretty(state)?)?;
        file.write_all(b"\n")?;
        fs::rename(&next, path)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}
