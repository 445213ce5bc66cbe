//! The plugin under real container runtimes. It never runs in production, and never touches the
//! machine's own network, containers or cgroups other than those it makes.

pub mod bed;
pub mod containerd;
pub mod cri;
pub mod image;
pub mod network;
pub mod node;
pub mod podman;
