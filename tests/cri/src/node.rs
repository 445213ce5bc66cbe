//! A node for one test: network, mount and process namespaces of its own, with an empty `/run` and
//! `/var/lib`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use std::os::unix::process::CommandExt;

use anyhow::{Context, bail};
use nodekit::netns::NetNs;

/// The longest that anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Namespaces that end with this handle, and with the test's process whatever ends it.
#[derive(Debug)]
pub struct Node {
    keeper: Child,
    lifeline: Option<ChildStdin>,
    init: u32,
    netns: NetNs,
    cgroup: String,
}

impl Node {
    /// Makes the namespaces; `lo` is up and there is nothing else.
    ///
    /// # Errors
    /// Without the privileges of root.
    pub fn new() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("causeway-cri-{}-{number}", std::process::id());
        let mut keeper = Command::new("sh")
            .args(["-c", include_str!("node/keeper.sh"), "keeper", &cgroup])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Control-C is for the test; the keeper ends after it.
            .process_group(0)
            .spawn()?;
        let lifeline = keeper.stdin.take();
        let mut lines = BufReader::new(keeper.stdout.take().context("its output")?).lines();
        let mut unshare = None;
        // The two lines come in any order.
        for _ in 0..2 {
            let line = lines.next().context("the keeper ended early")??;
            if line != "ready" {
                unshare = Some(line.parse().context("the keeper's first process")?);
            }
        }
        let init = only_child(unshare.context("no process from the keeper")?)?;
        Ok(Self {
            netns: NetNs::of_process(init)?,
            keeper,
            lifeline,
            init,
            cgroup,
        })
    }

    /// The node's network.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The cgroup that everything in the node belongs in, as a path below each hierarchy's root.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/{}", self.cgroup)
    }

    /// Where the test finds a file that the node knows by this absolute path.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Writes a file of the node, with the folders above it.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let path = self.file(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text).map_err(Into::into)
    }

    /// The names in a folder of the node, in order; none where there is no such folder.
    #[must_use]
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.file(folder)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// A program that will run in the node's namespaces.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args(["--net", "--mount", "--pid", "--"])
            .arg(program);
        command
    }

    /// Runs a program in the node to its end and gives what it printed.
    ///
    /// # Errors
    /// When it can't be started or doesn't succeed, with what it complained of.
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> anyhow::Result<String> {
        let program = program.as_ref();
        let output = self.command(program).args(arguments).output()?;
        let call = || format!("{} {}", program.display(), arguments.join(" "));
        said(&output).with_context(call)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lifeline = None;
        // It takes the namespaces down; there is nothing to do about a failure here.
        let _ = self.keeper.wait();
    }
}

/// What a program printed, if it succeeded.
///
/// # Errors
/// Its exit status and all of its output.
pub fn said(output: &Output) -> anyhow::Result<String> {
    let [text, complaints] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    if !output.status.success() {
        bail!("{}: {text}{complaints}", output.status);
    }
    Ok(text)
}

/// The process that another one has as its only child, once it has.
///
/// # Errors
/// When there is none after [`PATIENCE`].
pub fn only_child(parent: u32) -> anyhow::Result<u32> {
    wait_for("a child process", || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        children.trim().parse().context("children")
    })
}

/// Tries until something succeeds.
///
/// # Errors
/// The last failure, after [`PATIENCE`].
pub fn wait_for<T>(
    what: &str,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited for {what} for {PATIENCE:?}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
