//! Asks the kernel what it has, without leaving anything in it.

use std::os::fd::AsFd as _;

use aya::maps::MapType;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::{SyscallError, is_helper_supported, is_map_supported, is_program_supported};
use nodekit::Errno;
use nodekit::netlink::Error as NetlinkError;
use nodekit::netns::NetNs;
use nodekit::route::{Classifier, Handle, Side};

use super::features::{Answer, Question};
use super::{Error, Options, pins, sockets};
use crate::backend::{NftablesBackend, PlaneSettings};

/// The loopback interface's index, in every network namespace (`LOOPBACK_IFINDEX`, linux/if.h).
const LOOPBACK: u32 = 1;

/// See the module.
pub(super) struct Probe<'a> {
    pub(super) options: &'a Options,
    pub(super) settings: &'a [PlaneSettings],
}

impl Probe<'_> {
    pub(super) fn ask(&self, question: &Question) -> Answer {
        match *question {
            Question::Capability(_) => Answer::Unknown,
            Question::SystemCall => system_call(),
            Question::Map(kind) => told(&is_map_supported(kind)),
            Question::Program(kind) => told(&is_program_supported(kind)),
            Question::Helper(kind, helper) => told(&is_helper_supported(kind, helper)),
            Question::Cgroup => usable(sockets::cgroup(self.options)),
            Question::Bpffs => usable(pins::look(&self.options.pins)),
            Question::Tcx => told(&has_tcx()),
            Question::Clsact => in_a_netns(|_, links| links.add_clsact(LOOPBACK)),
            Question::Filter => in_a_netns(|netns, links| {
                // Without it there is nothing to be said about filters.
                links.add_clsact(LOOPBACK).ok();
                set_no_program(netns, links)
            }),
            Question::Nftables => self.nftables(),
        }
    }

    /// One family is enough to be served.
    fn nftables(&self) -> Answer {
        let mut why = None;
        for settings in self.settings {
            match NftablesBackend::open(vec![settings.clone().into()]) {
                Ok(_) => return Answer::Yes,
                Err(error) => drop(why.get_or_insert(error.to_string())),
            }
        }
        Answer::No(why)
    }
}

/// What cannot be asked will show when it is used.
fn told<E>(answer: &Result<bool, E>) -> Answer {
    match answer {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No(None),
        Err(_) => Answer::Unknown,
    }
}

fn usable<T>(found: Result<T, Error>) -> Answer {
    match found {
        Ok(_) => Answer::Yes,
        Err(error) => Answer::No(Some(error.to_string())),
    }
}

/// Whether there is bpf(2), and this process may call it: asked by a map that nobody may make without
/// CAP_BPF, whatever `kernel.unprivileged_bpf_disabled` says.
fn system_call() -> Answer {
    let Err(SyscallError { io_error, .. }) = is_map_supported(MapType::LruHash) else {
        return Answer::Yes;
    };
    match io_error.raw_os_error() {
        Some(error) if error == Errno::ENOSYS as i32 => Answer::No(None),
        Some(error) if error == Errno::EPERM as i32 || error == Errno::EACCES as i32 => {
            let who =
                "a seccomp profile, a security module, or a user namespace other than the first";
            Answer::No(Some(format!(
                "{io_error}, though the capabilities are there: {who} refuses it"
            )))
        }
        _ => Answer::Unknown,
    }
}

/// Whether the kernel knows TCX, asked at the one interface that each network namespace has.
///
/// # Errors
/// It does not say.
pub(super) fn has_tcx() -> Result<bool, ProgramError> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if knows_no_tcx(&error) => Ok(false),
        // It said which programs there are, and then something about one of them.
        Err(ProgramError::SyscallError(error)) if error.call != QUERY => Ok(true),
        Err(error) => Err(error),
    }
}

/// How aya calls the question which programs are somewhere.
const QUERY: &str = "bpf_prog_query";

/// Whether that question was refused since the kernel has no TCX.
pub(super) fn knows_no_tcx(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => {
            error.call == QUERY && error.io_error.raw_os_error() == Some(Errno::EINVAL as i32)
        }
        _ => false,
    }
}

/// Whether the kernel knows what `act` asks for in a network namespace of its own, which is gone
/// after it.
fn in_a_netns(act: impl FnOnce(&NetNs, &mut Handle) -> Result<(), NetlinkError>) -> Answer {
    let Ok(netns) = NetNs::anonymous() else {
        return Answer::Unknown;
    };
    let Ok(mut links) = Handle::open_in(&netns) else {
        return Answer::Unknown;
    };
    match act(&netns, &mut links) {
        Ok(()) => Answer::Yes,
        Err(error) if error.errno() == Some(Errno::ENOENT) => Answer::No(None),
        Err(_) => Answer::Unknown,
    }
}

/// A filter with what is no program: the kernel first looks for the type of filter (ENOENT), then for
/// the program (EINVAL; `__bpf_prog_get`, kernel/bpf/syscall.c).
fn set_no_program(no_program: &NetNs, links: &mut Handle) -> Result<(), NetlinkError> {
    let classifier = Classifier {
        name: "none".to_owned(),
        priority: 1,
        handle: 1,
    };
    match links.set_classifier(LOOPBACK, Side::Incoming, &classifier, no_program.as_fd()) {
        Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(()),
        other => other,
    }
}
