//! How the API server is reached.

use std::path::PathBuf;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::InClusterError;
use kube::{Client, Config};

use super::bounded::BoundAnswers;
use super::count::CountRequests;
use super::kubeconfig::{self, KubeconfigError};
use crate::config::Api;
use crate::metrics::ApiRequests;

/// How long the API server is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A server that does not even answer the handshake is given up after this.
    pub connect: Duration,
    /// A connection on which nothing is heard for so long is given up, and watched anew from where
    /// it was. API servers send a bookmark about once a minute (`defaultBookmarkFrequency` in the
    /// apiserver's watch cache) on every watch that allows them, however quiet the cluster, if
    /// their etcd tells them of its progress (`--watch-progress-notify-interval`; kubeadm sets 5 s,
    /// etcd's default is 10 minutes), and answer other requests within a minute. So longer silence
    /// means that nobody is there any more, or hangs; or, without that flag, that nothing changed.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(75),
        }
    }
}

/// A way to the API server that can be found anew.
#[derive(Clone)]
pub struct Connection {
    api: Api,
    patience: Patience,
    requests: ApiRequests,
    pub(super) client: Client,
}

impl Connection {
    /// The same server with the credentials as they are now: a file that names them may have been
    /// written anew. (A token file is read again once a minute anyway.)
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(super) async fn again(&self) -> Result<Self, ClientError> {
        connect_with(&self.api, self.patience, &self.requests).await
    }
}

/// Why there is no client. (An API server that does not answer is no reason: it is tried again.)
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: KubeconfigError,
    },
    /// No kubeconfig, no `--master`, and not in a pod.
    #[error(
        "neither --kubeconfig nor --master is given, and this is no pod with a service account: {0}"
    )]
    NotInCluster(#[from] InClusterError),
    /// `--master` is no URL.
    #[error("--master {url:?}: {reason}; accepted: a URL as https://10.0.0.1:6443")]
    Master {
        /// The value found.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Certificates, tokens or proxies that cannot be used.
    #[error("API client: {0}")]
    Client(#[from] kube::Error),
}

/// A way to the API server that `api` names; what is asked of it is counted in `requests`. Nothing
/// is sent yet.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect(api: &Api, requests: &ApiRequests) -> Result<Connection, ClientError> {
    connect_with(api, Patience::default(), requests).await
}

/// As [`connect`], with other patience.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect_with(
    api: &Api,
    patience: Patience,
    requests: &ApiRequests,
) -> Result<Connection, ClientError> {
    let mut config = match (&api.kubeconfig, &api.master) {
        (Some(path), _) => kubeconfig::read(path).map_err(|source| ClientError::Kubeconfig {
            path: path.clone(),
            source,
        })?,
        (None, Some(url)) => Config::new(parse_url(url)?),
        (None, None) => Config::incluster()?,
    };
    if let Some(url) = &api.master {
        config.cluster_url = parse_url(url)?;
    }
    config.connect_timeout = Some(patience.connect);
    config.read_timeout = Some(patience.silence);
    // The watches try again themselves, and say so.
    config.default_retry = false;
    let host = config.cluster_url.authority();
    let host = host.map_or_else(String::new, ToString::to_string);
    let count = CountRequests::to(&host, requests.clone());
    let client: Client = ClientBuilder::try_from(config)?
        .with_layer(&BoundAnswers)
        .with_layer(&count)
        .build();
    Ok(Connection {
        api: api.clone(),
        patience,
        requests: requests.clone(),
        client,
    })
}

fn parse_url(url: &str) -> Result<hyper::Uri, ClientError> {
    let refuse = |reason: String| ClientError::Master {
        url: url.to_owned(),
        reason,
    };
    let uri: hyper::Uri = url.parse().map_err(|e| refuse(format!("{e}")))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(refuse("no http:// or https:// in front".to_owned())),
    }
}
