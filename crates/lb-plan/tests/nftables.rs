//! The nftables planner against a strict kernel in memory.

#[path = "nftables/cluster.rs"]
mod cluster;
#[path = "nftables/counts.rs"]
mod counts;
#[path = "nftables/goldens.rs"]
mod goldens;
#[path = "nftables/model.rs"]
mod model;
#[path = "nftables/node.rs"]
mod node;
#[path = "nftables/properties.rs"]
mod properties;
