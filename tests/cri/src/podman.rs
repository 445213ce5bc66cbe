//! Debian's podman with its CNI backend, inside a [`Node`].

use crate::containerd::{NETWORKS, PLUGINS};
use crate::image;
use crate::node::{Node, said};

const CONFIG: &str = "/run/containers.conf";

/// Podman, which has no daemon: each call is a process.
#[derive(Debug)]
pub struct Podman<'a> {
    node: &'a Node,
}

impl<'a> Podman<'a> {
    /// Configures podman in a node and gives it the image.
    ///
    /// # Errors
    /// When it can't start.
    pub fn install(node: &'a Node) -> anyhow::Result<Self> {
        node.write(CONFIG, &config())?;
        let podman = Self { node };
        image::write(&node.file("/run/image.tar"))?;
        podman.run(&["load", "--quiet", "--input=/run/image.tar"])?;
        Ok(podman)
    }

    /// Runs podman and gives what it printed.
    ///
    /// # Errors
    /// With all it said, when it fails.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.node.command("podman");
        command
            .env("CONTAINERS_CONF", CONFIG)
            .env("HOME", "/run")
            .args(["--root=/run/podman/root", "--runroot=/run/podman/run"])
            .arg("--storage-driver=vfs")
            .args(arguments);
        said(&command.output()?)
    }

    /// Starts a container that serves its own name by HTTP on port 80.
    ///
    /// # Errors
    /// When podman refuses.
    pub fn serve(&self, name: &str, more: &[&str]) -> anyhow::Result<()> {
        let cgroup = format!("--cgroup-parent={}", self.node.cgroup());
        let fixed = [
            "run",
            "--detach",
            "--name",
            name,
            "--hostname",
            name,
            &cgroup,
        ];
        self.run(&[&fixed, more, &[image::NAME], &image::SERVE].concat())?;
        self.wait(name)
    }

    /// Waits until a container serves.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn wait(&self, name: &str) -> anyhow::Result<()> {
        self.run(&[&["exec", name], &image::WAIT[..]].concat())
            .map(drop)
    }

    /// Stops a container and removes it.
    ///
    /// # Errors
    /// When podman refuses.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.run(&["rm", "--force", "--time=0", name]).map(drop)
    }
}

fn config() -> String {
    format!(
        r#"
[containers]
cgroups = "no-conmon"

[network]
network_backend = "cni"
cni_plugin_dirs = ["{PLUGINS}"]
network_config_dir = "{NETWORKS}"
default_network = "pods"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
"#
    )
}
