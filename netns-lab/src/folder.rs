//! A lab's run folder: where everything that must outlive a process is.

use std::path::{Path, PathBuf};

/// Where labs are kept unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/netns-lab";

/// The paths inside one lab's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder of the lab of this name below `run_dir`.
    ///
    /// # Errors
    /// When the name isn't one: lower-case letters, digits and hyphens, at most 40.
    pub fn new(run_dir: &Path, name: &str) -> anyhow::Result<Self> {
        let accepted =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        anyhow::ensure!(
            !name.is_empty() && name.len() <= 40 && name.bytes().all(accepted),
            "lab name {name:?}; accepted: up to 40 lower-case letters, digits and hyphens"
        );
        // A daemon works in another folder than its starter.
        let run_dir = std::path::absolute(run_dir)?;
        Ok(Self {
            root: run_dir.join(name),
        })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.root.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// What the lab consists of, for those who come later.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// What the daemon says.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// For `kubectl` on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Where the namespaces are bound to names.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Data, keys and logs of a real control plane.
    #[must_use]
    pub fn control_plane(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// The bpffs of a lab in mode ebpf.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// Where a node's proxy pins its maps and programs (`/sys/fs/bpf/causeway` on a real node).
    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        self.bpffs().join(node)
    }

    /// What a real node would have on its disk.
    #[must_use]
    pub fn node(&self, name: &str) -> NodeFolder {
        NodeFolder {
            root: self.root.join("nodes").join(name),
        }
    }

    /// A pod's files: resolver configuration, log.
    #[must_use]
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }
}

/// A node's files.
#[derive(Debug, Clone)]
pub struct NodeFolder {
    root: PathBuf,
}

impl NodeFolder {
    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the plugins are (`/opt/cni/bin` on a real node).
    #[must_use]
    pub fn cni_bin(&self) -> PathBuf {
        self.root.join("cni/bin")
    }

    /// The network's configuration (`/etc/cni/net.d/10-causeway.conflist`).
    #[must_use]
    pub fn conflist(&self) -> PathBuf {
        self.root.join("cni/net.d/10-causeway.conflist")
    }

    /// Where host-local keeps which addresses are taken (`/var/lib/cni/networks`).
    #[must_use]
    pub fn cni_data(&self) -> PathBuf {
        self.root.join("cni/networks")
    }

    /// What plugins answered to ADD, kept for DEL (`/var/lib/cni/results`).
    #[must_use]
    pub fn cni_results(&self) -> PathBuf {
        self.root.join("cni/results")
    }

    /// The way to the API server from inside the node.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The service proxy's token, where the API server asks for one
    /// (`/var/run/secrets/kubernetes.io/serviceaccount/token`).
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The service proxy's configuration (`KubeProxyConfiguration`).
    #[must_use]
    pub fn proxy_config(&self) -> PathBuf {
        self.root.join("proxy.yaml")
    }

    /// What the service proxy says.
    #[must_use]
    pub fn proxy_log(&self) -> PathBuf {
        self.root.join("proxy.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_the_run_folder() {
        for bad in ["", ".", "..", "a/b", "A", "ü", &"x".repeat(41)] {
            let error = Folder::new(Path::new("/run/labs"), bad).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
        let folder = Folder::new(Path::new("/run/labs"), "demo-1").unwrap();
        assert_eq!(folder.root(), Path::new("/run/labs/demo-1"));
        assert_eq!(folder.name(), "demo-1");
    }
}
