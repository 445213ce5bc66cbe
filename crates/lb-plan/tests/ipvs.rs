//! The planner of IPVS against a strict kernel in memory, rules beside included.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these helpers can't do fails the test"
)]

#[path = "nftables/agree.rs"]
mod agree;
#[path = "ipvs/changes.rs"]
mod changes;
#[path = "ipvs/model.rs"]
mod model;
#[path = "ipvs/node.rs"]
mod node;
