//! Child processes that start inside a namespace.
#![expect(
    unsafe_code,
    reason = "pre_exec, and an ioctl that has no safe wrapper"
)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;

use super::{Error, NetNs, io_errno};

/// Whether a namespace's file is one of the network kind (ioctl_nsfs(2), Linux 4.11).
pub(super) fn is_network(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; the descriptor is open.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// The mount namespace a child gets.
#[derive(Debug, Default)]
pub enum MountNs {
    /// The parent's.
    #[default]
    Parent,
    /// An own one, in which each `(source, target)` file or folder is bound over the target,
    /// as ip-netns(8) does with `/etc/resolv.conf`. Changes don't travel back; namespaces
    /// deleted outside disappear inside, too.
    Own {
        /// Pairs of source and target, both absolute and existing.
        binds: Vec<(PathBuf, PathBuf)>,
        /// Mount a fresh sysfs on `/sys`, so that `/sys/class/net` shows the namespace's
        /// devices. Hides what was mounted below it, as `/sys/fs/cgroup`.
        fresh_sys: bool,
    },
    /// That of a running process.
    OfProcess(u32),
}

/// How a child process enters a network namespace, between `fork` and `exec`.
#[derive(Debug, Default)]
pub struct Entry {
    /// The mount namespace it gets.
    pub mount: MountNs,
    /// The folder of the cgroup2 that it becomes a member of (cgroups(7)); none: its parent's.
    pub cgroup: Option<PathBuf>,
    /// Killed with SIGKILL when the *thread* that spawned it ends (`PR_SET_PDEATHSIG`): spawn
    /// from a thread that lives as long as the child shall, as a [`super::Worker`]'s.
    pub die_with_parent: bool,
}

impl Entry {
    /// Makes `command` start inside `netns`. The command may be spawned several times.
    ///
    /// # Errors
    /// [`Error::Path`] when a bind's source or target, the process or the cgroup doesn't exist. What
    /// fails inside the child comes out of `Command::spawn`, as the errno.
    pub fn prepare(self, command: &mut Command, netns: &NetNs) -> Result<(), Error> {
        let netns = netns.try_clone()?;
        let mount = Prepared::new(self.mount)?;
        let cgroup = self.cgroup.map(|folder| members(&folder)).transpose()?;
        let parent = self.die_with_parent.then(std::process::id);
        let enter = move || -> io::Result<()> {
            if let Some(parent) = parent {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if nix::unistd::getppid().as_raw().unsigned_abs() != parent {
                    return Err(Errno::ESRCH.into());
                }
            }
            if let Some(cgroup) = &cgroup {
                // 0 is the writer itself.
                nix::unistd::write(cgroup, b"0")?;
            }
            set_namespace(netns.raw(), CloneFlags::CLONE_NEWNET)?;
            Ok(mount.enter()?)
        };
        // SAFETY: the closure runs in the forked child of a threaded process, so it may only
        // make async-signal-safe calls: it makes prctl, getppid, write, setns, unshare, mount and
        // umount2 system calls on strings and descriptors prepared here, and allocates nothing
        // (an io::Error from an errno holds just the number).
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

/// The file that takes the numbers of a cgroup's members.
fn members(cgroup: &Path) -> Result<File, Error> {
    let path = cgroup.join("cgroup.procs");
    let opened = File::options().write(true).open(&path);
    opened.map_err(|error| Error::path(&path, "open a cgroup", io_errno(&error)))
}

fn set_namespace(fd: i32, kind: CloneFlags) -> nix::Result<()> {
    // SAFETY: setns takes two integers; the descriptor is owned by the closure that calls this.
    Errno::result(unsafe { libc::setns(fd, kind.bits()) }).map(drop)
}

/// [`MountNs`] with every string and descriptor ready.
enum Prepared {
    Parent,
    Own {
        binds: Vec<(CString, CString)>,
        fresh_sys: bool,
    },
    Existing(OwnedFd),
}

impl Prepared {
    fn new(mount: MountNs) -> Result<Self, Error> {
        match mount {
            MountNs::Parent => Ok(Self::Parent),
            MountNs::Own { binds, fresh_sys } => {
                let binds = binds
                    .iter()
                    .map(|(source, target)| Ok((existing(source)?, existing(target)?)));
                Ok(Self::Own {
                    binds: binds.collect::<Result<_, Error>>()?,
                    fresh_sys,
                })
            }
            MountNs::OfProcess(pid) => {
                let path = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
                let file = File::open(&path).map_err(|error| {
                    Error::path(&path, "open a process's mount namespace", io_errno(&error))
                })?;
                Ok(Self::Existing(file.into()))
            }
        }
    }

    /// Only async-signal-safe calls.
    fn enter(&self) -> nix::Result<()> {
        match self {
            Self::Parent => Ok(()),
            Self::Existing(fd) => set_namespace(fd.as_fd().as_raw_fd(), CloneFlags::CLONE_NEWNS),
            Self::Own { binds, fresh_sys } => {
                nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
                // Slave: unmounts outside arrive here, mounts here stay here.
                mount(None, c"/", None, MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
                if *fresh_sys {
                    nix::mount::umount2(c"/sys", MntFlags::MNT_DETACH)?;
                    mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), MsFlags::empty())?;
                }
                for (source, target) in binds {
                    mount(Some(source), target, None, MsFlags::MS_BIND)?;
                }
                Ok(())
            }
        }
    }
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: MsFlags,
) -> nix::Result<()> {
    nix::mount::mount(source, target, kind, flags, None::<&CStr>)
}

fn existing(path: &Path) -> Result<CString, Error> {
    let step = "bind this path over another";
    path.metadata()
        .map_err(|error| Error::io(path, step, &error))?;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::path(path, step, Errno::EINVAL))
}
