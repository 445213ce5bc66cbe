//! A cgroup and a bpffs for one data plane under test: the threads inside are the node and its
//! pods, and no other process on the machine is.

#![expect(clippy::unwrap_used, reason = "what a cell cannot do fails its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use causeway_proxy::backend::{self, ebpf};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tempfile::TempDir;

/// The cells of this process, which share one cgroup with a threaded child for each of them
/// (cgroups(7), "Thread mode").
static HOUSE: Mutex<Option<House>> = Mutex::new(None);

struct House {
    folder: PathBuf,
    /// Where the process was before, and goes back to.
    before: PathBuf,
    cells: usize,
    made: usize,
}

/// See the module. It belongs to the thread that made it, whose mounts it hides from others; it is
/// gone when it is dropped.
#[derive(Debug)]
pub struct Cell {
    cgroup: PathBuf,
    bpffs: TempDir,
}

impl Cell {
    /// A cell whose programs may be attached by the calling thread.
    ///
    /// # Panics
    /// Without root, a cgroup2 and bpffs.
    #[must_use]
    pub fn new() -> Self {
        let cgroup = {
            let mut house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
            house.get_or_insert_with(House::new).add()
        };
        // The pins, and all that hangs on them, end with the thread even if it is killed.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount::<_, _, Path, Path>(None::<&Path>, "/", None, private, None).unwrap();
        let bpffs = tempfile::tempdir().unwrap();
        mount::<_, _, _, Path>(
            Some("bpf"),
            bpffs.path(),
            Some("bpf"),
            MsFlags::empty(),
            None,
        )
        .unwrap();
        Self { cgroup, bpffs }
    }

    /// What a data plane is opened with here.
    #[must_use]
    pub fn options(&self) -> ebpf::Options {
        ebpf::Options {
            cgroup_root: Some(self.cgroup.clone()),
            pins: self.bpffs.path().join("pins"),
            // The kernel takes all the memory of this map at once.
            tracks: 4_096,
            ..ebpf::Options::default()
        }
    }

    /// The same among what all data planes are told.
    #[must_use]
    pub fn planes(&self) -> backend::Options {
        backend::Options {
            ebpf: self.options(),
            ..backend::Options::default()
        }
    }

    /// The same as a command line says it, but for the sizes of maps, which are those by default.
    ///
    /// # Panics
    /// A folder's name is no text.
    #[must_use]
    pub fn flags(&self) -> [String; 2] {
        let pins = self.bpffs.path().join("pins");
        let flag = |name, value: &Path| format!("--{name}={}", value.to_str().unwrap());
        [
            flag("ebpf-cgroup-root", &self.cgroup),
            flag("ebpf-pin-dir", &pins),
        ]
    }

    /// Runs `act` on a thread inside.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let enter_and_act = || {
            fs::write(self.cgroup.join("cgroup.threads"), gettid().to_string()).unwrap();
            act()
        };
        let done = thread::scope(|scope| scope.spawn(enter_and_act).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        nix::mount::umount(self.bpffs.path()).unwrap();
        let mut house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut last) = house.take() {
            last.remove(&self.cgroup);
            if last.cells > 0 {
                *house = Some(last);
            }
        }
    }
}

impl House {
    fn new() -> Self {
        let before = nodekit::cgroup::own().unwrap().unwrap();
        let folder = before.join(format!("causeway-test-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let own = std::process::id().to_string();
        fs::write(folder.join("cgroup.procs"), own).unwrap();
        Self {
            folder,
            before,
            cells: 0,
            made: 0,
        }
    }

    fn add(&mut self) -> PathBuf {
        self.cells += 1;
        self.made += 1;
        let cell = self.folder.join(format!("cell-{}", self.made));
        fs::create_dir(&cell).unwrap();
        fs::write(cell.join("cgroup.type"), "threaded").unwrap();
        cell
    }

    /// A thread that has just ended may still be counted for a moment.
    fn remove(&mut self, cell: &Path) {
        self.cells -= 1;
        remove(cell, || ());
        if self.cells == 0 {
            remove(&self.folder, || self.leave());
        }
    }

    /// Moves this process back, and those that its threads have started meanwhile: the daemons of
    /// other tests.
    fn leave(&self) {
        let members = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap();
        for member in members.lines() {
            // It may have ended.
            let _ = fs::write(self.before.join("cgroup.procs"), member);
        }
    }
}

/// Removes it once it is empty, to which each try may help.
fn remove(cgroup: &Path, help: impl Fn()) {
    for _ in 0..500 {
        help();
        if fs::remove_dir(cgroup).is_ok() {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    eprintln!("{} is left", cgroup.display());
}
