//! The decisions of the eBPF programs: which backend a socket gets, and what it believes to talk
//! to; what becomes of a packet, byte for byte. It never touches a map, a clock, a route, a packet or
//! a socket itself: those come as traits, from the kernel in `ebpf/prog` and from a test here.
//!
//! The verifier follows every path, so there is nothing here that can panic: no index, no
//! division by what may be zero.

#![no_std]

mod begin;
mod bind;
pub mod checksum;
mod choice;
mod connect;
mod fragment;
mod limit;
mod onward;
pub mod packet;
pub mod prefilter;
pub mod refusal;
pub mod rewrite;
mod socket;
mod straight;
mod track;
mod turn;

pub use begin::{account, begin};
pub use bind::may_bind;
pub use connect::{Sockets, believed, close, connect};
pub use fragment::{first_fragment, later_fragment, stray};
pub use limit::Limit;
pub use onward::{Routes, Verdict, Way, Work, find_way, go_on, words};
pub use socket::{Aim, Answer, Caller, Kernel, Socket, Tables, send};
pub use straight::may_go_straight;
pub use track::{Added, PacketTables, answer_to, follow, settle};
pub use turn::{may_be_unfinished, turn};

#[cfg(test)]
mod tests;
