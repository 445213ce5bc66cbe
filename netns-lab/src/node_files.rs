//! The files a node finds on its disk: plugins, the network's configuration, the proxy's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::control_plane::Programs;
use crate::folder::{Folder, NodeFolder};
use crate::topology::{Node, Topology};

/// The names by which pods' plugins are called.
const OUR_NAMES: [&str; 2] = ["causeway-cni", "loopback"];

/// Which CNI plugins set pods up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugins {
    /// The `causeway-cni` binary at this path.
    Causeway(PathBuf),
    /// The reference plugins (`bridge`, `host-local`, `loopback`) in this folder.
    Reference(PathBuf),
}

/// What a lab is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many worker nodes.
    pub workers: u8,
    /// The proxies' `mode` (`KubeProxyConfiguration`), as `nftables`.
    pub mode: String,
    /// Who sets pods up.
    pub plugins: Plugins,
    /// The service proxy's binary; none: no service works, the cluster's DNS neither.
    pub proxy: Option<PathBuf>,
    /// The folder of a real control plane's binaries; none: the embedded API server.
    pub control_plane: Option<PathBuf>,
}

/// The mode whose programs live in cgroups and on a bpffs.
const EBPF: &str = "ebpf";

impl Settings {
    /// Whether nodes need a cgroup and a folder on a bpffs.
    pub(crate) fn ebpf(&self) -> bool {
        self.mode == EBPF
    }

    /// Checks that the binaries are there.
    ///
    /// # Errors
    /// Names the missing one and how to say where it is.
    pub fn check(&self) -> anyhow::Result<()> {
        let (plugin, flag) = match &self.plugins {
            Plugins::Causeway(path) => (path.clone(), "--cni PATH"),
            Plugins::Reference(folder) => (folder.join("bridge"), "--cni FOLDER"),
        };
        let proxy = self
            .proxy
            .iter()
            .map(|path| (path.clone(), "--proxy PATH or --no-proxy"));
        for (path, flag) in std::iter::once((plugin, flag)).chain(proxy) {
            let shown = path.display();
            ensure!(
                path.is_file(),
                "there is no {shown}; build it, or say where it is: {flag}"
            );
        }
        if let Some(folder) = &self.control_plane {
            Programs::of_folder(folder)?;
        }
        Ok(())
    }
}

/// Writes every node's files, but those that say how the API server is reached.
///
/// # Errors
/// The first that can't be written.
pub(crate) fn write(
    folder: &Folder,
    topology: &Topology,
    settings: &Settings,
) -> anyhow::Result<()> {
    for node in &topology.nodes {
        let files = folder.node(&node.name);
        let write = || -> anyhow::Result<()> {
            link_plugins(&files.cni_bin(), &settings.plugins)?;
            let conflist = conflist(&settings.plugins, node, &files);
            put(&files.conflist(), &format!("{conflist:#}\n"))?;
            put(&files.proxy_config(), &proxy_config(&settings.mode, &files))
        };
        write().with_context(|| format!("writing the files of node {}", node.name))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn link_plugins(bin: &Path, plugins: &Plugins) -> anyhow::Result<()> {
    fs::create_dir_all(bin)?;
    let links: Vec<(String, PathBuf)> = match plugins {
        Plugins::Causeway(path) => OUR_NAMES
            .iter()
            .map(|name| ((*name).to_owned(), path.clone()))
            .collect(),
        Plugins::Reference(folder) => {
            let names = ["bridge", "host-local", "loopback"];
            names
                .iter()
                .map(|name| ((*name).to_owned(), folder.join(name)))
                .collect()
        }
    };
    for (name, target) in links {
        symlink(std::path::absolute(target)?, bin.join(name))?;
    }
    Ok(())
}

/// The configuration list that a real node has in `/etc/cni/net.d`.
fn conflist(plugins: &Plugins, node: &Node, files: &NodeFolder) -> Value {
    let kind = match plugins {
        Plugins::Causeway(_) => "causeway-cni",
        Plugins::Reference(_) => "bridge",
    };
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "causeway",
        "plugins": [{
            "type": kind,
            "bridge": "cni0",
            "isDefaultGateway": true,
            "hairpinMode": true,
            // Pods see each other's own addresses, across nodes, too.
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": files.cni_data(),
                "ranges": [
                    [{"subnet": node.pods_v4}],
                    [{"subnet": node.pods_v6}],
                ],
            },
        }],
    })
}

/// What kubeadm would write for kube-proxy, as YAML (JSON is YAML).
fn proxy_config(mode: &str, files: &NodeFolder) -> String {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clusterCIDR": "10.244.0.0/16,fd00:10:244::/48",
        "clientConnection": {"kubeconfig": files.kubeconfig()},
        "healthzBindAddress": "0.0.0.0:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        // Only the machine's own namespace may set how many connections are tracked.
        "conntrack": {"maxPerCore": 0, "min": 0},
    });
    format!("{config:#}\n")
}
