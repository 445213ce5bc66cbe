//! The eBPF program of packets on a real kernel, its maps filled by hand: where packets go, and what
//! comes back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail the test"
)]

mod bed;
mod fragments;
mod frames;
mod maps;
mod servers;
mod single;
mod traffic;
mod tunnel;
mod turned;
mod turning;
