//! The sockets that `connect` sent to an endpoint, out of the pinned maps, whether a daemon runs or
//! not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use causeway_ebpf_abi::{Connected, maps};
use lb_model::Protocol;
use serde::Serialize;

use super::Error;
use super::entries::{Entry, socket_address};
use super::pinned::{Opened, Pinned};
use super::sockets::failed;
use super::table::Table;

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
        let pinned = Pinned::open(pins)?;
        let mut all = Vec::new();
        for (protocol, name) in [
            (Protocol::Tcp, maps::CONNECTED_TCP),
            (Protocol::Udp, maps::CONNECTED_UDP),
        ] {
            let map: Opened<u64, Entry<Connected>> = pinned.map(name)?;
            // A walk over a map that changes may meet an entry twice.
            let mut found = BTreeMap::new();
            for entry in &map {
                let (cookie, Entry(socket)) = entry.map_err(failed(name))?;
                if socket != Connected::ENDED {
                    found.insert(cookie, socket);
                }
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
        const HEAD: [&str; 5] = ["PROTOCOL", "COOKIE", "NETNS", "FRONTEND", "BACKEND"];
        let cells = |socket: &HeldSocket| {
            [
                socket.protocol.clone(),
                format!("{:x}", socket.cookie),
                socket.netns_cookie.to_string(),
                socket.frontend.to_string(),
                socket.backend.to_string(),
            ]
        };
        Table::new(HEAD, self.iter().map(cells)).fmt(f)
    }
}
