//! The namespace, its addresses, its API server and what answers behind the endpoints.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::Context;
use netns_lab::apiserver::{ApiServer, Resource, Store, StoreOptions, kubeconfig};
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Route, RouteKind, TABLE_LOCAL};
use tempfile::TempDir;

use super::objects;
use super::process::Proxy;
use crate::settle;

/// Name of the Node that the proxy acts for.
pub const NODE_NAME: &str = "node-1";
/// Its primary address.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const NODE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 1);
/// On every endpoint address these ports answer with their own number, as text.
pub const PORTS: [u16; 2] = [8081, 8082];
/// On every endpoint address this port sends back what it gets.
pub const ECHO_PORT: u16 = 8090;

/// Every address of these is an endpoint that answers.
const PODS: [&str; 2] = ["10.240.0.0/12", "fd00:240::/32"];
/// Every address of these may be a ClusterIP: there is a route towards them, and nothing behind it.
const VIPS: [&str; 2] = ["10.96.0.0/12", "fd00:96::/32"];

/// The node. Everything is gone when it is dropped.
#[derive(Debug)]
pub struct Bed {
    /// Its namespace.
    pub netns: NetNs,
    /// What the API server serves.
    pub store: Store,
    server: Option<ApiServer>,
    api: SocketAddr,
    folder: TempDir,
}

impl Bed {
    /// A node with its Node object and an API server, without Services and without a proxy.
    ///
    /// # Errors
    /// The kernel refuses a namespace (root is needed), an address or a route.
    pub fn new() -> anyhow::Result<Self> {
        let netns = NetNs::anonymous()?;
        set_up_addresses(&mut Handle::open_in(&netns)?)?;
        settle(&netns)?;
        for port in PORTS {
            let text = port.to_string();
            listen(&netns, port, move |mut stream| {
                drop(stream.write_all(text.as_bytes()));
            })?;
        }
        listen(&netns, ECHO_PORT, echo)?;
        let store = Store::new(StoreOptions::default());
        store.seed(Resource::Node, [objects::node()])?;
        let server = ApiServer::start(store.clone())?;
        let api = server.serve(bind(&netns, (Ipv4Addr::LOCALHOST, 0).into())?)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(
            folder.path().join("kubeconfig"),
            kubeconfig(&format!("http://{api}")),
        )?;
        Ok(Self {
            netns,
            store,
            server: Some(server),
            api,
            folder,
        })
    }

    /// A folder for files, gone with the node.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The running API server.
    ///
    /// # Errors
    /// It was stopped.
    pub fn server(&self) -> anyhow::Result<&ApiServer> {
        self.server.as_ref().context("the API server is stopped")
    }

    /// Stops the API server: connections end, new ones are refused.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Starts it again, on the same address and store.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        let server = ApiServer::start(self.store.clone())?;
        server.serve(bind(&self.netns, self.api)?)?;
        self.server = Some(server);
        Ok(())
    }

    /// Starts the proxy with flags besides those that name the API server and the Node.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn proxy(&self, flags: &[&str]) -> anyhow::Result<Proxy> {
        self.program(&crate::binary("causeway-proxy"), flags)
    }

    /// As [`Bed::proxy`], with another program that takes kube-proxy's flags.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn program(&self, program: &Path, flags: &[&str]) -> anyhow::Result<Proxy> {
        self.command(Command::new(program), flags)
    }

    /// As [`Bed::program`], by a command that has words already: another program that executes the
    /// proxy, for example.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn command(&self, command: Command, flags: &[&str]) -> anyhow::Result<Proxy> {
        Proxy::start(self, command, flags)
    }
}

fn set_up_addresses(handle: &mut Handle) -> anyhow::Result<()> {
    let lo = handle.link_by_name("lo")?.index;
    handle.set_up(lo)?;
    let own = [(IpAddr::from(NODE_IP), 32), (IpAddr::from(NODE_IP6), 128)];
    for (ip, length) in own {
        handle.add_address(&Address::new(lo, format!("{ip}/{length}").parse()?))?;
    }
    for network in PODS {
        let local = Route::to(network.parse()?);
        let table = TABLE_LOCAL;
        handle.add_route(&Route {
            kind: RouteKind::Local,
            table,
            link: Some(lo),
            ..local
        })?;
    }
    for (network, (source, _)) in VIPS.into_iter().zip(own) {
        let towards = Route::to(network.parse()?);
        handle.add_route(&Route {
            source: Some(source),
            link: Some(lo),
            ..towards
        })?;
    }
    Ok(())
}

fn bind(netns: &NetNs, address: SocketAddr) -> anyhow::Result<TcpListener> {
    netns
        .run(|| TcpListener::bind(address))?
        .with_context(|| format!("listening on {address}"))
}

/// Serves `port` on every address, of both families, until the process ends.
fn listen(
    netns: &NetNs,
    port: u16,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let listener = bind(netns, (Ipv6Addr::UNSPECIFIED, port).into())?;
    thread::Builder::new()
        .name(format!("port-{port}"))
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                if port == ECHO_PORT {
                    thread::spawn(move || serve(stream));
                } else {
                    serve(stream);
                }
            }
        })?;
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
