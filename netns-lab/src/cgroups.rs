//! A cgroup for each node of a lab: what a node's eBPF programs are attached to, so that they see
//! the sockets of that node's processes and of nobody else's (cgroups(7)).
//!
//! It never touches a cgroup but those that it made, below the one its caller is in.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nodekit::cgroup;

use crate::process::ProcessId;
use crate::topology::Topology;

/// How long an ended process may still count as a member.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often removing tries again.
const GLANCE: Duration = Duration::from_millis(2);

/// Where this process's lab has its cgroups.
///
/// # Errors
/// When no cgroup2 is mounted.
pub(crate) fn place(lab: &str) -> anyhow::Result<PathBuf> {
    let own = cgroup::own().context("looking for the own cgroup")?;
    let below = own.context(
        "mode ebpf: no cgroup2 is mounted, which holds the processes of each node together \
         (mount -t cgroup2 none FOLDER mounts one); mode nftables needs none",
    )?;
    Ok(below.join(format!("netns-lab-{lab}-{}", std::process::id())))
}

/// Makes the lab's and each node's.
///
/// # Errors
/// When the kernel refuses one, as where the cgroup2 is mounted read-only.
pub(crate) fn make(lab: &Path, topology: &Topology) -> anyhow::Result<()> {
    let nodes = topology.nodes.iter().map(|node| lab.join(&node.name));
    for folder in std::iter::once(lab.to_owned()).chain(nodes) {
        let made = fs::create_dir(&folder);
        made.with_context(|| format!("mode ebpf: making the cgroup {}", folder.display()))?;
    }
    Ok(())
}

/// Who is in a lab's cgroups.
pub(crate) fn members(lab: &Path) -> Vec<ProcessId> {
    let folders = std::iter::once(lab.to_owned()).chain(below(lab));
    let lists = folders.filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    let mut found = Vec::new();
    for list in lists {
        let pids = list.lines().filter_map(|line| line.parse().ok());
        found.extend(pids.filter_map(ProcessId::of));
    }
    found
}

/// Removes a lab's cgroups, whose members have ended.
///
/// # Errors
/// When one still has members, or the kernel refuses.
pub(crate) fn remove(lab: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for folder in below(lab).into_iter().chain([lab.to_owned()]) {
        while let Err(error) = fs::remove_dir(&folder) {
            let gone = error.kind() == ErrorKind::NotFound;
            if gone {
                break;
            }
            if error.kind() != ErrorKind::ResourceBusy || Instant::now() > deadline {
                return Err(error).with_context(|| format!("removing {}", folder.display()));
            }
            std::thread::sleep(GLANCE);
        }
    }
    Ok(())
}

/// The nodes' cgroups that exist.
fn below(lab: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
