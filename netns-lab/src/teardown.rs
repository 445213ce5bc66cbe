//! Taking a lab down, from whatever is left of it.
//!
//! It never kills a process by its number alone: either the recorded start time agrees, or the
//! process is inside one of the lab's own network namespaces or cgroups.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nodekit::netns::{Identity, NetNs, NetNsDir};

use crate::cgroups;
use crate::folder::Folder;
use crate::kubelet::detach;
use crate::process::{self, ProcessId};
use crate::state::State;

/// How long the daemon may take after SIGTERM, and after SIGKILL.
const DAEMON_END: Duration = Duration::from_secs(5);
/// How long other processes may take to die of SIGKILL.
const DEATH: Duration = Duration::from_secs(5);

/// What to look for once a lab should be gone.
#[derive(Debug, Clone)]
pub struct Traces {
    folder: PathBuf,
    namespaces: Vec<Identity>,
    cgroup: Option<PathBuf>,
    processes: Vec<ProcessId>,
}

impl Traces {
    /// Collects them while the lab is still there, however much of it.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        let mut processes = Vec::new();
        let mut cgroup = None;
        if let Ok(state) = State::read(&folder.state()) {
            processes.push(state.daemon);
            processes.extend(state.proxies.iter().filter_map(|proxy| proxy.process));
            processes.extend(state.sandboxes.iter().filter_map(|sandbox| sandbox.process));
            cgroup = state.cgroup;
        }
        let own = ProcessId::of(std::process::id());
        processes.retain(|process| Some(*process) != own);
        Self {
            folder: folder.root().to_owned(),
            namespaces: namespaces(&folder.netns()),
            cgroup,
            processes,
        }
    }

    /// What is left, in words; empty when nothing is.
    ///
    /// # Errors
    /// When the machine's mounts can't be read.
    pub fn remains(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        let still = self.processes.iter().filter(|process| process.runs());
        left.extend(still.map(|process| format!("process {}", process.pid)));
        for process in self.inside() {
            let text = format!(
                "process {} in one of the lab's namespaces or cgroups",
                process.pid
            );
            left.push(text);
        }
        let mounts = mounts_below(&self.folder)?;
        left.extend(
            mounts
                .iter()
                .map(|path| format!("mount {}", path.display())),
        );
        let cgroup = self.cgroup.iter().filter(|cgroup| cgroup.exists());
        left.extend(cgroup.map(|path| format!("cgroup {}", path.display())));
        if self.folder.exists() {
            left.push(format!("folder {}", self.folder.display()));
        }
        Ok(left)
    }

    fn inside(&self) -> Vec<ProcessId> {
        let mut inside = process::inside(&self.namespaces);
        inside.extend(self.cgroup.iter().flat_map(|lab| cgroups::members(lab)));
        inside.retain(|process| process.pid != std::process::id());
        inside
    }
}

/// Takes the lab down and checks that nothing is left. Works on every lab: running, half made,
/// crashed, half taken down. Goes on past errors. Of several at once, one works and the others
/// wait for it.
///
/// # Errors
/// When there is no lab, or something is left; what and why.
pub fn take_down(folder: &Folder) -> anyhow::Result<()> {
    let root = folder.root();
    if !root.exists() {
        bail!(
            "no lab {} in {}",
            folder.name(),
            root.parent().unwrap_or(root).display()
        );
    }
    let _turn = take_turn(root)?;
    if !root.exists() {
        // Whoever had the turn before has done it.
        return Ok(());
    }
    let traces = Traces::of(folder);
    let state = State::read(&folder.state()).ok();
    let mut problems = Vec::new();
    let mut attempt = |result: anyhow::Result<()>| {
        problems.extend(result.err().map(|error| format!("{error:#}")));
    };
    if let Some(state) = &state {
        attempt(end_daemon(state.daemon));
    }
    attempt(end_all(&traces.processes));
    // Those inside namespaces may start others meanwhile: until there is nobody.
    for _ in 0..10 {
        let inside = traces.inside();
        if inside.is_empty() {
            break;
        }
        attempt(end_all(&inside));
    }
    for sandbox in state
        .iter()
        .flat_map(|state| &state.sandboxes)
        .filter(|s| s.cni)
    {
        let what = || format!("CNI DEL of {}", sandbox.full_name());
        attempt(detach(folder, sandbox).with_context(what));
    }
    if folder.netns().exists() {
        let removed = NetNsDir::open(folder.netns()).and_then(NetNsDir::remove);
        attempt(removed.map_err(Into::into));
    }
    attempt(unmount_below(root));
    if let Some(cgroup) = &traces.cgroup {
        attempt(cgroups::remove(cgroup));
    }
    attempt(remove_folder(root));
    let left = traces.remains()?;
    if left.is_empty() {
        for problem in problems {
            tracing::warn!(problem, "on the way down; nothing is left all the same");
        }
        return Ok(());
    }
    bail!(
        "of lab {} there is left: {}; on the way: {}",
        folder.name(),
        left.join(", "),
        problems.join("; ")
    )
}

/// Waits until nobody else takes down, or begins, a lab of the same run folder.
pub(crate) fn take_turn(root: &Path) -> anyhow::Result<Option<File>> {
    let run_dir = root.parent().unwrap_or(root);
    match File::open(run_dir) {
        Ok(folder) => {
            folder
                .lock()
                .with_context(|| format!("locking {}", run_dir.display()))?;
            Ok(Some(folder))
        }
        // Removed meanwhile, as the last lab in it was taken down.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("opening {}", run_dir.display())),
    }
}

fn namespaces(folder: &Path) -> Vec<Identity> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| NetNs::open(entry.path()).ok());
    open.map(|netns| netns.identity()).collect()
}

fn end_daemon(daemon: ProcessId) -> anyhow::Result<()> {
    if daemon.pid == std::process::id() || !daemon.signal(Signal::SIGTERM)? {
        return Ok(());
    }
    if !daemon.wait_end(DAEMON_END) {
        end_all(&[daemon])?;
    }
    Ok(())
}

fn end_all(processes: &[ProcessId]) -> anyhow::Result<()> {
    for process in processes {
        process
            .signal(Signal::SIGKILL)
            .with_context(|| format!("ending {}", process.pid))?;
    }
    for process in processes {
        anyhow::ensure!(
            process.wait_end(DEATH),
            "process {} outlived SIGKILL",
            process.pid
        );
    }
    Ok(())
}

/// The mount points below a folder or at it, the deepest first.
fn mounts_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    // The fifth field, with spaces and the like as octal escapes (proc(5)); labs' have none.
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    below.sort();
    below.reverse();
    Ok(below)
}

fn unmount_below(folder: &Path) -> anyhow::Result<()> {
    for point in mounts_below(folder)? {
        umount2(&point, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", point.display()))?;
    }
    Ok(())
}

fn remove_folder(root: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    if let Some(parent) = root.parent() {
        // Only when this was the last lab.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}
