//! The proxy as a process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodekit::netns::NetNs;

use super::node::{Bed, NODE_NAME};
use super::privileges::Privileges;

/// A running `causeway-proxy`; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: PathBuf,
    /// When it was started.
    pub started: Instant,
}

/// What the process used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory now, bytes.
    pub resident: u64,
    /// The most resident memory there ever was, bytes.
    pub peak: u64,
    /// Processor time in user and kernel mode.
    pub processor: Duration,
}

impl Proxy {
    pub(super) fn start(bed: &Bed, mut command: Command, flags: &[&str]) -> anyhow::Result<Self> {
        let kubeconfig = bed.folder().join("kubeconfig");
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--hostname-override", NODE_NAME])
            .args(flags);
        Self::spawn(&bed.netns, command, bed.folder())
    }

    /// Starts a proxy's whole command line in a namespace; its log is in `folder`.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn spawn(netns: &NetNs, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = tempfile::Builder::new()
            .prefix("proxy-log-")
            .tempfile_in(folder)?;
        let (file, log) = log.keep()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        // A child is born in the namespace of the thread that makes it.
        let (child, started) = netns.run(move || (command.spawn(), Instant::now()))?;
        let child = child.context("executing the service proxy")?;
        Ok(Self {
            child,
            log,
            started,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    ///
    /// # Errors
    /// The file is gone.
    pub fn log(&self) -> anyhow::Result<String> {
        std::io::read_to_string(File::open(&self.log)?).context("reading the proxy's log")
    }

    /// SIGKILL, and waits.
    ///
    /// # Errors
    /// It was not there any more.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits.
    ///
    /// # Errors
    /// It does not end within a minute.
    pub fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        self.wait(Duration::from_secs(60))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not within `patience`.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(
                start.elapsed() < patience,
                "the proxy did not end: {}",
                self.log()?
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What each of its threads may do.
    ///
    /// # Errors
    /// It is gone.
    pub fn privileges(&self) -> anyhow::Result<Vec<Privileges>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
        let mut all = Vec::new();
        for task in tasks {
            // A thread may end meanwhile.
            if let Ok(status) = std::fs::read_to_string(task?.path().join("status")) {
                all.push(Privileges::read(&status)?);
            }
        }
        Ok(all)
    }

    /// What it used so far (`/proc/PID/status`, `/proc/PID/stat`).
    ///
    /// # Errors
    /// It is gone.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024)
                .with_context(|| format!("no {field} in /proc/{pid}/status"))
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name in parentheses: state is field 3, utime 14, stime 15, in 1/100 s.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields
            .iter()
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse::<u64>().ok())
            .sum();
        Ok(Usage {
            resident: bytes("VmRSS:")?,
            peak: bytes("VmHWM:")?,
            processor: Duration::from_millis(ticks * 10),
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Ended already, most often.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
