//! Placeholder.
mod host_local;
fn main() {}
