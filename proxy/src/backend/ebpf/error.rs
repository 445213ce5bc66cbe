//! What can go wrong with mode ebpf.

use std::path::PathBuf;

/// Why there is no translation at the socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was built without the programs.
    #[error(
        "this causeway-proxy was built without its eBPF programs, since there was no compiler for \
         them (scripts/setup installs one); mode nftables works"
    )]
    NotBuilt,
    /// There is no cgroup2.
    #[error("no cgroup2 is mounted; --ebpf-cgroup-root names a folder of one")]
    NoCgroup,
    /// The folder for the cgroup is none of a cgroup2.
    #[error("--ebpf-cgroup-root {}: not on a cgroup2", .0.display())]
    NotCgroup2(PathBuf),
    /// A file of the machine cannot be used.
    #[error("{what} {}: {source}", .path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The folder for the pins is no bpffs.
    #[error(
        "--ebpf-pin-dir {}: not on a bpffs (mount -t bpf bpf /sys/fs/bpf makes one)", .0.display()
    )]
    NoBpffs(PathBuf),
    /// Somebody else watches.
    #[error("somebody watches already, and there can be one at a time")]
    Watched,
    /// The kernel refused a program.
    #[error("program {name}: {source} (kernel 5.18 or later with CONFIG_CGROUP_BPF is needed)")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// The kernel refused the program on packets.
    #[error("program packets: {source}")]
    Packets {
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// The kernel refused the program as a filter.
    #[error("program packets: {0} (without TCX, sch_ingress and cls_bpf are needed)")]
    Filter(nodekit::netlink::Error),
    /// The interfaces of the node are not known.
    #[error("the node's interfaces: {0}")]
    Interfaces(nodekit::netlink::Error),
    /// It is not known who filters packets of bridges.
    #[error("tables of nftables: {0}")]
    Tables(nodekit::nft::Error),
    /// It is not heard of rules, filters and policies that others make.
    #[error("changes of others: {0}")]
    Heard(nodekit::netlink::Error),
    /// It is not known whether there is IPsec.
    #[error("policies of IPsec: {0}")]
    Policies(nodekit::netlink::Error),
    /// It is not known whether others have programs in netfilter.
    #[error("links of eBPF programs: {0}")]
    Links(aya::programs::links::LinkError),
    /// A thread that follows changes could not be started, or woken.
    #[error("a thread that follows changes: {0}")]
    Thread(std::io::Error),
    /// The object cannot be loaded.
    #[error("eBPF maps and programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// A map refused an entry.
    #[error("map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// Sockets could not be listed or ended.
    #[error("sockets of endpoints that left: {0}")]
    Sockets(nodekit::netlink::Error),
    /// Connections could not be entered in connection tracking.
    #[error("connections from outside that another data plane is to go on with: {0}")]
    Handover(nodekit::netlink::Error),
    /// The own network namespace cannot be told from others.
    #[error("the node's network namespace: {0}")]
    Namespace(#[from] nodekit::netns::Error),
}
