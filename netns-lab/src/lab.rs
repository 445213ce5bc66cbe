//! The handle of a lab, in the process of whoever wants one.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nodekit::netns::{Entry, MountNs, NetNs};
use serde_json::Value;

use crate::apiserver::Resource;
use crate::client::{Access, Client};
use crate::daemon::Announcement;
use crate::folder::Folder;
use crate::network::CLIENT;
use crate::node_files::{Plugins, Settings};
use crate::state::State;
use crate::teardown;

/// How often waiting looks again.
const GLANCE: Duration = Duration::from_millis(5);

/// How a lab is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The lab's name; also its folder's, below `run_dir`.
    pub name: String,
    /// Where labs are kept.
    pub run_dir: PathBuf,
    /// What it is made of.
    pub settings: Settings,
    /// The `netns-lab` binary, which is run as the lab's daemon.
    pub program: PathBuf,
    /// The lab is taken down when this process ends, even if it is killed.
    pub tied: bool,
}

/// A lab that is up.
///
/// Made by [`Lab::up`] with [`Options::tied`], it is taken down when dropped; [`Lab::down`] does
/// the same and reports what went wrong.
#[derive(Debug)]
pub struct Lab {
    folder: Folder,
    client: Client,
    /// The daemon, while it is this process's child and its life is tied to it.
    tied: Option<Child>,
}

impl Lab {
    /// Brings a lab up and waits until everything in it works.
    ///
    /// # Errors
    /// What could not be made; nothing is left of it.
    pub fn up(options: &Options) -> anyhow::Result<Self> {
        let settings = &options.settings;
        settings.check()?;
        let folder = Folder::new(&options.run_dir, &options.name)?;
        make_folder(&folder).with_context(|| {
            let root = folder.root().display();
            format!("making {root}: is there a lab {} already?", options.name)
        })?;
        let made = start_daemon(options, &folder).and_then(|child| {
            let mut lab = Self::open(folder.clone())?;
            lab.tied = options.tied.then_some(child);
            Ok(lab)
        });
        made.inspect_err(|_| {
            if let Err(error) = teardown::take_down(&folder) {
                tracing::error!(
                    error = format!("{error:#}"),
                    "a failed lab isn't quite gone"
                );
            }
        })
    }

    /// A handle of a lab that somebody brought up.
    ///
    /// # Errors
    /// When there is none, or it isn't whole.
    pub fn open(folder: Folder) -> anyhow::Result<Self> {
        let state = State::read(&folder.state())
            .with_context(|| format!("there is no lab {}", folder.name()))?;
        anyhow::ensure!(
            state.api.is_some() && state.daemon.runs(),
            "the daemon of lab {} has ended: take it down",
            folder.name()
        );
        let client = Client::to(Access::read(&folder.kubeconfig())?)?;
        Ok(Self {
            folder,
            client,
            tied: None,
        })
    }

    /// The lab's folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A kubeconfig for `kubectl` on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.kubeconfig()
    }

    /// The API server's client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the lab consists of at this moment.
    ///
    /// # Errors
    /// When its state can't be read.
    pub fn state(&self) -> anyhow::Result<State> {
        State::read(&self.folder.state())
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn apply(&self, object: &Value) -> anyhow::Result<Value> {
        self.client.apply(object)
    }

    /// Deletes a pod and waits until nothing of it is left.
    ///
    /// # Errors
    /// The API server's refusal; when it takes too long.
    pub fn delete_pod(&self, namespace: &str, name: &str, limit: Duration) -> anyhow::Result<()> {
        self.client.delete(Resource::Pod, namespace, name)?;
        let full_name = format!("{namespace}/{name}");
        wait(
            limit,
            || format!("pod {full_name} to be gone"),
            || {
                // A pod that had ended is forgotten at once; its sandbox goes a moment later.
                let gone = self.client.get(Resource::Pod, namespace, name)?.is_none()
                    && self.state()?.sandbox(&full_name).is_err();
                Ok(gone.then_some(()))
            },
        )
    }

    /// Waits until a pod (`NAME` or `NAMESPACE/NAME`) is ready; gives it.
    ///
    /// # Errors
    /// When it takes too long, or the pod failed.
    pub fn wait_ready(&self, pod: &str, limit: Duration) -> anyhow::Result<Value> {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        wait(
            limit,
            || format!("pod {namespace}/{name} to be ready"),
            || {
                let Some(pod) = self.client.get(Resource::Pod, namespace, name)? else {
                    return Ok(None);
                };
                if matches!(
                    pod["status"]["phase"].as_str(),
                    Some("Failed" | "Succeeded")
                ) {
                    let state = &pod["status"]["containerStatuses"][0]["state"];
                    bail!("pod {namespace}/{name} has ended: {state}");
                }
                let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
                Ok(ready.then_some(pod))
            },
        )
    }

    /// A command that runs inside a pod: in its network and with its files.
    ///
    /// # Errors
    /// When there is no such pod, or its process has ended.
    pub fn command_in_pod(&self, pod: &str, program: &str) -> anyhow::Result<Command> {
        let state = self.state()?;
        let sandbox = state.sandbox(pod)?;
        let process = sandbox.process.filter(crate::process::ProcessId::runs);
        let process = process.with_context(|| format!("no process runs in pod {pod}"))?;
        let mut command = Command::new(program);
        let netns = NetNs::open(self.folder.netns().join(&sandbox.netns))?;
        let entry = Entry {
            mount: MountNs::OfProcess(process.pid),
            cgroup: state.cgroup_of(&sandbox.node),
            die_with_parent: false,
        };
        entry.prepare(&mut command, &netns)?;
        Ok(command)
    }

    /// A command that runs in a node's network, or in [`CLIENT`]'s.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn command_on_node(&self, node: &str, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        let entry = Entry {
            cgroup: self.state()?.cgroup_of(node),
            ..Entry::default()
        };
        entry.prepare(&mut command, &self.netns(node)?)?;
        Ok(command)
    }

    /// The network namespace of a node, of [`CLIENT`] or of the fabric.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn netns(&self, name: &str) -> anyhow::Result<NetNs> {
        Ok(NetNs::open(self.folder.netns().join(name))?)
    }

    /// Runs a program inside a pod and waits for its end.
    ///
    /// # Errors
    /// As [`Lab::command_in_pod`]; when the program isn't there.
    pub fn exec(&self, pod: &str, words: &[&str]) -> anyhow::Result<Output> {
        let (program, arguments) = words.split_first().context("no program to run")?;
        let mut command = self.command_in_pod(pod, program)?;
        let command = command.args(arguments).stdin(Stdio::null());
        command
            .output()
            .with_context(|| format!("running {program} in pod {pod}"))
    }

    /// Runs a program in a node's network and waits for its end.
    ///
    /// # Errors
    /// As [`Lab::command_on_node`]; when the program isn't there.
    pub fn node_exec(&self, node: &str, words: &[&str]) -> anyhow::Result<Output> {
        let (program, arguments) = words.split_first().context("no program to run")?;
        let mut command = self.command_on_node(node, program)?;
        let command = command.args(arguments).stdin(Stdio::null());
        command
            .output()
            .with_context(|| format!("running {program} on {node}"))
    }

    /// Runs a program on the machine outside the cluster and waits for its end.
    ///
    /// # Errors
    /// As [`Lab::node_exec`].
    pub fn client_exec(&self, words: &[&str]) -> anyhow::Result<Output> {
        self.node_exec(CLIENT, words)
    }

    /// Kills a pod's process (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// When there is no such pod, or its process has ended.
    pub fn kill_pod_process(&self, pod: &str) -> anyhow::Result<()> {
        let state = self.state()?;
        let process = state.sandbox(pod)?.process;
        let process = process.with_context(|| format!("no process runs in pod {pod}"))?;
        anyhow::ensure!(
            process.signal(Signal::SIGKILL)?,
            "the process of pod {pod} has ended"
        );
        Ok(())
    }

    /// Kills a node's service proxy (SIGKILL); the daemon starts another.
    ///
    /// # Errors
    /// When the node has none that runs.
    pub fn kill_proxy(&self, node: &str) -> anyhow::Result<()> {
        let state = self.state()?;
        let proxy = state.proxies.iter().find(|proxy| proxy.node == node);
        let process = proxy.and_then(|proxy| proxy.process);
        let process = process.with_context(|| format!("no proxy runs on {node}"))?;
        anyhow::ensure!(
            process.signal(Signal::SIGKILL)?,
            "the proxy of {node} has ended"
        );
        Ok(())
    }

    /// Takes the lab down and checks that nothing is left.
    ///
    /// # Errors
    /// What is left, and why.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> anyhow::Result<()> {
        let tied = self.tied.take();
        let result = teardown::take_down(&self.folder);
        if let Some(mut child) = tied {
            child.wait()?;
        }
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.tied.is_some()
            && let Err(error) = self.take_down()
        {
            tracing::error!(
                error = format!("{error:#}"),
                "a dropped lab isn't quite gone"
            );
        }
    }
}

/// Makes a lab's folder, which must not exist yet.
fn make_folder(folder: &Folder) -> std::io::Result<()> {
    let mut attempts = 0;
    loop {
        if let Some(run_dir) = folder.root().parent() {
            fs::create_dir_all(run_dir)?;
        }
        attempts += 1;
        match fs::create_dir(folder.root()) {
            // The last lab in the run folder went, and the run folder with it, just now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && attempts < 5 => {}
            result => return result,
        }
    }
}

/// Starts the daemon and waits for its word.
fn start_daemon(options: &Options, folder: &Folder) -> anyhow::Result<Child> {
    let settings = &options.settings;
    let log = File::create(folder.daemon_log())?;
    let mut command = Command::new(&options.program);
    command.arg("serve").arg("--name").arg(&options.name);
    command.arg("--run-dir").arg(&options.run_dir);
    command.arg("--workers").arg(settings.workers.to_string());
    command.arg("--mode").arg(&settings.mode);
    let (Plugins::Causeway(plugins) | Plugins::Reference(plugins)) = &settings.plugins;
    command.arg("--cni").arg(plugins);
    match &settings.proxy {
        Some(proxy) => command.arg("--proxy").arg(proxy),
        None => command.arg("--no-proxy"),
    };
    if let Some(programs) = &settings.control_plane {
        command.arg("--control-plane").arg(programs);
    }
    if options.tied {
        command.arg("--tied").stdin(Stdio::piped());
    } else {
        command.stdin(Stdio::null());
    }
    command.current_dir("/").stdout(Stdio::piped()).stderr(log);
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {} as the daemon", options.program.display()))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match serde_json::from_str(&line) {
        Ok(Announcement::Ready) => Ok(child),
        Ok(Announcement::Failed(why)) => {
            child.wait()?;
            bail!("{why}")
        }
        Err(_) => {
            let status = child.wait()?;
            let log = fs::read_to_string(folder.daemon_log()).unwrap_or_default();
            bail!(
                "the daemon ended ({status}) without a word; its log: {}",
                log.trim()
            )
        }
    }
}

/// Looks again and again until `look` finds something.
fn wait<T>(
    limit: Duration,
    what: impl Fn() -> String,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {limit:?} for {}", what());
        }
        std::thread::sleep(GLANCE);
    }
}
