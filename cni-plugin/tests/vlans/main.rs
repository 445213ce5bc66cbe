//! VLANs: separate networks on one bridge. Not among the tests that `cargo test` runs: they need a
//! kernel with VLANs, and `scripts/vm` runs them under one.

#[cfg(test)]
mod networks;
#[cfg(test)]
#[expect(dead_code, reason = "the plugin's other tests use more of it")]
#[path = "../plugin/node.rs"]
mod node;
