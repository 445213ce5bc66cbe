//! The nftables planner against a strict kernel in memory.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these helpers can't do fails the test"
)]

#[path = "nftables/agree.rs"]
mod agree;
#[path = "nftables/cluster.rs"]
mod cluster;
#[path = "nftables/counts.rs"]
mod counts;
#[path = "golden/golden.rs"]
mod golden;
#[path = "nftables/goldens.rs"]
mod goldens;
#[path = "nftables/model.rs"]
mod model;
#[path = "nftables/node.rs"]
mod node;
#[path = "nftables/properties.rs"]
mod properties;
