//! The connections whose packets are translated, out of the pinned maps, whether a daemon runs or
//! not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use causeway_ebpf_abi::{Track, Tuple, maps};
use serde::Serialize;

use super::Error;
use super::entries::{monotonic, socket_address};
use super::pinned::{Pinned, protocol_name};
use super::table::{Table, or_dash};

const NANOSECONDS: u64 = 1_000_000_000;

/// Every one, by protocol and client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tracked(Vec<TrackedConnection>);

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackedConnection {
    /// Its protocol.
    pub protocol: String,
    /// Who began it.
    pub client: SocketAddr,
    /// What the client believes to talk to.
    pub frontend: SocketAddr,
    /// Whom it talks to.
    pub backend: SocketAddr,
    /// The node's address and port, under which the backend sees it; none: the client's own.
    pub masqueraded_as: Option<SocketAddr>,
    /// Its packets are sent to the backend's node as they come, and answers go from there to the
    /// client, so that none is seen here.
    pub direct: bool,
    /// How far it is.
    pub state: State,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
    /// Packets of the client.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Packets of the backend.
    pub answer_packets: u64,
    /// Their bytes.
    pub answer_bytes: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Not answered yet.
    Unanswered,
    /// Answered.
    Answered,
    /// One side said that it is done (FIN).
    Closing,
    /// Both did, or it was reset.
    Closed,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Answered => "answered",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }

    const fn of(forward: &Track, back: Option<&Track>) -> Self {
        let (flags, answered) = match back {
            Some(back) => (back.flags, back.packets > 0),
            None => (0, forward.flags & Track::ANSWERED != 0),
        };
        let finished = (
            forward.flags & Track::FINISHED != 0,
            flags & Track::FINISHED != 0,
        );
        match finished {
            _ if (forward.flags | flags) & Track::RESET != 0 => Self::Closed,
            (true, true) => Self::Closed,
            (true, false) | (false, true) => Self::Closing,
            (false, false) if answered => Self::Answered,
            (false, false) => Self::Unanswered,
        }
    }
}

impl Tracked {
    /// Reads the map that is pinned in `pins`. Connections that begin or end meanwhile may be
    /// missing.
    ///
    /// # Errors
    /// There is none of this layout, or it may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let tracks = Pinned::open(pins)?.entries(maps::TRACKS)?;
        let mut all: Vec<_> = connections(&tracks, monotonic()).collect();
        all.sort_by(|a, b| (&a.protocol, a.client).cmp(&(&b.protocol, b.client)));
        Ok(Self(all))
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &TrackedConnection> {
        self.0.iter()
    }
}

fn connections(
    tracks: &BTreeMap<Tuple, Track>,
    now: u64,
) -> impl Iterator<Item = TrackedConnection> {
    let forward = tracks.iter();
    let forward = forward.filter(|(_, track)| track.flags & Track::ANSWER == 0);
    forward.map(move |(tuple, track)| {
        let back = track.partner().and_then(|partner| tracks.get(&partner));
        connection(tuple, track, back, now)
    })
}

fn connection(tuple: &Tuple, track: &Track, back: Option<&Track>, now: u64) -> TrackedConnection {
    let source = |tuple: &Tuple| socket_address(tuple.source, tuple.source_port);
    let destination = |tuple: &Tuple| socket_address(tuple.destination, tuple.destination_port);
    let (client, backend_sees) = (source(tuple), source(&track.becomes));
    let seen = track.seen.max(back.map_or(0, |back| back.seen));
    TrackedConnection {
        protocol: protocol_name(tuple.protocol),
        client,
        frontend: destination(tuple),
        backend: destination(&track.becomes),
        masqueraded_as: (backend_sees != client).then_some(backend_sees),
        direct: track.is_direct(),
        state: State::of(track, back),
        idle_seconds: now.saturating_sub(seen) / NANOSECONDS,
        packets: track.packets,
        bytes: track.bytes,
        answer_packets: back.map_or(0, |back| back.packets),
        answer_bytes: back.map_or(0, |back| back.bytes),
    }
}

/// A line for each connection.
impl fmt::Display for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 9] = [
            "PROTOCOL",
            "CLIENT",
            "FRONTEND",
            "BACKEND",
            "MASQUERADED",
            "STATE",
            "IDLE",
            "PACKETS",
            "BYTES",
        ];
        let cells = |one: &TrackedConnection| {
            [
                one.protocol.clone(),
                one.client.to_string(),
                one.frontend.to_string(),
                one.backend.to_string(),
                match one.masqueraded_as {
                    None if one.direct => "direct".to_owned(),
                    address => or_dash(address),
                },
                one.state.name().to_owned(),
                format!("{}s", one.idle_seconds),
                format!("{}/{}", one.packets, one.answer_packets),
                format!("{}/{}", one.bytes, one.answer_bytes),
            ]
        };
        Table::new(HEAD, self.iter().map(cells)).fmt(f)
    }
}
