//! Debian's containerd with runc, without systemd, inside a [`Node`].

use std::fs::File;
use std::process::{Child, Stdio};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cri::Cri;
use crate::image;
use crate::node::{Node, only_child, wait_for};

/// The folder that plugins are executed from.
pub const PLUGINS: &str = "/run/cni/bin";

/// The folder that network configurations are read from.
pub const NETWORKS: &str = "/run/cni/net.d";

/// Where containerd keeps the pods' network namespaces.
pub const NAMESPACES: &str = "/run/netns";

/// A runtime handler that can't start anything: its program doesn't exist.
pub const BROKEN_HANDLER: &str = "broken";

const CONFIG: &str = "/run/containerd.toml";
const SOCKET: &str = "/run/containerd/containerd.sock";
const LOG: &str = "/run/containerd.log";

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    process: Child,
    pid: u32,
}

impl Containerd {
    /// Configures containerd in a node, starts it and gives it the image.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn install(node: &Node) -> anyhow::Result<(Self, Cri)> {
        node.write(CONFIG, &config())?;
        let containerd = Self::start(node)?;
        let cri = Cri::connect(&node.file(SOCKET))?;
        cri.wait_until_ready()?;
        image::write(&node.file("/run/image.tar"))?;
        let import = ["--namespace=k8s.io", "images", "import", "/run/image.tar"];
        node.run("ctr", &[&["--address", SOCKET], &import[..]].concat())?;
        Ok((containerd, cri))
    }

    /// Starts containerd, a first time or again.
    ///
    /// # Errors
    /// When its process can't be made.
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(node.file(LOG))?;
        let mut command = node.command("containerd");
        command
            .args(["--config", CONFIG])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().context("nsenter")?;
        let pid = only_child(process.id())?;
        Ok(Self { process, pid })
    }

    /// SIGKILL: it can't say goodbye. Its containers go on.
    ///
    /// # Errors
    /// When it had ended already.
    pub fn kill(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGKILL)?;
        // That which entered the namespaces for it ends with it.
        self.process.wait()?;
        Ok(())
    }

    /// What it logged, if the node still stands.
    #[must_use]
    pub fn log(node: &Node) -> String {
        std::fs::read_to_string(node.file(LOG)).unwrap_or_default()
    }

    /// Waits until containerd has read a network configuration.
    ///
    /// # Errors
    /// When it doesn't find one good.
    pub fn wait_for_network(cri: &Cri) -> anyhow::Result<()> {
        wait_for("the network", || cri.network_ready())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A failure means that it has ended; the node takes its containers down.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.process.wait();
    }
}

/// Everything below `/run`, which is the node's own. Neither AppArmor nor a lower
/// `oom_score_adj` can be had in a container of a build machine.
fn config() -> String {
    let image = image::NAME;
    format!(
        r#"
version = 2
root = "/run/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
disable_apparmor = true
disable_tcp_service = true
restrict_oom_score_adj = true
sandbox_image = "{image}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{NETWORKS}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{BROKEN_HANDLER}]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{BROKEN_HANDLER}.options]
BinaryName = "/nonexistent/runc"
"#
    )
}
