//! A Kubernetes cluster's network on one machine, for learning, demonstrations and tests.
//!
//! It never changes the machine's own network: everything happens in network namespaces bound
//! inside the lab's run folder; of the machine itself a lab uses one loopback port and that
//! folder. It never links the plugin or the proxy either: it runs the real binaries, as a node
//! does.
//!
//! A lab is a run folder ([`Folder`]) and a daemon ([`daemon`]) that serves the API
//! ([`apiserver`]), keeps EndpointSlices in step ([`controller`]), answers names ([`dns`]), runs
//! pods and proxies. [`Lab`] is the handle: it starts the daemon and talks to it, from any
//! process. [`teardown`] needs nothing but the folder, so that it works after every crash.

pub mod apiserver;
mod background;
mod cgroups;
pub mod client;
mod cluster_objects;
mod cni;
pub mod control_plane;
pub mod controller;
pub mod daemon;
pub mod dns;
pub mod folder;
mod kubelet;
mod lab;
mod network;
mod node_files;
pub mod process;
mod proxies;
mod scheduler;
mod spawner;
pub mod state;
pub mod teardown;
pub mod topology;

pub use folder::Folder;
pub use lab::{Lab, Options};
pub use network::CLIENT;
pub use node_files::{Plugins, Settings};
