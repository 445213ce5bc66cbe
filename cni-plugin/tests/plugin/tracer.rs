//! The plugin under ptrace(2): its system calls counted, and the process killed after one of them.

use std::io::Write;
use std::process::Stdio;

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::node::{Node, Pod};

/// System calls that change the kernel's state or a disk's, where they do.
const CHANGES: &[libc::c_long] = &[
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_write,
    libc::SYS_ftruncate,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_symlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
];

/// Those that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CHANGES: &[libc::c_long] = &[
    libc::SYS_link,
    libc::SYS_unlink,
    libc::SYS_symlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CHANGES: &[libc::c_long] = &[];

/// System calls that look something up on a disk.
const LOOKUPS: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// What a process did once it had begun to read its configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Traced {
    pub(crate) lookups: usize,
    pub(crate) changes: usize,
    pub(crate) killed: bool,
}

impl Traced {
    /// Counts a call, and says whether it changes something.
    fn note(&mut self, call: &Call, thread: Pid) -> bool {
        let changes = call.is_change(thread);
        self.changes += usize::from(changes);
        self.lookups += usize::from(LOOKUPS.contains(&call.number));
        changes
    }
}

/// Runs one call of the plugin, and kills it right after the given change, counted from 1.
pub(crate) fn run(
    node: &Node,
    command: &str,
    pod: &Pod,
    config: &Value,
    kill_after: Option<usize>,
) -> Traced {
    let mut process = node.process(command, &pod.id, &pod.path(), &[]);
    process
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = process.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    // It waits for its configuration, and so misses nothing of being watched.
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).unwrap();
    ptrace::interrupt(pid).unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(config.to_string().as_bytes()).unwrap();
    drop(input);
    let traced = watch(pid, kill_after);
    // It has been waited for; the handle must not think otherwise.
    let _ = child.wait();
    traced
}

fn watch(pid: Pid, kill_after: Option<usize>) -> Traced {
    let mut traced = Traced::default();
    let mut reading = false;
    // Its threads, too, but no child of this process's other threads.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let (stopped, signal) = match waitpid(Pid::from_raw(-1), Some(flags)).unwrap() {
            WaitStatus::Exited(ended, _) if ended == pid => return traced,
            WaitStatus::Signaled(ended, signal, _) if ended == pid => {
                assert_eq!(signal, Signal::SIGKILL);
                traced.killed = true;
                return traced;
            }
            WaitStatus::PtraceSyscall(thread) => {
                if is_left(thread) {
                    let call = Call::of(thread);
                    // How much of its start is seen differs from time to time.
                    reading |= call.number == libc::SYS_read && call.first == 0;
                    if reading && traced.note(&call, thread) && Some(traced.changes) == kill_after {
                        kill(pid, Signal::SIGKILL).unwrap();
                    }
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, _) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(stopped, signal);
    }
}

/// Whether the call is over. Gone with its process, it never will be.
fn is_left(thread: Pid) -> bool {
    ptrace::syscall_info(thread).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_EXIT)
}

/// A system call that is over.
struct Call {
    number: libc::c_long,
    first: u64,
    second: u64,
    third: libc::c_long,
}

impl Call {
    #[cfg(target_arch = "x86_64")]
    fn of(thread: Pid) -> Self {
        let registers = ptrace::getregs(thread).unwrap();
        Self {
            number: registers.orig_rax.cast_signed(),
            first: registers.rdi,
            second: registers.rsi,
            third: registers.rdx.cast_signed(),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn of(thread: Pid) -> Self {
        let registers = ptrace::getregs(thread).unwrap();
        Self {
            number: registers.regs[8].cast_signed(),
            first: registers.regs[0],
            second: registers.regs[1],
            third: registers.regs[2].cast_signed(),
        }
    }

    fn is_change(&self, thread: Pid) -> bool {
        if self.number == libc::SYS_sendto && self.asks(thread) {
            return false;
        }
        let makes = self.number == libc::SYS_openat && self.third & i64::from(libc::O_CREAT) != 0;
        makes || CHANGES.contains(&self.number) || OLD_CHANGES.contains(&self.number)
    }

    /// Whether it sends a netlink message that only asks: RTM_GET* (linux/rtnetlink.h: every
    /// fourth number) or NFT_MSG_GET* (linux/netfilter/nf_tables.h) up to NFT_MSG_GETGEN.
    fn asks(&self, thread: Pid) -> bool {
        let header = ptrace::read(thread, self.second as ptrace::AddressType).unwrap();
        let [_, _, _, _, number, subsystem, _, _] = header.to_ne_bytes();
        match i32::from(subsystem) {
            0 => number % 4 == 2,
            libc::NFNL_SUBSYS_NFTABLES => number <= 16 && number % 3 == 1,
            _ => false,
        }
    }
}
