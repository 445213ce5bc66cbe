//! Pods that a real containerd runs through the plugin.

mod pods;
