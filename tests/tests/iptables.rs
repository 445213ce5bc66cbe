//! The iptables data plane on a real kernel, in both variants: how it starts, changes, fails and
//! ends. Where packets go is shown by the scenarios.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

#[path = "iptables/changes.rs"]
mod changes;
#[path = "iptables/drift.rs"]
mod drift;
#[path = "iptables/faults.rs"]
mod faults;
#[path = "iptables/invalid.rs"]
mod invalid;
#[path = "iptables/proxy.rs"]
mod proxy;
#[path = "iptables/restart.rs"]
mod restart;
#[path = "nftables/world.rs"]
mod world;
