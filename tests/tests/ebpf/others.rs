//! Small programs of somebody else, at places where no library puts them.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::libc;

/// `BPF_PROG_LOAD` and `BPF_LINK_CREATE` (linux/bpf.h).
const LOAD: libc::c_int = 5;
const LINK: libc::c_int = 28;
/// `BPF_PROG_TYPE_SCHED_CLS` and `BPF_PROG_TYPE_NETFILTER`.
const CLASSIFIER: u32 = 3;
const FILTER: u32 = 32;
/// `BPF_NETFILTER` and `BPF_TCX_INGRESS`.
const AT_NETFILTER: u32 = 45;
const AT_INGRESS: u32 = 46;
/// `NFPROTO_IPV4` and `NF_INET_FORWARD`.
const IPV4: u32 = 2;
const FORWARD: u32 = 2;
/// `BPF_F_BEFORE` and `BPF_F_AFTER`, of nobody: of all.
const FIRST: u32 = 1 << 3;
const LAST: u32 = 1 << 4;
/// `TC_ACT_UNSPEC` and `NF_ACCEPT`.
const GO_ON: u32 = u32::MAX;
const ACCEPT: u32 = 1;
/// `r0 = …`, `exit`, and `mark = …` of what `r1` points to (a `struct __sk_buff`), the number in the upper half.
const RETURN: u64 = 0xb7;
const EXIT: u64 = 0x95;
const MARK: u64 = 0x0008_0162;

/// Among the programs of an interface.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    After,
    /// And it marks packets.
    Before {
        mark: u32,
    },
}

/// A program that has packets go on, for filters.
pub(crate) fn classifier() -> OwnedFd {
    load(CLASSIFIER, 0, &returning(GO_ON))
}

/// Has a program see what comes by an interface, until it is dropped.
pub(crate) fn at_ingress(interface: u32, place: Place) -> OwnedFd {
    let (place, program) = match place {
        Place::After => (LAST, classifier()),
        Place::Before { mark } => {
            let code = [&[MARK | u64::from(mark) << 32][..], &returning(GO_ON)].concat();
            (FIRST, load(CLASSIFIER, 0, &code))
        }
    };
    link(program.as_fd(), &[interface, AT_INGRESS, place])
}

/// Has a program see what the calling thread's network namespace sends on, until it is dropped.
pub(crate) fn at_forward() -> OwnedFd {
    let program = load(FILTER, AT_NETFILTER, &returning(ACCEPT));
    link(program.as_fd(), &[0, AT_NETFILTER, 0, IPV4, FORWARD])
}

fn returning(number: u32) -> [u64; 2] {
    [RETURN | u64::from(number) << 32, EXIT]
}

fn load(kind: u32, place: u32, code: &[u64]) -> OwnedFd {
    let license = c"GPL";
    let mut attributes = Attributes([0; 32]);
    attributes.0[0] = kind;
    attributes.0[1] = code.len().try_into().unwrap();
    attributes.address(8, code.as_ptr().addr());
    attributes.address(16, license.as_ptr().addr());
    attributes.0[17] = place;
    bpf(LOAD, &attributes)
}

fn link(program: BorrowedFd<'_>, rest: &[u32]) -> OwnedFd {
    let mut attributes = Attributes([0; 32]);
    attributes.0[0] = program.as_raw_fd().try_into().unwrap();
    attributes.0[1..=rest.len()].copy_from_slice(rest);
    bpf(LINK, &attributes)
}

/// `union bpf_attr`.
#[repr(C, align(8))]
struct Attributes([u32; 32]);

impl Attributes {
    fn address(&mut self, offset: usize, address: usize) {
        let [low, high] = [address as u64 & 0xffff_ffff, address as u64 >> 32];
        let words = if cfg!(target_endian = "little") {
            [low, high]
        } else {
            [high, low]
        };
        for (index, word) in words.into_iter().enumerate() {
            self.0[offset / 4 + index] = word.try_into().unwrap();
        }
    }
}

#[expect(unsafe_code, reason = "there is no other way to such a program")]
fn bpf(command: libc::c_int, attributes: &Attributes) -> OwnedFd {
    let size = size_of::<Attributes>();
    // SAFETY: the kernel reads the attributes, and what they point to, which is still there.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes.0, size) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) }
}
