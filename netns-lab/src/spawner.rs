//! Long-lived children of the daemon.

use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use nodekit::netns::{NetNs, Worker};
use tokio::process::Child;
use tokio::runtime::Handle;

use crate::process::ProcessId;

/// Starts processes that die with this daemon, even when it is killed: the kernel ends them when
/// the *thread* that started them ends, so all are started by one that lives as long as the
/// daemon does.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    worker: Arc<Worker>,
    runtime: Handle,
}

impl Spawner {
    /// A spawner whose children are waited for by `runtime`.
    ///
    /// # Errors
    /// When its thread can't be started.
    pub(crate) fn new(runtime: Handle) -> anyhow::Result<Self> {
        let worker = Worker::start(&NetNs::current()?)?;
        Ok(Self {
            worker: Arc::new(worker),
            runtime,
        })
    }

    /// Starts a process. The command says itself that it dies with its parent
    /// ([`nodekit::netns::Entry::die_with_parent`]). Blocks for a moment.
    ///
    /// # Errors
    /// When the program isn't there or the child couldn't enter its namespaces.
    pub(crate) fn spawn(&self, command: Command) -> anyhow::Result<(Child, ProcessId)> {
        let program = command.get_program().to_string_lossy().into_owned();
        let runtime = self.runtime.clone();
        let spawned = self.worker.call(move || {
            let _entered = runtime.enter();
            tokio::process::Command::from(command).spawn()
        })?;
        let child = spawned.with_context(|| format!("starting {program}"))?;
        let process = child.id().and_then(ProcessId::of_child);
        let process = process.with_context(|| format!("{program} was started and isn't there"))?;
        Ok((child, process))
    }
}
