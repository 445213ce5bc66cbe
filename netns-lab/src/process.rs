//! Processes that are told apart from later ones with the same number.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodekit::netns::{Identity, NetNs};
use serde::{Deserialize, Serialize};

/// A process, for good: its number and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number, which the kernel gives out again later.
    pub pid: u32,
    /// Clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now; none when there is none, or only its remains.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let (state, process) = Self::read(pid)?;
        // A zombie has ended; only its parent hasn't asked yet.
        (state != "Z").then_some(process)
    }

    /// A child of this process that nobody has waited for; it may have ended already.
    pub(crate) fn of_child(pid: u32) -> Option<Self> {
        Self::read(pid).map(|(_, process)| process)
    }

    fn read(pid: u32) -> Option<(String, Self)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, and may contain anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let state = fields.next()?.to_owned();
        let started = fields.nth(18)?.parse().ok()?;
        Some((state, Self { pid, started }))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal, unless the process has ended; true when it was sent.
    ///
    /// # Errors
    /// The kernel's, as `EPERM`.
    pub fn signal(&self, signal: Signal) -> Result<bool, Errno> {
        if !self.runs() {
            return Ok(false);
        }
        let Ok(pid) = i32::try_from(self.pid) else {
            return Ok(false);
        };
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Waits until it has ended; false when it hasn't in time.
    #[must_use]
    pub fn wait_end(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.runs() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

/// Every process whose main thread is in one of these network namespaces.
#[must_use]
pub fn inside(namespaces: &[Identity]) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut found: Vec<ProcessId> = numbers
        .filter(|pid| {
            let netns = NetNs::of_process(*pid);
            netns.is_ok_and(|netns| namespaces.contains(&netns.identity()))
        })
        .filter_map(ProcessId::of)
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_its_number() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.runs());
        let earlier = ProcessId {
            started: own.started - 1,
            ..own
        };
        assert!(!earlier.runs());
        assert_eq!(earlier.signal(Signal::SIGKILL), Ok(false), "not sent to us");
    }

    #[test]
    fn an_ended_process_is_gone_even_before_its_parent_asks() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id());
        let gone = id.is_none_or(|id| id.wait_end(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(gone);
    }
}
