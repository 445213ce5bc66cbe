//! How an API server is reached, and a request sent to it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::apiserver::kubeconfig_of;

/// A name that every API server's own certificate is for, whatever address it is reached by.
const SERVER_NAME: &str = "kubernetes";

/// The address of an API server, and what to show there.
#[derive(Clone)]
pub struct Access {
    address: SocketAddr,
    secure: Option<Secure>,
}

#[derive(Clone)]
struct Secure {
    authorities: PathBuf,
    token: String,
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.url())
    }
}

impl Access {
    /// To a server that asks nobody who they are.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            secure: None,
        }
    }

    /// To one whose certificate is signed by one of those in the file `authorities` (PEM), with a
    /// bearer token.
    ///
    /// # Errors
    /// When there is no certificate in the file.
    pub fn secure(address: SocketAddr, authorities: &Path, token: &str) -> anyhow::Result<Self> {
        let reading = || format!("reading the certificates in {}", authorities.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).with_context(reading)? {
            roots.add(certificate.with_context(reading)?)?;
        }
        anyhow::ensure!(!roots.is_empty(), "{}: there are none", reading());
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            address,
            secure: Some(Secure {
                authorities: authorities.to_owned(),
                token: token.to_owned(),
                config: Arc::new(config),
            }),
        })
    }

    /// What a kubeconfig that [`Self::kubeconfig`] wrote says.
    ///
    /// # Errors
    /// When it is another one, or its files are not there.
    pub fn read(kubeconfig: &Path) -> anyhow::Result<Self> {
        let read = || -> anyhow::Result<Self> {
            let config: Value = serde_json::from_slice(&std::fs::read(kubeconfig)?)?;
            let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
            let server = text("/clusters/0/cluster/server").context("no server")?;
            let (_, address) = server.split_once("://").context("the server is no URL")?;
            let address = address.parse().context("the server is no address")?;
            let authorities = text("/clusters/0/cluster/certificate-authority");
            let token = text("/users/0/user/token");
            match (authorities, token) {
                (Some(authorities), Some(token)) => {
                    Self::secure(address, Path::new(authorities), token)
                }
                _ => Ok(Self::plain(address)),
            }
        };
        read().with_context(|| format!("reading {}", kubeconfig.display()))
    }

    /// The same server by another address.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    /// Where the server is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that shows the token, as JSON, which is YAML too.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let token = self.secure.as_ref().map(|secure| &secure.token);
        self.kubeconfig_for(&token.map_or_else(|| json!({}), |token| json!({"token": token})))
    }

    /// A kubeconfig that shows the token that is in a file when it is needed.
    #[must_use]
    pub fn kubeconfig_with_token_file(&self, token: &Path) -> String {
        self.kubeconfig_for(&json!({"tokenFile": token}))
    }

    fn kubeconfig_for(&self, user: &Value) -> String {
        let mut cluster = json!({"server": self.url()});
        if let Some(secure) = &self.secure {
            cluster["certificate-authority"] = json!(secure.authorities);
            cluster["tls-server-name"] = SERVER_NAME.into();
        }
        kubeconfig_of(&cluster, user)
    }

    fn url(&self) -> String {
        let scheme = self.secure.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address)
    }

    /// Sends a request on a connection of its own, which lives as long as the answer's body.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>> {
        let host = self.address.to_string().parse()?;
        request.headers_mut().insert("host", host);
        let stream = TcpStream::connect(self.address).await?;
        let Some(secure) = &self.secure else {
            return converse(stream, request).await;
        };
        let token = format!("Bearer {}", secure.token).parse()?;
        request.headers_mut().insert(AUTHORIZATION, token);
        let connector = TlsConnector::from(secure.config.clone());
        let name = ServerName::try_from(SERVER_NAME)?;
        converse(connector.connect(name, stream).await?, request).await
    }
}

async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the body: nobody sends a second request.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_was_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        let access = Access::plain("127.0.0.1:6443".parse().unwrap());
        std::fs::write(&file, access.kubeconfig()).unwrap();
        assert_eq!(Access::read(&file).unwrap().url(), "http://127.0.0.1:6443");
        std::fs::write(&file, r#"{"clusters": []}"#).unwrap();
        let error = format!("{:#}", Access::read(&file).unwrap_err());
        assert!(error.contains("kubeconfig: no server"), "{error}");
    }

    #[test]
    fn authorities_must_be_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, "no certificate").unwrap();
        let address = "127.0.0.1:6443".parse().unwrap();
        let error = Access::secure(address, &file, "token").unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("ca.crt"), "{error}");
    }
}
