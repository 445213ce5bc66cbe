//! The sockets that `connect` sent to an endpoint, out of the pinned maps, whether a daemon runs or
//! not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use causeway_ebpf_abi::{Connected, maps};
use lb_model::Protocol;
use serde::Serialize;

use super::entries::{Entry, socket_address};
use super::sockets::failed;
use super::{Error, pins};

/// Every one, by protocol and cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HeldSockets(Vec<HeldSocket>);

/// A socket, and whom it talks to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldSocket {
    /// Its protocol.
    pub protocol: String,
    /// `SO_COOKIE`; `ss --extended` shows it as `sk`.
    pub cookie: u64,
    /// The cookie of its network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// What it believes to talk to.
    pub frontend: SocketAddr,
    /// Whom it talks to.
    pub backend: SocketAddr,
}

impl HeldSockets {
    /// Reads the maps that are pinned in `pins`. Sockets that come or go meanwhile may be missing.
    ///
    /// # Errors
    /// There are none of this layout, or they may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let folder = pins::maps(pins);
        std::fs::metadata(&folder).map_err(pins::failed("the maps of mode ebpf in", &folder))?;
        let mut all = Vec::new();
        for (protocol, name) in [
            (Protocol::Tcp, maps::CONNECTED_TCP),
            (Protocol::Udp, maps::CONNECTED_UDP),
        ] {
            let data = MapData::from_pin(folder.join(name)).and_then(Map::from_map_data);
            let map: HashMap<_, u64, Entry<Connected>> =
                data.and_then(HashMap::try_from).map_err(failed(name))?;
            // A walk over a map that changes may meet an entry twice.
            let mut found = BTreeMap::new();
            for entry in &map {
                let (cookie, Entry(socket)) = entry.map_err(failed(name))?;
                found.insert(cookie, socket);
            }
            let sockets = found.into_iter();
            all.extend(sockets.map(|(cookie, socket)| held(protocol, cookie, &socket)));
        }
        Ok(Self(all))
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &HeldSocket> {
        self.0.iter()
    }
}

fn held(protocol: Protocol, cookie: u64, socket: &Connected) -> HeldSocket {
    let Connected {
        netns,
        frontend,
        backend,
    } = socket;
    HeldSocket {
        protocol: protocol.to_string(),
        cookie,
        netns_cookie: *netns,
        frontend: socket_address(frontend.address, frontend.port),
        backend: socket_address(backend.address, backend.port),
    }
}

/// A line for each socket.
impl fmt::Display for HeldSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "PROTOCOL  COOKIE  NETNS  FRONTEND  BACKEND")?;
        for socket in self.iter() {
            let HeldSocket {
                protocol,
                cookie,
                netns_cookie,
                frontend,
                backend,
            } = socket;
            writeln!(
                f,
                "{protocol:<8}  {cookie:x}  {netns_cookie}  {frontend}  {backend}"
            )?;
        }
        Ok(())
    }
}
