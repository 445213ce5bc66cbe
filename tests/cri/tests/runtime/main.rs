//! Pods that a real containerd runs through the plugin.

mod calls;
mod crowd;
mod outages;
mod podman;
mod traffic;
mod world;
