//! What the kernels of the lab's machines themselves say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use netns_lab::Lab;
use nodekit::conntrack::{ConntrackSocket, Entry, Family, Transport, Tuple};
use nodekit::netns::NetNsDir;
use nodekit::nft::{self, Data, NftSocket};
use nodekit::route::Handle;

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

/// Waits until a node's proxy has (or no longer has) this pod in its maps; gives when it was
/// first seen to be so.
pub(super) fn wait_programmed(
    lab: &Lab,
    node: &str,
    pod: Ipv4Addr,
    wanted: bool,
    limit: Duration,
) -> anyhow::Result<SystemTime> {
    lab.netns(node)?.run(|| {
        let mut socket = NftSocket::open()?;
        let deadline = SystemTime::now() + limit;
        loop {
            let known = knows(&mut socket, pod)?;
            let now = SystemTime::now();
            if known == wanted {
                return Ok(now);
            }
            let verb = if wanted { "takes up" } else { "lets go of" };
            anyhow::ensure!(now < deadline, "waited {limit:?} until {node} {verb} {pod}");
            std::thread::sleep(Duration::from_millis(1));
        }
    })?
}

fn knows(socket: &mut NftSocket, pod: Ipv4Addr) -> anyhow::Result<bool> {
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
