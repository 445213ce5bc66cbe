//! How large the plugin is, on disk and in memory.

use std::io::Write;
use std::path::Path;
use std::process::Child;

use anyhow::{Context, bail};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Options;
use crate::contender::Contender;
use crate::network::NETWORKS;
use crate::node::{Node, Pod};
use causeway_tests::bars::Bars;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(options: &Options, bars: &mut Bars) -> anyhow::Result<()> {
    let bytes = std::fs::metadata(&options.plugin)?.len();
    bars.at_most("executable, MiB", mebibytes(bytes), 3.0);
    let ours = Contender::Ours(options.plugin.clone());
    let mut highest = 0;
    for network in &NETWORKS {
        let (node, pod) = (Node::new(&ours)?, Pod::new(0)?);
        let (peak, output) = peak(node.start("ADD", &pod)?, &node.input(network, &Value::Null))?;
        highest = highest.max(peak);
        let result = serde_json::from_str(&output).context("ADD's result")?;
        let (peak, _) = self::peak(node.start("DEL", &pod)?, &node.input(network, &result))?;
        highest = highest.max(peak);
        node.is_empty()?;
    }
    bars.at_most("resident at most, MiB", mebibytes(highest), 5.0);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few mebibytes, to two places")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

/// Runs a started plugin to its end: the most memory that it had resident, bytes, and its output.
///
/// It is stopped just before it ends (ptrace(2), `PTRACE_EVENT_EXIT`), since what the kernel tells
/// of ended children counts the memory of the process that they were forked from.
fn peak(mut child: Child, input: &str) -> anyhow::Result<(u64, String)> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT)?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let peak = loop {
        match waitpid(pid, None)? {
            WaitStatus::PtraceEvent(..) => {
                break high_water(&Path::new("/proc").join(pid.to_string()))?;
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => bail!("it ended unseen"),
            _ => ptrace::cont(pid, None)?,
        }
    };
    ptrace::cont(pid, None)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok((peak, text))
}

/// `VmHWM` of a process that hasn't given its memory back yet.
fn high_water(process: &Path) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes.context("no VmHWM")?.trim().parse()?;
    Ok(kibibytes * 1024)
}
