//! The programs that are measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::{Bed, Proxy};

use crate::load::Load;

/// Far above every limit, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// kube-proxy takes minutes for what is seconds here.
const PEER_PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What a kube-proxy must leave alone on a node that is a network namespace: these settings
/// belong to the machine, and it would give up when it cannot write them.
const PEER_FLAGS: [&str; 4] = [
    "--conntrack-max-per-core=0",
    "--conntrack-min=0",
    "--conntrack-tcp-timeout-established=0s",
    "--conntrack-tcp-timeout-close-wait=0s",
];

/// A program, with a node and an API server of its own.
pub(crate) struct Contender {
    pub(crate) bed: Bed,
    pub(crate) patience: Duration,
    /// It tells how long a change took it and how much it had to do, under /metrics.
    pub(crate) tells: bool,
    /// Where its sockets are, in mode ebpf.
    cell: Option<Cell>,
    program: PathBuf,
    flags: Vec<String>,
}

/// The mode whose sockets are those of a cgroup.
const EBPF: &str = "ebpf";

impl Contender {
    /// causeway-proxy.
    pub(crate) fn own(mode: &str, load: Load) -> anyhow::Result<Self> {
        let program = causeway_tests::binary("causeway-proxy");
        let cell = (mode == EBPF).then(Cell::new);
        let mut own = Self::new(program, mode, load)?;
        if let Some(cell) = &cell {
            own.flags.extend(cell.flags());
        }
        Ok(Self {
            patience: PATIENCE,
            tells: true,
            cell,
            ..own
        })
    }

    /// Another program, which takes kube-proxy's flags.
    pub(crate) fn peer(program: &Path, mode: &str, load: Load) -> anyhow::Result<Self> {
        let program = program
            .canonicalize()
            .with_context(|| format!("--peer {}", program.display()))?;
        anyhow::ensure!(mode != EBPF, "--peer: no kube-proxy has a mode {EBPF}");
        let mut peer = Self::new(program, mode, load)?;
        peer.flags.extend(PEER_FLAGS.map(str::to_owned));
        Ok(peer)
    }

    fn new(program: PathBuf, mode: &str, load: Load) -> anyhow::Result<Self> {
        let bed = Bed::new()?;
        load.fill(&bed)?;
        Ok(Self {
            bed,
            patience: PEER_PATIENCE,
            tells: false,
            cell: None,
            program,
            flags: vec![format!("--proxy-mode={mode}")],
        })
    }

    /// Does as processes of its node do: what is born in there is one.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        match &self.cell {
            Some(cell) => cell.inside(act),
            None => act(),
        }
    }

    pub(crate) fn start(&self) -> anyhow::Result<Proxy> {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        self.bed.program(&self.program, &flags)
    }

    /// An empty kernel again, by the program's own `--cleanup`.
    pub(crate) fn clean_up(&self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("--cleanup");
        if let Some(cell) = &self.cell {
            command.args(cell.flags());
        }
        let done = self
            .bed
            .netns
            .run(move || command.output())?
            .with_context(|| format!("executing {}", self.program.display()))?;
        anyhow::ensure!(
            done.status.success(),
            "{} --cleanup: {}",
            self.program.display(),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }
}
