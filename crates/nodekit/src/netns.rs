//! Network namespaces: make, open, name, enter and delete them.
//!
//! A thread is never left elsewhere than it was: [`NetNs::run`] and [`Worker`] start a thread of
//! their own, [`Entry`] enters in a child process between `fork` and `exec`, and [`NetNs::visit`]
//! brings its caller's thread back. See namespaces(7), network_namespaces(7), setns(2).

mod cookie;
mod dir;
mod entry;
mod worker;

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{any::Any, fmt, io, thread};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::statfs;

pub use dir::NetNsDir;
pub use entry::{Entry, MountNs};
pub use worker::Worker;

/// The calling thread's namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why a namespace could not be made, opened, entered or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A step on a path failed; `errno` tells a missing namespace (`ENOENT`) from the rest.
    #[error("network namespace {}: cannot {step}: {}", path.display(), errno.desc())]
    Path {
        /// The namespace's path, as given.
        path: PathBuf,
        /// What was being done, as a verb phrase.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The path exists and is something else, as a plain file left by an unmounted namespace.
    #[error("{} is not a network namespace", .0.display())]
    NotANetNs(PathBuf),
    /// A system call without a path failed.
    #[error("cannot {step}: {}", errno.desc())]
    Call {
        /// What was being done, as a verb phrase.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The code that ran inside the namespace panicked.
    #[error("panic inside a network namespace: {0}")]
    Panicked(String),
    /// The worker's thread has ended.
    #[error("the network namespace's worker has ended")]
    WorkerEnded,
}

impl Error {
    /// The kernel's answer, where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Path { errno, .. } | Self::Call { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    pub(crate) fn path(path: &Path, step: &'static str, errno: Errno) -> Self {
        Self::Path {
            path: path.to_owned(),
            step,
            errno,
        }
    }

    fn io(path: &Path, step: &'static str, error: &io::Error) -> Self {
        Self::path(path, step, io_errno(error))
    }

    fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        Self::Panicked(text.unwrap_or("(no message)").to_owned())
    }
}

fn io_errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// What makes a namespace the same one, whatever path it was opened by: the device and inode
/// number of its nsfs file. Unique while any reference to the namespace lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Device number of the nsfs mount.
    pub device: u64,
    /// Inode number, the figure in `net:[4026531840]`.
    pub inode: u64,
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// An open network namespace. It lives as long as this handle, even when its path is deleted.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    identity: Identity,
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NetNs {
    /// Opens the namespace that a path (`/run/netns/x`, `/proc/PID/ns/net`) refers to.
    ///
    /// # Errors
    /// [`Error::Path`] when it can't be opened, [`Error::NotANetNs`] when it is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::io(path, "open it", &error))?;
        let kind =
            statfs::fstatfs(&file).map_err(|errno| Error::path(path, "inspect it", errno))?;
        if kind.filesystem_type() != statfs::NSFS_MAGIC || !entry::is_network(file.as_fd()) {
            return Err(Error::NotANetNs(path.to_owned()));
        }
        let meta = file
            .metadata()
            .map_err(|error| Error::io(path, "inspect it", &error))?;
        Ok(Self {
            fd: file.into(),
            identity: Identity::of(&meta),
        })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::Path`] where `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        Self::open(OWN)
    }

    /// What tells the calling thread's namespace from others.
    ///
    /// # Errors
    /// [`Error::Path`] where `/proc` is not mounted.
    pub fn current_identity() -> Result<Identity, Error> {
        let own = Path::new(OWN);
        let meta = own
            .metadata()
            .map_err(|error| Error::io(own, "inspect it", &error))?;
        Ok(Identity::of(&meta))
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// [`Error::Path`] with `ENOENT` when there is no such process.
    pub fn of_process(pid: u32) -> Result<Self, Error> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// A new namespace without a name: it ends with the last handle, process or device in it.
    /// Its loopback device is down.
    ///
    /// # Errors
    /// [`Error::Call`] with `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` above
    /// `user.max_net_namespaces`.
    pub fn anonymous() -> Result<Self, Error> {
        on_own_thread(|| {
            unshare_net()?;
            Self::current()
        })?
    }

    /// A new namespace bound to `path`, which must not exist yet; it lives until
    /// [`NetNs::delete`]. For names in a shared folder as `/run/netns` use [`NetNsDir`], which
    /// also cares for the propagation of the mount.
    ///
    /// # Errors
    /// [`Error::Path`] with `EEXIST` when the path exists. Nothing is left behind on failure.
    pub fn create_at(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        // Mode 0, as ip-netns(8) has it: the file is a place to mount on and nothing to read.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o000)
            .open(path)
            .map_err(|error| Error::io(path, "create its file", &error))?;
        let made = on_own_thread(|| {
            unshare_net()?;
            nix::mount::mount(
                Some(OWN),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|errno| Error::path(path, "mount it", errno))?;
            Self::open(path)
        });
        made.flatten().inspect_err(|_| {
            // The error that made this necessary is the one worth reporting.
            let _ = Self::delete(path);
        })
    }

    /// Deletes a namespace made by [`NetNs::create_at`]: unmounts it and removes its file. Goes
    /// on when one of the two is already gone, so that it also ends a half-done creation or
    /// deletion. Processes and handles inside keep the namespace itself alive.
    ///
    /// # Errors
    /// [`Error::Path`] with `ENOENT` when there is nothing at the path.
    pub fn delete(path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: there is no mount at the path.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(Error::path(path, "unmount it", errno)),
        }
        std::fs::remove_file(path).map_err(|error| Error::io(path, "remove its file", &error))
    }

    /// What tells this namespace from others.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// A second handle for the same namespace.
    ///
    /// # Errors
    /// [`Error::Call`] with `EMFILE` when there are no file descriptors left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd = self.fd.try_clone().map_err(|error| Error::Call {
            step: "duplicate a namespace's file descriptor",
            errno: io_errno(&error),
        })?;
        Ok(Self {
            fd,
            identity: self.identity,
        })
    }

    /// Runs `work` inside the namespace and waits for it, on a fresh operating-system thread
    /// that entered the namespace and ends afterwards. Sockets opened inside belong to the
    /// namespace for good and may be handed out. Blocks: on an async runtime, call it where
    /// blocking is allowed.
    ///
    /// # Errors
    /// [`Error::Call`] when the namespace can't be entered, [`Error::Panicked`] when `work`
    /// panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread(|| {
            self.enter_for_good()?;
            Ok(work())
        })?
    }

    /// Runs `work` inside the namespace on the calling thread, which is back where it was when
    /// this returns, also by a panic. A tenth of the cost of [`NetNs::run`], for short-lived
    /// programs of one thread. Never on an async runtime.
    ///
    /// # Errors
    /// [`Error::Path`] where `/proc` is not mounted, [`Error::Call`] when the namespace can't be
    /// entered.
    pub fn visit<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let own = Path::new(OWN);
        let home = File::open(own).map_err(|error| Error::io(own, "open it", &error))?;
        let _way_back = WayBack(home);
        self.enter_for_good()?;
        Ok(work())
    }

    /// Moves the calling thread. Only for threads started for this purpose, and for visits.
    fn enter_for_good(&self) -> Result<(), Error> {
        enter(self.fd.as_fd()).map_err(|errno| Error::Call {
            step: "enter a network namespace",
            errno,
        })
    }

    fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Ends a visit.
struct WayBack(File);

impl Drop for WayBack {
    fn drop(&mut self) {
        if enter(self.0.as_fd()).is_err() {
            // Whatever this thread did next would be done to the wrong namespace. It can only
            // come to this when the work gave up the capability to enter.
            std::process::abort();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that may, on an own thread or with a way back"
)]
fn enter(namespace: BorrowedFd<'_>) -> nix::Result<()> {
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)
}

fn unshare_net() -> Result<(), Error> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Call {
        step: "make a network namespace",
        errno,
    })
}

/// Runs `work` on a thread made for it and waits; a panic becomes an error.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::Call {
                step: "start a thread",
                errno: io_errno(&error),
            })?
            .join()
            .map_err(|payload| Error::panicked(payload.as_ref()))
    })
}
