//! The lab's daemon: makes the network, then serves the API and looks after pods and proxies.
//!
//! Its children die with it (`PR_SET_PDEATHSIG`), however it ends; the namespaces and files stay
//! for [`crate::teardown`].

mod api;

use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use nix::mount::MsFlags;
use nodekit::netns::NetNs;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::apiserver::{Refusal, Store};
use crate::controller::EndpointSliceController;
use crate::dns::{CLUSTER_DOMAIN, ClusterDns};
use crate::folder::Folder;
use crate::kubelet::{self, Context};
use crate::node_files::{self, Settings};
use crate::process::ProcessId;
use crate::proxies::Keeper;
use crate::spawner::Spawner;
use crate::state::{Proxy, State, StateFile};
use crate::topology::Topology;
use crate::{cgroups, network, scheduler, teardown};
use api::Api;

/// The cluster DNS's port.
const DNS_PORT: u16 = 53;

/// The one line the daemon says to whoever started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Announcement {
    /// Everything is up.
    Ready,
    /// The lab could not be made; why.
    Failed(String),
}

/// Makes the lab in its folder, which exists, and keeps it until SIGTERM or SIGINT. With `tied`,
/// the end of standard input ends it too, and it then takes the lab down itself.
///
/// # Errors
/// When the lab could not be made; the announcement then said so, too.
pub fn serve(folder: &Folder, settings: &Settings, tied: bool) -> anyhow::Result<()> {
    // Out of reach of the terminal's Ctrl-C and hang-up; refused to a group's leader only.
    let _ = nix::unistd::setsid();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let made = Cluster::make(folder, settings, &runtime);
    announce(&match &made {
        Ok(_) => Announcement::Ready,
        Err(error) => Announcement::Failed(format!("{error:#}")),
    })?;
    let cluster = made?;
    let alone = runtime.block_on(wait_for_end(tied))?;
    cluster.stop(runtime);
    match alone {
        true => teardown::take_down(folder),
        false => Ok(()),
    }
}

fn announce(announcement: &Announcement) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(announcement)?)?;
    Ok(stdout.flush()?)
}

/// Waits for a signal (false) or, when tied, for the end of standard input (true).
async fn wait_for_end(tied: bool) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (end, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let input_end = if tied { Some(watch_input(end)?) } else { None };
    Ok(tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        _ = ended.recv(), if input_end.is_some() => true,
    })
}

/// A thread that drops `end` with the end of standard input. Reading is not left to the async
/// runtime, which would wait for it before it ends.
fn watch_input(end: tokio::sync::mpsc::Sender<()>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            // Nobody writes to it: reading ends with the other side's life.
            let _ = std::io::stdin().read(&mut [0]);
            drop(end);
        })
}

/// What runs while the lab does.
struct Cluster {
    _dns: ClusterDns,
    _slices: EndpointSliceController,
    _api: Api,
}

impl Cluster {
    fn make(folder: &Folder, settings: &Settings, runtime: &Runtime) -> anyhow::Result<Self> {
        let topology = Topology::new(settings.workers)?;
        let state = Arc::new(first_state(folder, &topology, settings)?);
        let cgroup = places_for_ebpf(folder, &topology, &state)?;
        network::build(&folder.netns(), &topology)?;
        node_files::write(folder, &topology, settings)?;
        let api = Api::start(folder, &topology, settings)?;
        let store = api.store().clone();
        state.update(|state| state.api = Some(api.local()))?;
        let dns = serve_dns(folder, &topology, store.clone())?;
        let slices = EndpointSliceController::start(store.clone())?;
        let spawner = Spawner::new(runtime.handle().clone())?;
        runtime.spawn(restarted("the scheduler", {
            let (store, topology) = (store.clone(), topology.clone());
            move || scheduler::run(store.clone(), topology.clone())
        }));
        let context = Arc::new(Context {
            folder: folder.clone(),
            topology: topology.clone(),
            cgroup,
            store,
            state: state.clone(),
            spawner: spawner.clone(),
        });
        runtime.spawn(kubelet::run(context.clone()));
        start_proxies(
            folder,
            &topology,
            settings,
            context.cgroup.as_deref(),
            &spawner,
            &state,
            runtime.handle(),
        )?;
        state.update(|state| state.ready = true)?;
        Ok(Self {
            _dns: dns,
            _slices: slices,
            _api: api,
        })
    }

    fn stop(self, runtime: Runtime) {
        drop(self);
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

fn first_state(
    folder: &Folder,
    topology: &Topology,
    settings: &Settings,
) -> anyhow::Result<StateFile> {
    // Whoever takes the lab down does so before this, and then there is no folder; or after it,
    // and then finds this process in the state.
    let _turn = teardown::take_turn(folder.root())?;
    let root = folder.root();
    anyhow::ensure!(
        root.exists(),
        "{} was taken down before it began",
        root.display()
    );
    let daemon = ProcessId::of(std::process::id()).context("reading /proc/self/stat")?;
    let with_proxy = topology.nodes.iter().filter(|_| settings.proxy.is_some());
    let proxies = with_proxy.map(|node| Proxy {
        node: node.name.clone(),
        process: None,
        restarts: 0,
    });
    let cgroup = settings.ebpf().then(|| cgroups::place(&folder.name()));
    let state = State {
        topology: topology.clone(),
        mode: settings.mode.clone(),
        cgroup: cgroup.transpose()?,
        daemon,
        api: None,
        ready: false,
        proxies: proxies.collect(),
        sandboxes: Vec::new(),
    };
    StateFile::create(folder.state(), state)
}

/// Makes the nodes' cgroups and the bpffs, where the state says so; gives the lab's cgroup.
fn places_for_ebpf(
    folder: &Folder,
    topology: &Topology,
    state: &StateFile,
) -> anyhow::Result<Option<PathBuf>> {
    let Some(cgroup) = state.read(|state| state.cgroup.clone()) else {
        return Ok(None);
    };
    cgroups::make(&cgroup, topology)?;
    let bpffs = folder.bpffs();
    std::fs::create_dir(&bpffs)?;
    let (kind, data) = (Some("bpf"), Some("mode=0700"));
    nix::mount::mount(kind, &bpffs, kind, MsFlags::empty(), data)
        .with_context(|| format!("mode ebpf: mounting a bpffs at {}", bpffs.display()))?;
    Ok(Some(cgroup))
}

fn serve_dns(folder: &Folder, topology: &Topology, store: Store) -> anyhow::Result<ClusterDns> {
    let mut dns = ClusterDns::start(store, CLUSTER_DOMAIN)?;
    let address = control_address(topology, DNS_PORT)?;
    let sockets = on_control(folder, topology, move || -> std::io::Result<_> {
        Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?))
    })?;
    let (udp, tcp) = sockets.with_context(|| format!("listening on {address}"))?;
    dns.serve(udp, tcp)?;
    Ok(dns)
}

fn control_address(topology: &Topology, port: u16) -> anyhow::Result<SocketAddr> {
    let control = topology.nodes.first().context("a topology without nodes")?;
    Ok(SocketAddr::new(control.addresses.v4.into(), port))
}

fn on_control<T: Send>(
    folder: &Folder,
    topology: &Topology,
    work: impl FnOnce() -> T + Send,
) -> anyhow::Result<T> {
    let control = topology.nodes.first().context("a topology without nodes")?;
    Ok(NetNs::open(folder.netns().join(&control.name))?.run(work)?)
}

fn start_proxies(
    folder: &Folder,
    topology: &Topology,
    settings: &Settings,
    cgroup: Option<&Path>,
    spawner: &Spawner,
    state: &Arc<StateFile>,
    runtime: &Handle,
) -> anyhow::Result<()> {
    let Some(program) = &settings.proxy else {
        return Ok(());
    };
    let keepers: Vec<Keeper> = topology
        .nodes
        .iter()
        .map(|node| Keeper {
            folder: folder.clone(),
            node: node.name.clone(),
            cgroup: cgroup.map(|lab| lab.join(&node.name)),
            program: program.clone(),
            spawner: spawner.clone(),
            state: state.clone(),
        })
        .collect();
    for keeper in &keepers {
        runtime.spawn(keeper.clone().keep());
    }
    keepers.iter().try_for_each(Keeper::wait_first_sync)
}

/// Starts a watcher over when it fell behind the history.
async fn restarted<F: Future<Output = Result<(), Refusal>>>(name: &str, run: impl Fn() -> F) {
    loop {
        if let Err(refusal) = run().await {
            tracing::warn!(%refusal, "{name} starts over");
        }
    }
}
