//! What mode ebpf needs of this node, feature by feature: what is lacking is known, and can be said,
//! before anything is loaded. What only makes it better is not here; it goes without that by itself.

use std::{fmt, iter};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::BpfHelper;
use caps::{CapSet, Capability};

use super::probe::Probe;
use super::{Options, PacketsHook};
use crate::backend::PlaneSettings;

/// Something to be asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Question {
    /// Of this process.
    Capability(Capability),
    /// bpf(2) at all.
    SystemCall,
    Map(MapType),
    Program(ProgramType),
    Helper(ProgramType, BpfHelper),
    /// [`Options::cgroup_root`].
    Cgroup,
    /// [`Options::pins`].
    Bpffs,
    Tcx,
    /// The queueing discipline that filters hang on.
    Clsact,
    /// Programs as such filters.
    Filter,
    /// For what is left to it.
    Nftables,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    /// And what there is to say about it.
    No(Option<String>),
    /// It cannot be found out: whether it works will show when it is used.
    Unknown,
}

/// A feature.
struct Feature {
    question: Question,
    name: &'static str,
    /// What it is needed for.
    purpose: &'static str,
    /// Where it comes from: a version of Linux, a module.
    source: &'static str,
}

const fn feature(
    question: Question,
    name: &'static str,
    purpose: &'static str,
    source: &'static str,
) -> Feature {
    Feature {
        question,
        name,
        purpose,
        source,
    }
}

/// Where capabilities come from.
const PRIVILEGE: &str =
    "a privilege of this process; without it the kernel is not asked for what else it has";

const NET_ADMIN: Feature = feature(
    Question::Capability(Capability::CAP_NET_ADMIN),
    "CAP_NET_ADMIN",
    "programs on the network, and nftables",
    PRIVILEGE,
);

/// Without which bpf(2) answers nothing; see `needed` in `privileges.rs`.
const CAPABILITIES: [Feature; 2] = [
    feature(
        Question::Capability(Capability::CAP_BPF),
        "CAP_BPF",
        "maps and programs",
        PRIVILEGE,
    ),
    feature(
        Question::Capability(Capability::CAP_PERFMON),
        "CAP_PERFMON",
        "programs that look into packets",
        PRIVILEGE,
    ),
];

use BpfHelper as Helper;
use ProgramType::{CgroupSock, CgroupSockAddr, SchedClassifier};

/// A feature comes after those without which nothing can be said about it. Types of hooks
/// (`BPF_CGROUP_UDP4_RECVMSG` 5.2, `BPF_CGROUP_INET4_GETPEERNAME` 5.8, `BPF_CGROUP_INET_SOCK_RELEASE`
/// 5.9) and their links (5.7) are all older than `bpf_set_retval`, and come with the programs.
const KERNEL: [Feature; 15] = [
    feature(
        Question::SystemCall,
        "bpf(2)",
        "everything",
        "CONFIG_BPF_SYSCALL",
    ),
    feature(
        Question::Map(MapType::PerCpuHash),
        "maps of type percpu_hash",
        "counts of traffic",
        "Linux 4.6",
    ),
    feature(
        Question::Map(MapType::LruHash),
        "maps of type lru_hash",
        "connections",
        "Linux 4.10",
    ),
    feature(
        Question::Map(MapType::LpmTrie),
        "maps of type lpm_trie",
        "networks of pods and Services",
        "Linux 4.11",
    ),
    feature(
        Question::Map(MapType::RingBuf),
        "maps of type ringbuf",
        "causeway-proxy monitor",
        "Linux 5.8",
    ),
    feature(
        Question::Program(CgroupSockAddr),
        "programs of type cgroup_sock_addr",
        "translation as a socket connects",
        "Linux 4.17, CONFIG_CGROUP_BPF",
    ),
    feature(
        Question::Helper(CgroupSockAddr, Helper::BPF_FUNC_get_socket_cookie),
        "bpf_get_socket_cookie in programs of type cgroup_sock_addr",
        "telling sockets apart",
        "Linux 4.19",
    ),
    feature(
        Question::Helper(CgroupSockAddr, Helper::BPF_FUNC_get_netns_cookie),
        "bpf_get_netns_cookie in programs of type cgroup_sock_addr",
        "telling the node's own sockets from pods'",
        "Linux 5.7",
    ),
    feature(
        Question::Helper(CgroupSockAddr, Helper::BPF_FUNC_set_retval),
        "bpf_set_retval in programs of type cgroup_sock_addr",
        "refusing a connection with its own errno",
        "Linux 5.18",
    ),
    feature(
        Question::Program(CgroupSock),
        "programs of type cgroup_sock",
        "forgetting sockets that close",
        "Linux 4.10, CONFIG_CGROUP_BPF",
    ),
    feature(
        Question::Helper(CgroupSock, Helper::BPF_FUNC_get_socket_cookie),
        "bpf_get_socket_cookie in programs of type cgroup_sock",
        "forgetting sockets that close",
        "Linux 5.7",
    ),
    feature(
        Question::Program(SchedClassifier),
        "programs of type sched_cls",
        "translation of packets",
        "Linux 4.1",
    ),
    feature(
        Question::Helper(SchedClassifier, Helper::BPF_FUNC_skb_adjust_room),
        "bpf_skb_adjust_room in programs of type sched_cls",
        "ICMP errors",
        "Linux 4.13",
    ),
    feature(
        Question::Helper(SchedClassifier, Helper::BPF_FUNC_fib_lookup),
        "bpf_fib_lookup in programs of type sched_cls",
        "routes of translated packets",
        "Linux 4.18",
    ),
    feature(
        Question::Helper(SchedClassifier, Helper::BPF_FUNC_redirect_neigh),
        "bpf_redirect_neigh in programs of type sched_cls",
        "sending translated packets on",
        "Linux 5.10",
    ),
];

const NODE: [Feature; 2] = [
    feature(
        Question::Cgroup,
        "a cgroup2",
        "hooks on the sockets of this node",
        "--ebpf-cgroup-root names a folder of one; in a container mount the host's /sys/fs/cgroup",
    ),
    feature(
        Question::Bpffs,
        "a bpffs",
        "what outlives this process",
        "mount -t bpf bpf /sys/fs/bpf makes one; in a container mount the host's",
    ),
];

const NFTABLES: Feature = feature(
    Question::Nftables,
    "nftables",
    "Services that eBPF leaves to it",
    "Linux 5.13 with nf_tables, nat, fib and numgen",
);

const TCX: Feature = feature(
    Question::Tcx,
    "TCX",
    "packets that come to an interface, by --ebpf-packets-hook=tcx",
    "Linux 6.6; --ebpf-packets-hook=auto goes without",
);

const CLSACT: [Feature; 2] = [
    feature(
        Question::Clsact,
        "queueing discipline clsact",
        "packets that come to an interface",
        "Linux 4.5, module sch_ingress; Linux 6.6 has TCX instead",
    ),
    feature(
        Question::Filter,
        "filters of type bpf",
        "packets that come to an interface",
        "Linux 4.4, module cls_bpf; Linux 6.6 has TCX instead",
    ),
];

/// A feature that this node does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    name: &'static str,
    purpose: &'static str,
    source: &'static str,
    why: Option<String>,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            purpose,
            source,
            why,
        } = self;
        write!(f, "{name}, for {purpose} ({source})")?;
        match why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

impl Lacking {
    /// One for tests of who reads it.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            name: "a cgroup2",
            purpose: "hooks",
            source: "a mount",
            why: None,
        }
    }
}

/// What this node lacks for mode ebpf as `options` have it; nothing: it can be opened, as far as can
/// be found out. A capability that this process `gave_up` is not lacking, but what the kernel tells
/// only those who have it stays unknown. Nothing is changed, and nothing is loaded that stays.
pub fn lacking(
    options: &Options,
    settings: &[PlaneSettings],
    gave_up: impl Fn(Capability) -> bool,
) -> Vec<Lacking> {
    let has = |one| caps::has_cap(None, CapSet::Effective, one).unwrap_or(false);
    let had = |one| has(one) || gave_up(one);
    let mut needed = iter::once(&NET_ADMIN).chain(&CAPABILITIES);
    let may_ask = needed.all(|feature| match feature.question {
        Question::Capability(one) => has(one) || stands_in(options, one, has),
        _ => true,
    });
    let probe = Probe { options, settings };
    lacking_by(options.packets_hook, |question| match *question {
        Question::Capability(one) if had(one) || stands_in(options, one, had) => Answer::Yes,
        Question::Capability(_) => Answer::No(None),
        Question::Cgroup | Question::Bpffs | Question::Nftables => probe.ask(question),
        _ if may_ask => probe.ask(question),
        _ => Answer::Unknown,
    })
}

/// The kernel takes CAP_SYS_ADMIN for the two that were split off it (`bpf_capable`,
/// linux/capability.h), as long as it is kept.
fn stands_in(options: &Options, one: Capability, has: impl Fn(Capability) -> bool) -> bool {
    matches!(one, Capability::CAP_BPF | Capability::CAP_PERFMON)
        && options.enters_namespaces()
        && has(Capability::CAP_SYS_ADMIN)
}

fn lacking_by(hook: PacketsHook, ask: impl Fn(&Question) -> Answer) -> Vec<Lacking> {
    let mut lacking = Lack {
        ask,
        found: Vec::new(),
    };
    let network = lacking.one(&NET_ADMIN);
    if lacking.all(&CAPABILITIES) && network {
        lacking.kernel(hook);
    }
    lacking.all(&NODE);
    if network {
        lacking.one(&NFTABLES);
    }
    lacking.found
}

struct Lack<A> {
    ask: A,
    found: Vec<Lacking>,
}

impl<A: Fn(&Question) -> Answer> Lack<A> {
    /// Whether it is not known to be lacking.
    fn one(&mut self, feature: &Feature) -> bool {
        let Answer::No(why) = (self.ask)(&feature.question) else {
            return true;
        };
        self.found.push(Lacking {
            name: feature.name,
            purpose: feature.purpose,
            source: feature.source,
            why,
        });
        false
    }

    fn all(&mut self, features: &[Feature]) -> bool {
        let before = self.found.len();
        for feature in features {
            self.one(feature);
        }
        self.found.len() == before
    }

    /// What bpf(2) tells. A helper of programs that there are not is not asked for.
    fn kernel(&mut self, hook: PacketsHook) {
        let mut without = Vec::new();
        for feature in &KERNEL {
            let of = match feature.question {
                Question::Helper(program, _) => Some(program),
                _ => None,
            };
            if of.is_some_and(|program| without.contains(&program)) || self.one(feature) {
                continue;
            }
            match feature.question {
                Question::SystemCall => return,
                Question::Program(program) => without.push(program),
                _ => {}
            }
        }
        self.hook(hook);
    }

    fn hook(&mut self, hook: PacketsHook) {
        match hook {
            PacketsHook::Auto if matches!((self.ask)(&Question::Tcx), Answer::No(_)) => {
                self.all(&CLSACT);
            }
            PacketsHook::Auto => {}
            PacketsHook::Tcx => {
                self.one(&TCX);
            }
            PacketsHook::Clsact => {
                self.all(&CLSACT);
            }
        }
    }
}

#[cfg(test)]
mod tests;
