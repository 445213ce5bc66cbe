//! Desired frontends against what the kernel has: the operations between them, as data. It never
//! opens a socket, reads a clock or writes a log line, and it knows no netlink: who applies the
//! operations is not its business.

pub mod bpf;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
