//! The nftables data plane on a real kernel: packets through namespaces.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

#[path = "nftables/changes.rs"]
mod changes;
#[path = "nftables/drift.rs"]
mod drift;
#[path = "nftables/faults.rs"]
mod faults;
#[path = "nftables/proxy.rs"]
mod proxy;
#[path = "nftables/restart.rs"]
mod restart;
#[path = "nftables/traffic.rs"]
mod traffic;
#[path = "nftables/world.rs"]
mod world;
