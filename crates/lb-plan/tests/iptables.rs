//! The iptables planner against strict tables in memory.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these helpers can't do fails the test"
)]

#[path = "iptables/counts.rs"]
mod counts;
#[path = "golden/golden.rs"]
mod golden;
#[path = "iptables/goldens.rs"]
mod goldens;
#[path = "iptables/model.rs"]
mod model;
#[path = "iptables/node.rs"]
mod node;
