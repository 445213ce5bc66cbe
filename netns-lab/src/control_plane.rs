//! A real control plane: etcd and kube-apiserver as processes, inside one network namespace.
//!
//! There is no controller manager and no scheduler: what those would do, the lab does itself.
//! Without certificates of one's own: the API server makes its own certificate, people show a
//! token. All files are in one folder, and the processes end with this process, whatever becomes
//! of it.

pub mod account;
mod credentials;
mod mirror;
mod program;
mod programs;
mod relay;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hyper::{Method, StatusCode};
use nodekit::netns::{NetNs, Worker};
use serde_json::{Value, json};

use crate::apiserver::Resource;
use crate::client::{Access, Client};
use credentials::Credentials;
use program::Program;

pub(crate) use mirror::Mirror;
pub use programs::{Programs, VARIABLE};
pub(crate) use relay::Relay;

/// The first API server's port, and the one of Kubernetes' control nodes everywhere.
pub const PORT: u16 = crate::topology::API_PORT;
/// etcd listens on the namespace's loopback only, here for its clients and one above for peers.
const ETCD_PORT: u16 = 2379;
/// Where ClusterIPs come from, as the embedded server has it.
const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// How long a program may take until it is ready. On an idle machine it is about five seconds.
const READY: Duration = Duration::from_secs(150);
/// How often it is looked whether it is.
const GLANCE: Duration = Duration::from_millis(100);

/// Where a control plane runs.
#[derive(Debug)]
pub struct Place<'a> {
    /// The network namespace; its loopback is up.
    pub netns: &'a NetNs,
    /// The namespace's address that API servers make the endpoint of Service
    /// `default/kubernetes`; no loopback address.
    pub address: IpAddr,
    /// Where data, keys and logs go; made, and removed by whoever owns it.
    pub folder: PathBuf,
}

/// A running etcd and the API servers in front of it; all are ended when it is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped before the thread whose children they are.
    servers: Vec<Server>,
    /// `None` while it is killed.
    etcd: Option<Program>,
    programs: Programs,
    credentials: Credentials,
    netns: NetNs,
    address: IpAddr,
    folder: PathBuf,
    parent: Arc<Worker>,
}

/// One API server, whether it runs or not.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    flags: Vec<String>,
    program: Option<Program>,
}

impl ControlPlane {
    /// Starts etcd and one API server, which listens on `address` and has `flags` besides its
    /// usual ones, and waits until both are ready. Blocks.
    ///
    /// # Errors
    /// When one of them ends or isn't ready in time; with the end of its log.
    pub fn start(
        programs: &Programs,
        place: &Place<'_>,
        address: SocketAddr,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&place.folder)
            .with_context(|| format!("making {}", place.folder.display()))?;
        let credentials = Credentials::make(&place.folder)?;
        let parent = Arc::new(Worker::start(place.netns)?);
        let mut plane = Self {
            servers: Vec::new(),
            etcd: None,
            programs: programs.clone(),
            credentials,
            netns: place.netns.try_clone()?,
            address: place.address,
            folder: place.folder.clone(),
            parent,
        };
        plane.start_etcd()?;
        plane.add_server(address, flags)?;
        Ok(plane)
    }

    /// Kills etcd (SIGKILL), as a crash would; its data stays.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn kill_etcd(&mut self) -> anyhow::Result<()> {
        drop(self.etcd.take().context("etcd doesn't run")?);
        Ok(())
    }

    /// Starts a killed etcd again, with the data that it had, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs; as [`Self::start`].
    pub fn start_etcd(&mut self) -> anyhow::Result<()> {
        ensure!(self.etcd.is_none(), "etcd runs already");
        let command = etcd_command(&self.programs, &self.folder);
        let log = self.folder.join("etcd.log");
        let etcd = Program::start(&self.parent, &self.netns, command, log)?;
        let etcd = self.etcd.insert(etcd);
        let client = Client::to(Access::plain(etcd_address()))?;
        let netns = &self.netns;
        wait_until_ready(etcd, || {
            let asked = netns.run(|| client.request(Method::GET, "/health", None))?;
            Ok(matches!(asked, Ok((StatusCode::OK, _))))
        })
    }

    /// Starts another API server on the same etcd, listening here, and waits until it is ready;
    /// gives its number. The first has number 0.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn add_server(&mut self, address: SocketAddr, flags: &[&str]) -> anyhow::Result<usize> {
        let number = self.servers.len();
        self.servers.push(Server {
            address,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            program: None,
        });
        self.start_server(number)?;
        Ok(number)
    }

    /// Kills an API server (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// When there is none of this number, or it doesn't run.
    pub fn kill_server(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.servers.get_mut(number);
        let running = server.and_then(|server| server.program.take());
        drop(running.with_context(|| format!("no API server {number} runs"))?);
        Ok(())
    }

    /// Starts a killed API server again and waits until it is ready.
    ///
    /// # Errors
    /// When there is none of this number, or it runs; as [`Self::start`].
    pub fn start_server(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.servers.get(number);
        let server = server.with_context(|| format!("there is no API server {number}"))?;
        ensure!(server.program.is_none(), "API server {number} runs already");
        let command = self.server_command(server);
        let log = self.folder.join(format!("kube-apiserver-{number}.log"));
        let program = Program::start(&self.parent, &self.netns, command, log)?;
        if let Some(server) = self.servers.get_mut(number) {
            server.program = Some(program);
        }
        self.wait_for_server(number)
    }

    /// How an API server is reached inside the namespace, as somebody who may do everything.
    ///
    /// # Errors
    /// When there is none of this number, or its certificate can't be read.
    pub fn access(&self, number: usize) -> anyhow::Result<Access> {
        let server = self.servers.get(number);
        let server = server.with_context(|| format!("there is no API server {number}"))?;
        Access::secure(
            server.address,
            &self.credentials.authorities(),
            &self.credentials.token,
        )
    }

    /// Where the certificates are that the API servers' own is signed by.
    #[must_use]
    pub fn authorities(&self) -> PathBuf {
        self.credentials.authorities()
    }

    /// Makes etcd forget everything but the present, so that API servers refuse what refers to
    /// the past. (Each has a memory of its own; it is as old as the server.)
    ///
    /// # Errors
    /// When etcd refuses.
    pub fn compact(&self) -> anyhow::Result<()> {
        let status = self.ask_etcd("/v3/maintenance/status", &json!({}))?;
        let revision = status["header"]["revision"].as_str();
        let revision = revision.with_context(|| format!("no revision in {status}"))?;
        let request = json!({"revision": revision, "physical": true});
        self.ask_etcd("/v3/kv/compaction", &request).map(drop)
    }

    /// Asks etcd by its JSON gateway (etcd's documentation, "gRPC gateway").
    fn ask_etcd(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let client = Client::to(Access::plain(etcd_address()))?;
        let ask = || client.request(Method::POST, path, Some(body));
        let (status, answer) = self.netns.run(ask)??;
        ensure!(
            status.is_success(),
            "etcd refuses {path}: {status}: {answer}"
        );
        Ok(answer)
    }

    fn wait_for_server(&mut self, number: usize) -> anyhow::Result<()> {
        let netns = self.netns.try_clone()?;
        // Its certificate isn't there before its first start.
        let mut client = None;
        let access = |plane: &Self| plane.access(number).and_then(Client::to);
        let deadline = Instant::now() + READY;
        loop {
            if client.is_none() {
                client = access(self).ok();
            }
            if let Some(client) = &client
                && netns.run(|| is_complete(client))?
            {
                return Ok(());
            }
            let program = self.servers.get_mut(number);
            let program = program.and_then(|server| server.program.as_mut());
            let program = program.with_context(|| format!("no API server {number} runs"))?;
            program.check(deadline)?;
            std::thread::sleep(GLANCE);
        }
    }

    fn server_command(&self, server: &Server) -> Command {
        let Credentials { folder, .. } = &self.credentials;
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(&self.programs.apiserver);
        command
            .arg(format!("--etcd-servers=http://{}", etcd_address()))
            .arg(format!("--bind-address={}", server.address.ip()))
            .arg(format!("--advertise-address={}", self.address))
            .arg(format!("--secure-port={}", server.address.port()))
            .arg(format!("--cert-dir={}", folder.display()))
            .arg(format!("--service-cluster-ip-range={SERVICE_RANGES}"))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!(
                "--service-account-key-file={}",
                file(credentials::PUBLIC_KEY)
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file(credentials::KEY)
            ))
            .arg(format!("--token-auth-file={}", file(credentials::TOKENS)))
            .arg("--authorization-mode=RBAC")
            .arg("--allow-privileged=true")
            // A controller manager would make each namespace's account, and untaint nodes.
            .arg("--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
            .args(&server.flags);
        command
    }
}

/// Whether a server is ready and has made the namespaces that every cluster has; those it doesn't
/// wait for itself.
fn is_complete(client: &Client) -> bool {
    let there = |name| client.get(Resource::Namespace, "", name).ok().flatten();
    let mut names = ["default", "kube-system"].into_iter();
    client.is_ready() && names.all(|name| there(name).is_some())
}

fn etcd_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, ETCD_PORT).into()
}

fn etcd_command(programs: &Programs, folder: &Path) -> Command {
    let clients = format!("http://{}", etcd_address());
    let peers = format!("http://{}:{}", Ipv4Addr::LOCALHOST, ETCD_PORT + 1);
    let mut command = Command::new(&programs.etcd);
    command
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg(format!("--listen-client-urls={clients}"))
        .arg(format!("--advertise-client-urls={clients}"))
        .arg(format!("--listen-peer-urls={peers}"))
        .arg(format!("--initial-advertise-peer-urls={peers}"))
        .arg(format!("--initial-cluster=default={peers}"))
        // As kubeadm has it: without it API servers have no bookmarks for who watches what is quiet.
        .arg("--experimental-watch-progress-notify-interval=5s")
        // Nothing here has to outlive the machine.
        .arg("--unsafe-no-fsync=true");
    command
}

/// Looks again and again until `is_ready`.
fn wait_until_ready(
    program: &mut Program,
    mut is_ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY;
    while !is_ready()? {
        program.check(deadline)?;
        std::thread::sleep(GLANCE);
    }
    Ok(())
}
