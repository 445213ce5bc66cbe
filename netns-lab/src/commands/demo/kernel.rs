//! What the kernels of the lab's machines themselves say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use netns_lab::{Lab, Settings};
use nodekit::conntrack::{ConntrackSocket, Entry, Family, Transport, Tuple};
use nodekit::netns::NetNsDir;
use nodekit::nft::{self, Data, NftSocket};
use nodekit::route::Handle;
use serde_json::Value;

/// TCP's number (`IPPROTO_TCP`).
const TCP: u8 = 6;
/// The proxy's table.
const TABLE: &str = "causeway";

/// The connection that a node tracks for this client's socket.
pub(super) fn connection(lab: &Lab, node: &str, client: SocketAddr) -> anyhow::Result<Entry> {
    let is_it = |entry: &Entry| {
        entry.original.source == client.ip() && source_port(&entry.original) == Some(client.port())
    };
    let entries = lab.netns(node)?.run(|| {
        ConntrackSocket::open().and_then(|mut socket| socket.list(Family::Ip, Some(TCP), is_it))
    })??;
    let entry = entries.into_iter().next();
    entry.with_context(|| format!("the kernel of {node} tracks no connection from {client}"))
}

fn source_port(tuple: &Tuple) -> Option<u16> {
    match tuple.transport {
        Transport::Ports { source, .. } => Some(source),
        _ => None,
    }
}

/// A direction of a connection in words.
pub(super) fn words(tuple: &Tuple) -> String {
    let Tuple {
        source,
        destination,
        transport,
        ..
    } = tuple;
    match transport {
        Transport::Ports {
            source: from,
            destination: to,
        } => {
            format!("{source}:{from} → {destination}:{to}")
        }
        _ => format!("{source} → {destination}"),
    }
}

/// Which of the lab's machines have an address, and how many were asked.
pub(super) fn who_has(lab: &Lab, address: IpAddr) -> anyhow::Result<(Vec<String>, usize)> {
    let names = NetNsDir::open(lab.folder().netns())?.names()?;
    let mut owners = Vec::new();
    for name in &names {
        let addresses = Handle::open_in(&lab.netns(name)?)?.addresses(None)?;
        if addresses.iter().any(|own| own.address.ip() == address) {
            owners.push(name.clone());
        }
    }
    Ok((owners, names.len()))
}

/// Where the proxies write what they know.
#[derive(Debug, Clone)]
pub(super) enum Plane {
    /// Into nf_tables.
    Tables,
    /// Into the maps of eBPF programs, which this proxy's binary can read.
    Maps(PathBuf),
}

impl Plane {
    pub(super) fn of(settings: &Settings) -> Self {
        match &settings.proxy {
            Some(proxy) if settings.mode == "ebpf" => Self::Maps(proxy.clone()),
            _ => Self::Tables,
        }
    }

    /// Waits until a node's proxy has (or no longer has) this pod in its maps; gives when it was
    /// first seen to be so.
    pub(super) fn wait_programmed(
        &self,
        lab: &Lab,
        node: &str,
        pod: Ipv4Addr,
        wanted: bool,
        limit: Duration,
    ) -> anyhow::Result<SystemTime> {
        let netns = lab.netns(node)?;
        let deadline = SystemTime::now() + limit;
        loop {
            let known = match self {
                Self::Tables => netns.run(|| tables_know(pod))??,
                Self::Maps(proxy) => maps_know(proxy, &lab.folder().pins(node), pod)?,
            };
            let now = SystemTime::now();
            if known == wanted {
                return Ok(now);
            }
            let verb = if wanted { "takes up" } else { "lets go of" };
            anyhow::ensure!(now < deadline, "waited {limit:?} until {node} {verb} {pod}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn maps_know(proxy: &Path, pins: &Path, pod: Ipv4Addr) -> anyhow::Result<bool> {
    let mut dump = Command::new(proxy);
    dump.args(["ebpf", "dump", "--json", "--ebpf-pin-dir"])
        .arg(pins);
    let output = dump.output().context("reading a node's eBPF maps")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "reading a node's eBPF maps: {said}"
    );
    let frontends: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let backends = frontends
        .iter()
        .filter_map(|one| one["backends"].as_array());
    let mut backends = backends.flatten().filter_map(Value::as_str);
    Ok(backends.any(|one| one.parse().is_ok_and(|one: SocketAddr| one.ip() == pod)))
}

fn tables_know(pod: Ipv4Addr) -> anyhow::Result<bool> {
    let mut socket = NftSocket::open()?;
    let family = nft::Family::Ip;
    for set in socket.sets(family, TABLE)? {
        for element in socket.elements(family, TABLE, &set.name)? {
            if let Some(Data::Value(value)) = element.data
                && value.bytes().starts_with(&pod.octets())
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
