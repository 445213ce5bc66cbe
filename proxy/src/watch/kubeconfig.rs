//! A kubeconfig: where the API server is, and who we are to it.

use std::io;
use std::path::Path;

use kube::Config;
use kube::config::Kubeconfig;

use crate::file;

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is no YAML, or a field is of the wrong type.
    #[error("{0}")]
    Yaml(String),
    /// The cluster's `server` is no URL of a server.
    #[error(
        "server {url:?}: no http:// or https:// in front; accepted: a URL as https://10.0.0.1:6443"
    )]
    Server {
        /// The value found.
        url: String,
    },
    /// A file that it names is longer than any such file, or no file.
    #[error("{field} {path:?}: no file of at most {} bytes", file::LONGEST)]
    Named {
        /// The field that names it.
        field: &'static str,
        /// Its path.
        path: String,
    },
    /// There is no such context or cluster, or what they say cannot be used.
    #[error(transparent)]
    Meaning(kube::config::KubeconfigError),
}

impl From<kube::config::KubeconfigError> for KubeconfigError {
    fn from(error: kube::config::KubeconfigError) -> Self {
        match error {
            kube::config::KubeconfigError::Parse(error) => Self::Yaml(file::trouble(&error)),
            other => Self::Meaning(other),
        }
    }
}

/// What the kubeconfig at `path` says.
pub(super) fn read(path: &Path) -> Result<Config, KubeconfigError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    said(&file::text(path)?, folder)
}

/// The way to the API server by the current context of `text`, a kubeconfig in `folder`. Nothing is
/// run and nothing is sent; of the files that it names the cluster's certificate is read.
///
/// # Errors
/// See [`KubeconfigError`].
pub fn said(text: &str, folder: &Path) -> Result<Config, KubeconfigError> {
    let mut kubeconfig = Kubeconfig::from_yaml(text)?;
    for (field, path) in files(&mut kubeconfig) {
        absolute(path, folder);
        if let Some(path) = path {
            bounded(field, path)?;
        }
    }
    for command in commands(&mut kubeconfig) {
        absolute(command, folder);
    }
    let config = Config::try_from(kubeconfig)?;
    // kube would panic at a request to a URL without a scheme.
    match config.cluster_url.scheme_str() {
        Some("http" | "https") => Ok(config),
        _ => Err(KubeconfigError::Server {
            url: config.cluster_url.to_string(),
        }),
    }
}

/// What names a file, relative to the kubeconfig's folder.
fn files(kubeconfig: &mut Kubeconfig) -> impl Iterator<Item = (&'static str, &mut Option<String>)> {
    let clusters = kubeconfig.clusters.iter_mut();
    let clusters = clusters.filter_map(|named| named.cluster.as_mut());
    let users = kubeconfig.auth_infos.iter_mut();
    let users = users.filter_map(|named| named.auth_info.as_mut());
    let certificates = clusters.map(|cluster| {
        let path = &mut cluster.certificate_authority;
        ("certificate-authority", path)
    });
    certificates.chain(users.flat_map(|user| {
        [
            ("client-certificate", &mut user.client_certificate),
            ("client-key", &mut user.client_key),
            ("tokenFile", &mut user.token_file),
        ]
    }))
}

/// Programs that are named with a path: relative to that folder, too
/// (`GetAuthInfoFileReferences` in client-go's `clientcmd`).
fn commands(kubeconfig: &mut Kubeconfig) -> impl Iterator<Item = &mut Option<String>> {
    let users = kubeconfig.auth_infos.iter_mut();
    let users = users.filter_map(|named| named.auth_info.as_mut());
    let commands = users.filter_map(|user| Some(&mut user.exec.as_mut()?.command));
    commands.filter(|command| command.as_ref().is_some_and(|name| name.contains('/')))
}

fn absolute(path: &mut Option<String>, folder: &Path) {
    let named = path.take().filter(|path| !path.is_empty());
    *path = named.map(|path| {
        let full = folder.join(&path).into_os_string().into_string();
        full.unwrap_or(path)
    });
}

/// Whether kube, which reads files whole, may read this one; one that isn't there it complains about
/// itself, if it is needed.
fn bounded(field: &'static str, path: &str) -> Result<(), KubeconfigError> {
    match std::fs::metadata(path) {
        Ok(file) if !file.is_file() || file.len() > file::LONGEST as u64 => {
            let path = path.to_owned();
            Err(KubeconfigError::Named { field, path })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]
users:
- name: u
  user:
    tokenFile: token
    client-key: /pki/key
    exec: {apiVersion: client.authentication.k8s.io/v1, command: ./login}
";

    fn said_in_etc(text: &str) -> Result<Config, String> {
        said(text, Path::new("/etc/kubernetes")).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_relative_to_the_folder() {
        let user = said_in_etc(FILE).unwrap().auth_info;
        assert_eq!(user.token_file.unwrap(), "/etc/kubernetes/token");
        assert_eq!(user.client_key.unwrap(), "/pki/key");
        let command = user.exec.unwrap().command;
        assert_eq!(command.unwrap(), "/etc/kubernetes/./login");
        let found_in_path = FILE.replace("./login", "login");
        let user = said_in_etc(&found_in_path).unwrap().auth_info;
        assert_eq!(user.exec.unwrap().command.unwrap(), "login");
    }

    /// kube's client panics at the first request to such a server.
    #[test]
    fn a_server_needs_a_scheme() {
        for server in ["10.0.0.1:6443", "localhost", "/api", "ftp://10.0.0.1"] {
            let text = FILE.replace("https://10.0.0.1:6443", server);
            let error = said_in_etc(&text).unwrap_err();
            assert!(
                error.starts_with(&format!("server {server:?}: ")) || server.starts_with("ftp"),
                "{error}"
            );
            assert!(error.ends_with("accepted: a URL as https://10.0.0.1:6443"));
        }
    }

    #[test]
    fn a_mistake_does_not_show_the_credentials_around_it() {
        let text = FILE.replace("tokenFile: token", "token: \"hunter2\n    tokenFile: [3]");
        let error = said_in_etc(&text).unwrap_err();
        assert_eq!(error, "line 7 column 12: unclosed quote");
    }

    #[test]
    fn a_file_without_an_end_is_not_read() {
        let text = FILE.replace("tokenFile: token", "tokenFile: /dev/zero");
        let error = said_in_etc(&text).unwrap_err();
        assert_eq!(
            error,
            "tokenFile \"/dev/zero\": no file of at most 1048576 bytes"
        );
    }
}
