//! `causeway-proxy monitor`: a line for each thing that the eBPF programs do, until somebody stops
//! it.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;

use crate::backend::ebpf::{self, Happening, Monitor};

/// How often the programs are told that somebody still watches, in milliseconds.
const RENEW: u16 = 1_000;
/// Lines after which signals are heeded.
const AT_ONCE: usize = 1_024;

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A JSON object on each line.
    pub json: bool,
    /// Only what was refused or dropped.
    pub drops: bool,
}

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The maps.
    #[error(transparent)]
    Ebpf(#[from] ebpf::Error),
    /// Signals, or the standard output.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line could not be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Events that there was no room for.
#[derive(Serialize)]
struct Lost {
    lost: u64,
}

/// Writes what happens to the standard output until SIGINT, SIGTERM, or nobody reads it any more.
///
/// # Errors
/// See [`Error`].
pub fn run(pins: &Path, wanted: Wanted) -> Result<(), Error> {
    match follow(pins, wanted) {
        Err(Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn follow(pins: &Path, wanted: Wanted) -> Result<(), Error> {
    let signals = signals().map_err(io::Error::from)?;
    let mut monitor = Monitor::open(pins)?;
    let mut lines = Lines {
        out: BufWriter::new(io::stdout().lock()),
        wanted,
    };
    loop {
        monitor.renew()?;
        let happened = wait(&signals, &monitor).map_err(io::Error::from)?;
        lines.all_of(&mut monitor)?;
        lines.lost(&mut monitor)?;
        if let Waited::Signal = happened {
            break;
        }
    }
    monitor.stop()?;
    while !lines.all_of(&mut monitor)? {}
    lines.lost(&mut monitor)
}

/// Those that ask for the end, from now on heard of here only.
fn signals() -> nix::Result<SignalFd> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    ends.thread_block()?;
    SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC)
}

enum Waited {
    Signal,
    Else,
}

/// Waits until something happens, or the programs want to hear that somebody still watches.
fn wait(signals: &SignalFd, monitor: &Monitor) -> nix::Result<Waited> {
    let [signal, event] = [signals.as_fd(), monitor.as_fd()];
    let mut both = [signal, event].map(|one| PollFd::new(one, PollFlags::POLLIN));
    match poll(&mut both, RENEW) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error),
    }
    let [signal, _] = both;
    Ok(match signal.any() {
        Some(true) => Waited::Signal,
        _ => Waited::Else,
    })
}

struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    wanted: Wanted,
}

impl Lines {
    /// Writes what happened; whether that was all.
    fn all_of(&mut self, monitor: &mut Monitor) -> Result<bool, Error> {
        for _ in 0..AT_ONCE {
            let Some(happening) = monitor.take() else {
                self.out.flush()?;
                return Ok(true);
            };
            if happening.dropped || !self.wanted.drops {
                self.happened(&happening)?;
            }
        }
        self.out.flush()?;
        Ok(false)
    }

    fn happened(&mut self, happening: &Happening) -> Result<(), Error> {
        let line = if self.wanted.json {
            serde_json::to_string(happening)?
        } else {
            happening.to_string()
        };
        Ok(writeln!(self.out, "{line}")?)
    }

    fn lost(&mut self, monitor: &mut Monitor) -> Result<(), Error> {
        let lost = monitor.lost()?;
        if lost == 0 {
            return Ok(());
        }
        if self.wanted.json {
            writeln!(self.out, "{}", serde_json::to_string(&Lost { lost })?)?;
        } else {
            writeln!(
                self.out,
                "lost {lost} events: they came faster than they were read"
            )?;
        }
        Ok(self.out.flush()?)
    }
}
