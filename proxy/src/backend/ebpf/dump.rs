//! What is in the pinned maps, whether a daemon runs or not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use causeway_ebpf_abi::{Backend, Frontend, FrontendKey, Plain, SlotKey, maps};
use lb_model::Protocol;
use serde::Serialize;

use super::entries::{Entry, socket_address};
use super::sockets::{failed, is_missing};
use super::{Error, pins};

/// Every frontend, by address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Dump(Vec<Dumped>);

/// A frontend and its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dumped {
    frontend: SocketAddr,
    protocol: String,
    /// 0: none.
    affinity_seconds: u32,
    /// Only for sockets of the node's own network namespace.
    node_only: bool,
    /// The Service is with nftables.
    left_to_nftables: bool,
    /// None: calls are refused, unless the Service is with nftables.
    backends: Vec<SocketAddr>,
}

impl Dump {
    /// Reads the maps that are pinned in `pins`. A daemon may change them meanwhile: a frontend is
    /// then as it was before or after.
    ///
    /// # Errors
    /// There are none of this layout, or they may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let folder = pins::maps(pins);
        std::fs::metadata(&folder).map_err(pins::failed("the maps of mode ebpf in", &folder))?;
        let frontends = open::<FrontendKey, Frontend>(&folder, maps::FRONTENDS)?;
        let backends = open::<SlotKey, Backend>(&folder, maps::BACKENDS)?;
        // A walk over a map that changes may meet an entry twice.
        let mut found = BTreeMap::new();
        for key in frontends.keys() {
            let key = key.map_err(failed(maps::FRONTENDS))?;
            let entry = present(frontends.get(&key, 0)).map_err(failed(maps::FRONTENDS))?;
            if let Some(Entry(frontend)) = entry {
                let dumped = dumped(key.0, frontend, &backends).map_err(failed(maps::BACKENDS))?;
                found.insert(key.0, dumped);
            }
        }
        Ok(Self(found.into_values().collect()))
    }
}

type Opened<K, V> = HashMap<MapData, Entry<K>, Entry<V>>;

fn open<K: Plain, V: Plain>(folder: &Path, name: &'static str) -> Result<Opened<K, V>, Error> {
    let data = MapData::from_pin(folder.join(name)).and_then(Map::from_map_data);
    data.and_then(HashMap::try_from).map_err(failed(name))
}

fn dumped(
    key: FrontendKey,
    frontend: Frontend,
    backends: &Opened<SlotKey, Backend>,
) -> Result<Dumped, MapError> {
    let Frontend { set, count, .. } = frontend;
    let mut found = Vec::new();
    for slot in 0..count {
        if let Some(Entry(backend)) = present(backends.get(&Entry(SlotKey { set, slot }), 0))? {
            found.push(socket_address(backend.address, backend.port));
        }
    }
    let known = [Protocol::Tcp, Protocol::Udp];
    let protocol = known.iter().find(|known| known.number() == key.protocol);
    Ok(Dumped {
        frontend: socket_address(key.address, key.port),
        protocol: protocol.map_or_else(|| key.protocol.to_string(), ToString::to_string),
        affinity_seconds: frontend.affinity_seconds,
        node_only: frontend.flags & Frontend::NODE_ONLY != 0,
        left_to_nftables: frontend.flags & (Frontend::SOCKETS | Frontend::PACKETS) == 0,
        backends: found,
    })
}

/// What went while it was looked for is not there.
fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A line for each frontend.
impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows =
            vec![["FRONTEND", "PROTOCOL", "AFFINITY", "FOR", "BACKENDS"].map(str::to_owned)];
        rows.extend(self.0.iter().map(Dumped::cells));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        for [frontend, protocol, affinity, whom, backends] in &rows {
            writeln!(
                f,
                "{frontend:<a$}  {protocol:<b$}  {affinity:<c$}  {whom:<d$}  {backends}",
                a = widths[0],
                b = widths[1],
                c = widths[2],
                d = widths[3],
            )?;
        }
        Ok(())
    }
}

impl Dumped {
    fn cells(&self) -> [String; 5] {
        let affinity = match self.affinity_seconds {
            0 => "-".to_owned(),
            seconds => format!("{seconds}s"),
        };
        let backends: Vec<String> = self.backends.iter().map(ToString::to_string).collect();
        let backends = match backends.as_slice() {
            [] if self.left_to_nftables => "left to nftables".to_owned(),
            [] => "none: refused".to_owned(),
            some => some.join(" "),
        };
        let whom = if self.node_only { "node" } else { "all" };
        [
            self.frontend.to_string(),
            self.protocol.clone(),
            affinity,
            whom.to_owned(),
            backends,
        ]
    }
}
