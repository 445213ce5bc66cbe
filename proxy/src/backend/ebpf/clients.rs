//! Clients that stay with their endpoint (session affinity), out of the pinned maps, whether a
//! daemon runs or not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use causeway_ebpf_abi::{Affinity, AffinityKey, ClientKey, Frontend, FrontendKey, maps};
use serde::Serialize;

use super::Error;
use super::entries::{ip, monotonic, socket_address};
use super::pinned::{Pinned, protocol_name};
use super::table::Table;

const NANOSECONDS: u64 = 1_000_000_000;

/// Every one, by frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Clients(Vec<RememberedClient>);

/// A client of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RememberedClient {
    /// What it connects to.
    pub frontend: SocketAddr,
    /// The frontend's protocol.
    pub protocol: String,
    /// Who it is.
    pub client: Client,
    /// Where it belongs.
    pub backend: SocketAddr,
    /// For how many seconds yet, if it doesn't connect again.
    pub seconds_left: u64,
}

/// Who is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Client {
    /// All sockets of a network namespace of this node, by its cookie (`SO_NETNS_COOKIE`).
    NetnsCookie(u64),
    /// The source of packets.
    Address(IpAddr),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetnsCookie(cookie) => write!(f, "netns {cookie}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Clients {
    /// Reads the maps that are pinned in `pins`. Who has been away for too long is not said, nor is
    /// who was remembered by a frontend that is gone.
    ///
    /// # Errors
    /// There are none of this layout, or they may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let pinned = Pinned::open(pins)?;
        let frontends = pinned.entries::<FrontendKey, Frontend>(maps::FRONTENDS)?;
        let frontends = frontends.into_iter();
        let frontends: BTreeMap<_, _> = frontends.map(|(key, one)| (one.set, (key, one))).collect();
        let sockets = pinned.entries::<AffinityKey, Affinity>(maps::AFFINITY)?;
        let sockets = sockets
            .into_iter()
            .map(|(key, known)| (key.set, Client::NetnsCookie(key.netns), known));
        let packets = pinned.entries::<ClientKey, Affinity>(maps::CLIENTS)?;
        let packets = packets
            .into_iter()
            .map(|(key, known)| (key.set, Client::Address(ip(key.address)), known));
        let now = monotonic();
        let all = sockets.chain(packets).filter_map(|(set, client, known)| {
            let (key, frontend) = frontends.get(&set)?;
            remembered(key, frontend, client, &known, now)
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|one| (one.frontend, one.protocol.clone(), one.client));
        Ok(Self(all))
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &RememberedClient> {
        self.0.iter()
    }
}

fn remembered(
    key: &FrontendKey,
    frontend: &Frontend,
    client: Client,
    known: &Affinity,
    now: u64,
) -> Option<RememberedClient> {
    let lasts = u64::from(frontend.affinity_seconds) * NANOSECONDS;
    let left = lasts.checked_sub(now.saturating_sub(known.seen))?;
    Some(RememberedClient {
        frontend: socket_address(key.address, key.port),
        protocol: protocol_name(key.protocol),
        client,
        backend: socket_address(known.backend.address, known.backend.port),
        seconds_left: left / NANOSECONDS,
    })
}

/// A line for each client.
impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 5] = ["FRONTEND", "PROTOCOL", "CLIENT", "BACKEND", "LEFT"];
        let cells = |one: &RememberedClient| {
            [
                one.frontend.to_string(),
                one.protocol.clone(),
                one.client.to_string(),
                one.backend.to_string(),
                format!("{}s", one.seconds_left),
            ]
        };
        Table::new(HEAD, self.iter().map(cells)).fmt(f)
    }
}
