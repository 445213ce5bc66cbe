//! The decisions of the eBPF programs: which backend a socket gets, and what it believes to talk
//! to; what becomes of a packet, byte for byte. It never touches a map, a clock, a route, a packet or
//! a socket itself: those come as traits, from the kernel in `ebpf/prog` and from a test here.
//!
//! The verifier follows every path, so there is nothing here that can panic: no index, no
//! division by what may be zero.

#![no_std]

mod bind;
pub mod checksum;
mod choice;
mod connect;
pub mod packet;
pub mod refusal;
pub mod rewrite;
mod socket;
mod track;

pub use bind::may_bind;
pub use connect::{Sockets, believed, close, connect};
pub use socket::{Aim, Answer, Kernel, Socket, Tables, send};
pub use track::{Added, Hop, PacketTables, Routes, Verdict, Way, answer_to, begin, follow, way};

#[cfg(test)]
mod tests;
