//! Those who are measured: two nodes, with somebody's Services or without.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use causeway_tests::attempt;
use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::{Proxy, wait_until};
use netns_lab::apiserver::{ApiServer, kubeconfig};
use nodekit::netns::NetNs;
use tempfile::TempDir;

use crate::cluster::{Cluster, NODES, PODS};
use crate::interrupt::Interrupt;
use crate::load::{Kind, Manner, Server, Slice};
use crate::objects::witnesses;
use crate::rows::{Road, Row};

/// Far above what is needed, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// kube-proxy takes minutes for what is seconds here.
const PEER_PATIENCE: Duration = Duration::from_secs(20 * 60);
/// A Service that is not programmed yet swallows the packet.
const ATTEMPT: Duration = Duration::from_millis(100);

/// What a kube-proxy must leave alone on a node that is a network namespace.
const PEER_FLAGS: [&str; 4] = [
    "--conntrack-max-per-core=0",
    "--conntrack-min=0",
    "--conntrack-tcp-timeout-established=0s",
    "--conntrack-tcp-timeout-close-wait=0s",
];

/// A mode of ours.
pub(crate) const EBPF: &str = "ebpf";
/// The same with ClusterIPs for sockets only, where nothing can be reached from outside: no interface
/// has a program then.
pub(crate) const SOCKETS_ONLY: &str = "ebpf-sockets";

/// The same with packets that no Service is concerned with left to the stack.
pub(crate) const BY_STACK: &str = "ebpf-by-stack";

/// All of them.
pub(crate) const EBPF_MODES: [&str; 3] = [EBPF, SOCKETS_ONLY, BY_STACK];

const SOCKETS_FLAGS: [&str; 1] = ["--ebpf-external-cluster-ips=false"];
const STACK_FLAGS: [&str; 1] = ["--ebpf-host-routing=false"];

/// Whose Services, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// Nobody's: what a node without rules can do.
    Bare,
    /// causeway-proxy in this mode.
    Own { mode: String, services: usize },
    /// A kube-proxy in this mode.
    Peer {
        program: PathBuf,
        mode: String,
        services: usize,
    },
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare => write!(f, "bare"),
            Self::Own { mode, services } => write!(f, "{mode}, {services} Services"),
            Self::Peer { mode, services, .. } => {
                write!(f, "peer in mode {mode}, {services} Services")
            }
        }
    }
}

/// A cluster under a plane; gone when dropped.
pub(crate) struct Contender {
    pub(crate) plane: Plane,
    manner: Manner,
    // These end before their cgroups and namespaces go.
    _servers: [Server; 2],
    _proxies: Vec<Proxy>,
    /// The nodes' cgroups: everybody has them, since a switch between the threads of two costs
    /// time.
    cells: [Cell; 2],
    cluster: Cluster,
    _folder: TempDir,
}

impl Contender {
    /// A cluster whose Services all work; `api` has them.
    pub(crate) fn start(
        plane: &Plane,
        api: &ApiServer,
        manner: Manner,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::new()?;
        let cells = [Cell::new(), Cell::new()];
        let [one, two] = &cells;
        let near = one.inside(|| manner.serve(&cluster.near))?;
        let far = two.inside(|| manner.serve(&cluster.far))?;
        let folder = tempfile::tempdir()?;
        let mut proxies = Vec::new();
        for ((name, node), cell) in NODES.iter().zip(&cluster.nodes).zip(&cells) {
            let Some(mut command) = plane.command(cell) else {
                continue;
            };
            let kubeconfig = kubeconfig_inside(api, node, &folder.path().join(name))?;
            command.arg("--kubeconfig").arg(kubeconfig);
            command.args(["--hostname-override", name, "--cluster-cidr", PODS]);
            proxies.push(Proxy::spawn(node, command, folder.path())?);
        }
        let contender = Self {
            plane: plane.clone(),
            manner,
            _servers: [near, far],
            _proxies: proxies,
            cells,
            cluster,
            _folder: folder,
        };
        contender.wait_until_it_works(interrupt)?;
        Ok(contender)
    }

    /// One slice of a row; of the bare cluster it is what the row is compared with.
    pub(crate) fn slice(&self, row: Row) -> anyhow::Result<Slice> {
        let to = match self.plane {
            Plane::Bare => row.road.limit(row.kind),
            _ => row.road.target(row.kind),
        };
        let slice = self.at_the_client(row.road, || self.manner.run(row.kind, to))?;
        slice.with_context(|| format!("{}: {row}, {to}", self.plane))
    }

    /// Runs `act` as a process of a pod on the first node, or outside.
    fn at_the_client<T: Send>(
        &self,
        road: Road,
        act: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        if road.is_from_outside() {
            return Ok(self.cluster.outside.run(act)?);
        }
        let [cell, _] = &self.cells;
        Ok(cell.inside(|| self.cluster.client.run(act))?)
    }

    fn wait_until_it_works(&self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let (services, patience) = match self.plane {
            Plane::Bare => (0, PATIENCE),
            Plane::Own { services, .. } => (services, PATIENCE),
            Plane::Peer { services, .. } => (services, PEER_PATIENCE),
        };
        let kind = Kind::Connection;
        let roads = Road::ALL.into_iter().filter(|road| self.plane.has(*road));
        let roads = roads.map(|road| match self.plane {
            Plane::Bare => (road, road.limit(kind)),
            _ => (road, road.target(kind)),
        });
        let others = witnesses(services).map(|to| (Road::VipNear, to));
        for (road, to) in roads.chain(others) {
            let works = || {
                let works = self.at_the_client(road, || attempt(to, ATTEMPT).is_ok());
                matches!(works, Ok(true)) || interrupt.came()
            };
            let what = format!("way to {to} ({})", self.plane);
            wait_until(&what, patience, works)?;
        }
        interrupt.check()
    }
}

impl Plane {
    /// Whether something can be reached from outside, by a node port.
    pub(crate) fn is_reachable(&self) -> bool {
        !matches!(self, Self::Own { mode, .. } if mode == SOCKETS_ONLY)
    }

    /// Whether there is such a way.
    pub(crate) fn has(&self, road: Road) -> bool {
        self.is_reachable() || !road.is_from_outside()
    }

    /// The program for the node of a cell.
    fn command(&self, cell: &Cell) -> Option<Command> {
        let own = || causeway_tests::binary("causeway-proxy");
        let (program, mode, flags) = match self {
            Self::Bare => return None,
            Self::Own { mode, .. } if mode == SOCKETS_ONLY => (own(), EBPF, &SOCKETS_FLAGS[..]),
            Self::Own { mode, .. } if mode == BY_STACK => (own(), EBPF, &STACK_FLAGS[..]),
            Self::Own { mode, .. } => (own(), mode.as_str(), &[][..]),
            Self::Peer { program, mode, .. } => (program.clone(), mode.as_str(), &PEER_FLAGS[..]),
        };
        let mut command = Command::new(program);
        command.arg("--proxy-mode").arg(mode).args(flags);
        if mode == EBPF {
            let options = cell.options();
            command.arg("--ebpf-pin-dir").arg(&options.pins);
            let cgroup = options.cgroup_root.as_ref();
            command.args(cgroup.map(|folder| format!("--ebpf-cgroup-root={}", folder.display())));
        }
        Some(command)
    }
}

/// Serves the API on a node's loopback; gives the file that says where.
fn kubeconfig_inside(api: &ApiServer, node: &NetNs, base: &Path) -> anyhow::Result<PathBuf> {
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    let address = api.serve(node.run(|| std::net::TcpListener::bind(loopback))??)?;
    let path = base.with_extension("kubeconfig");
    std::fs::write(&path, kubeconfig(&format!("http://{address}")))?;
    Ok(path)
}
