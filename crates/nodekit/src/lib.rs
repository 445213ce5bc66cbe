//! The node's kernel in the kernel's own words.
//!
//! This crate never knows Kubernetes, never runs another program (but those of iptables, whose kernel
//! interface is their own), never keeps state of its own and never changes anything that its caller
//! didn't name. It speaks route netlink, nf_tables, conntrack, nfacct, ipset, IPVS, xfrm and the socket
//! monitor over netlink sockets, enters network namespaces, finds cgroups, and reads and writes
//! sysctls; an error names the operation and the errno.

pub mod cgroup;
pub mod conntrack;
#[cfg(feature = "faulty")]
pub mod faulty;
pub mod ipset;
pub mod ipvs;
pub mod netlink;
pub mod netns;
pub mod nfacct;
pub mod nft;
pub mod route;
pub mod sock_diag;
pub mod sysctl;
pub mod xfrm;
pub mod xtables;

pub use nix::errno::Errno;
