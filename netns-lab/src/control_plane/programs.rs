//! Where etcd's and the API server's binaries are.

use std::path::{Path, PathBuf};

use anyhow::ensure;

/// The environment variable that names their folder. It is the one that the Kubernetes projects'
/// own test tools use (`setup-envtest`), so a folder that those made will do.
pub const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The binaries of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub(super) etcd: PathBuf,
    pub(super) apiserver: PathBuf,
}

impl Programs {
    /// The binaries `etcd` and `kube-apiserver` of a folder.
    ///
    /// # Errors
    /// Names the one that is missing.
    pub fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        ensure!(
            folder.is_dir(),
            "there is no folder {}; it must hold etcd and kube-apiserver",
            folder.display()
        );
        let program = |name: &str| {
            let path = std::path::absolute(folder.join(name))?;
            ensure!(
                path.is_file(),
                "there is no {name} in {}; it must hold etcd and kube-apiserver",
                folder.display()
            );
            Ok(path)
        };
        Ok(Self {
            etcd: program("etcd")?,
            apiserver: program("kube-apiserver")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |folder: &Path| Programs::of_folder(folder).unwrap_err().to_string();
        let nowhere = folder.path().join("nowhere");
        assert!(error(&nowhere).contains(&nowhere.display().to_string()));
        assert!(error(folder.path()).starts_with("there is no etcd in "));
        std::fs::write(folder.path().join("etcd"), "").unwrap();
        assert!(error(folder.path()).starts_with("there is no kube-apiserver in "));
        std::fs::write(folder.path().join("kube-apiserver"), "").unwrap();
        assert!(Programs::of_folder(folder.path()).is_ok());
    }
}
