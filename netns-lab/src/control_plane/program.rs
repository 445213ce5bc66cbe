//! One program of the control plane, as a process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use nodekit::netns::{Entry, NetNs, Worker};

/// How much of a log an error shows, in lines.
const LOG_TAIL: usize = 8;

/// A running program; killed when dropped, and by the kernel when this process ends.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it inside `netns`, as a child of the thread that is to outlive it.
    pub(super) fn start(
        parent: &Worker,
        netns: &NetNs,
        mut command: Command,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let name = PathBuf::from(command.get_program());
        let name = name.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let file = File::options().create(true).append(true).open(&log)?;
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let entry = Entry {
            die_with_parent: true,
            ..Entry::default()
        };
        entry.prepare(&mut command, netns)?;
        let child = parent.call(move || command.spawn())?;
        Ok(Self {
            child: child.with_context(|| format!("starting {name}"))?,
            name,
            log,
        })
    }

    /// Checks that it is worth to go on waiting for it.
    ///
    /// # Errors
    /// When it has ended, or the deadline has passed; with the end of its log.
    pub(super) fn check(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let what = match self.child.try_wait()? {
            Some(status) => format!("ended ({status})"),
            None if Instant::now() > deadline => "is not ready in time".to_owned(),
            None => return Ok(()),
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        bail!("{} {what}; its log ends with:\n{tail}", self.name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already, or nobody to be told.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
