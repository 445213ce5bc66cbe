//! The service proxy. Never decides where a packet goes (that is `lb-model`) and never speaks
//! netlink (that is `nodekit`): it listens to the API server, says when to act, and tells how it
//! is doing.

pub mod backend;
pub mod backoff;
pub mod choice;
pub mod cli;
pub mod config;
pub mod daemon;
mod file;
pub mod health;
pub mod host_setup;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod node_ports;
pub mod privileges;
pub mod sync;
pub mod watch;
