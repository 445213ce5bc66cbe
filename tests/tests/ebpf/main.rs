//! The eBPF data plane on a real kernel: what a socket sees of it, and how the programs outlive
//! the daemon. Where packets go is shown by the scenarios.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail the test"
)]

mod affinity;
mod auto;
mod binding;
mod changes;
mod clsact;
mod cluster;
mod connected;
mod counts;
mod daemon;
mod direct;
mod dump;
mod handing_over;
mod leaving;
mod load;
mod looks;
mod maglev;
mod monitor;
mod names;
mod node;
mod others;
mod outside;
mod peers;
mod places;
mod presence;
mod privileges;
mod restart;
mod sizes;
mod straight;
mod tracks;
mod traffic;
mod upgrade;
mod ways;
#[path = "../nftables/world.rs"]
#[expect(dead_code, reason = "shared with the data planes that need more of it")]
mod world;
mod xdp;
