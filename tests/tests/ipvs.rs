//! The IPVS data plane on a real kernel: how it starts, changes and ends. Where packets go is shown
//! by the scenarios. Not among the tests that `cargo test` runs: they need a kernel with module
//! ip_vs, and `scripts/vm` runs them under one.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

#[path = "ipvs/changes.rs"]
mod changes;
#[path = "ipvs/daemon.rs"]
mod daemon;
#[path = "ipvs/leaving.rs"]
mod leaving;
#[path = "ipvs/proxy.rs"]
mod proxy;
#[path = "ipvs/restart.rs"]
mod restart;
#[path = "nftables/world.rs"]
mod world;
