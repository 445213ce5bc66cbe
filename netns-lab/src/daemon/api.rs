//! Who serves the lab's API: the embedded server, or a real control plane.
//!
//! Either listens in the control node's namespace for the nodes, and on loopback for this machine.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nodekit::netns::{NetNs, Worker};

use super::{control_address, on_control};
use crate::apiserver::{ApiServer, Store};
use crate::client::{Access, Client};
use crate::cluster_objects;
use crate::control_plane::{ControlPlane, Mirror, Place, Programs, Relay, account};
use crate::folder::Folder;
use crate::node_files::Settings;
use crate::topology::{API_PORT, Topology};

/// How long a proxy's token is good for; another one is in its place after half of that.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// The running API.
pub(super) struct Api {
    server: Server,
    local: SocketAddr,
}

enum Server {
    Embedded(ApiServer),
    Real(Box<Real>),
}

/// Each part needs those behind it, and is dropped before them.
struct Real {
    mirror: Mirror,
    /// Dropping it ends the thread that writes tokens.
    _tokens: mpsc::Sender<()>,
    _relay: Relay,
    _plane: ControlPlane,
}

impl Api {
    /// Starts it, with the objects every cluster begins with, and writes how it is reached for
    /// this machine and for every node.
    pub(super) fn start(
        folder: &Folder,
        topology: &Topology,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        match &settings.control_plane {
            None => embedded(folder, topology),
            Some(programs) => {
                real(folder, topology, programs).context("starting the real control plane")
            }
        }
    }

    /// What the lab's own components use.
    pub(super) fn store(&self) -> &Store {
        match &self.server {
            Server::Embedded(server) => server.store(),
            Server::Real(real) => real.mirror.store(),
        }
    }

    /// Where this machine reaches it.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }
}

fn embedded(folder: &Folder, topology: &Topology) -> anyhow::Result<Api> {
    let store = Store::default();
    create_objects(&store, topology, true)?;
    let api = ApiServer::start(store)?;
    let local = api.serve(TcpListener::bind("127.0.0.1:0")?)?;
    let control = control_address(topology, API_PORT)?;
    let listener = on_control(folder, topology, move || TcpListener::bind(control))?;
    api.serve(listener.with_context(|| format!("listening on {control}"))?)?;
    fs::write(folder.kubeconfig(), Access::plain(local).kubeconfig())?;
    for node in &topology.nodes {
        let kubeconfig = Access::plain(control).kubeconfig();
        fs::write(folder.node(&node.name).kubeconfig(), kubeconfig)?;
    }
    Ok(Api {
        server: Server::Embedded(api),
        local,
    })
}

fn real(folder: &Folder, topology: &Topology, programs: &Path) -> anyhow::Result<Api> {
    let control = topology.nodes.first().context("a topology without nodes")?;
    let netns = NetNs::open(folder.netns().join(&control.name))?;
    let place = Place {
        netns: &netns,
        address: control.addresses.v4.into(),
        folder: folder.control_plane(),
    };
    let plane = ControlPlane::start(
        &Programs::of_folder(programs)?,
        &place,
        control_address(topology, API_PORT)?,
        &[],
    )?;
    let inside = plane.access(0)?;
    let worker = Arc::new(Worker::start(&netns)?);
    let relay = Relay::start(worker, inside.address())?;
    let local = inside.at(relay.address());
    fs::write(folder.kubeconfig(), local.kubeconfig())?;
    let mirror = Mirror::start(local.clone())?;
    create_objects(mirror.store(), topology, false)?;
    let client = Client::to(local)?;
    account::create(&client)?;
    let mut files = Vec::new();
    for node in &topology.nodes {
        let node = folder.node(&node.name);
        let kubeconfig = inside.kubeconfig_with_token_file(&node.token());
        fs::write(node.kubeconfig(), kubeconfig)?;
        files.push(node.token());
    }
    write_tokens(&client, &files)?;
    let tokens = keep_tokens(client, files)?;
    Ok(Api {
        local: relay.address(),
        server: Server::Real(Box::new(Real {
            mirror,
            _tokens: tokens,
            _relay: relay,
            _plane: plane,
        })),
    })
}

fn create_objects(
    store: &Store,
    topology: &Topology,
    with_api_service: bool,
) -> anyhow::Result<()> {
    cluster_objects::create(store, topology, with_api_service).context("the lab's own objects")
}

/// Puts a new token into each file. A reader finds the old one or the new one, never half.
fn write_tokens(client: &Client, files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let token = account::token(client, TOKEN_LIFE, None)?;
        let next = file.with_extension("next");
        fs::write(&next, token)?;
        fs::rename(&next, file).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// Writes new tokens in time, as a kubelet does for its pods, until the sender is dropped.
fn keep_tokens(client: Client, files: Vec<PathBuf>) -> anyhow::Result<mpsc::Sender<()>> {
    let (lives, ended) = mpsc::channel();
    let keep = move || {
        while ended.recv_timeout(TOKEN_LIFE / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Err(error) = write_tokens(&client, &files) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "no new tokens for the proxies"
                );
            }
        }
    };
    thread::Builder::new()
        .name("tokens".to_owned())
        .spawn(keep)?;
    Ok(lives)
}
