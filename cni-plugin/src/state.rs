//! `state`: what this node holds for pods, out of the reservations and the kernel's own tables.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Code, Error, check_network_name};
use nodekit::route::Handle;
use serde_json::{Value, json};

use crate::command_line::Given;
use crate::failure;
use crate::host_local;
use crate::identity::HostEnd;
use crate::portmap::{self, Listed};
use crate::tables::{Tables, network_tag};

/// What one attachment has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pod {
    network: String,
    container_id: String,
    ifname: String,
    addresses: Vec<IpAddr>,
    /// The host's end, where it is in this namespace.
    interface: Option<String>,
    ports: Vec<Listed>,
}

impl Pod {
    fn to_json(&self) -> Value {
        json!({
            "network": self.network,
            "containerID": self.container_id,
            "ifname": self.ifname,
            "interface": self.interface,
            "addresses": self.addresses,
            "ports": self.ports.iter().map(Listed::to_json).collect::<Vec<_>>(),
        })
    }
}

/// Lists everything, as a table or as JSON.
///
/// # Errors
/// Code 5 when the reservations cannot be read, 100 when the kernel refuses.
pub(crate) fn print(given: &Given) -> Result<String, Error> {
    let folder = given
        .path("--data-dir")
        .unwrap_or_else(|| host_local::DEFAULT_DATA_DIR.into());
    let pods = pods(&folder)?;
    if given.is_on("--json") {
        let pods: Value = pods.iter().map(Pod::to_json).collect();
        return Ok(format!("{pods:#}\n"));
    }
    Ok(table::render(&pods))
}

fn pods(folder: &Path) -> Result<Vec<Pod>, Error> {
    let links: BTreeSet<_> = Handle::open()
        .and_then(|mut route| route.links())
        .map_err(failure::kernel)?
        .into_iter()
        .map(|link| link.name)
        .collect();
    let mut pods: BTreeMap<Identity, Pod> = BTreeMap::new();
    for network in networks(folder)? {
        for held in host_local::reservations(&folder.join(&network))? {
            // Old reservations are of any interface; runtimes know the one.
            let ifname = held.ifname.unwrap_or_else(|| "eth0".to_owned());
            let key = (network.clone(), held.container_id, ifname);
            pods.entry(key).or_default().addresses.push(held.address);
        }
    }
    add_ports(&mut pods)?;
    let known = pods
        .into_iter()
        .map(|((network, container_id, ifname), pod)| {
            let end = Attachment::new(&container_id, &ifname).map(|by| HostEnd::of(&by).name);
            Pod {
                interface: end.ok().filter(|name| links.contains(name)),
                network,
                container_id,
                ifname,
                ..pod
            }
        });
    let mut pods: Vec<_> = known.collect();
    for pod in &mut pods {
        pod.addresses.sort();
        pod.ports.sort_by_key(ToString::to_string);
    }
    Ok(pods)
}

/// What identifies an attachment: network, container id, interface.
type Identity = (String, String, String);

/// Ports, by the tables. Pods whose addresses came from elsewhere are found there alone, with the
/// network's name as the tables have it.
fn add_ports(pods: &mut BTreeMap<Identity, Pod>) -> Result<(), Error> {
    let mut tables = Tables::open()?;
    // A kernel without tables has no ports in them.
    if tables.probe().is_err() {
        return Ok(());
    }
    for (owner, port) in portmap::listed(&mut tables)? {
        let Attachment {
            container_id,
            ifname,
        } = owner.attachment();
        let known = pods.keys().find(|(network, id, name)| {
            (id, name) == (container_id, ifname) && network_tag(network) == owner.network()
        });
        let key = known.cloned().unwrap_or_else(|| {
            let network = owner.network().to_owned();
            (network, container_id.clone(), ifname.clone())
        });
        pods.entry(key).or_default().ports.push(port);
    }
    Ok(())
}

/// The networks that have a folder of reservations.
fn networks(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |error| {
        let message = format!("cannot list {}: {error}", folder.display());
        Error::new(Code::IO, message)
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if check_network_name(&name).is_ok() && entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
